// SPDX-License-Identifier: MIT
//
// The autoscaler `scripted`: it replays a schedule instead of looking at the load. A baseline of perfect knowledge for
// experiments, and a way to bring a cluster to an exact size at an exact time in a test.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "dirigent/policy/autoscaler.h"

namespace dirigent::policy {

// From `at` (since the family made its first autoscaler) on, `scale` sandboxes are wanted.
struct ScriptStep {
  Duration at{};
  std::uint32_t scale = 0;
};
struct ScalingSchedule {
  // Used for functions that `functions` does not name. Empty: no opinion, what there is is kept.
  std::vector<ScriptStep> otherwise;
  std::map<FunctionName, std::vector<ScriptStep>> functions;
};

// Steps may come in any order; of two at the same time the later in the list counts. Before the first step nothing is
// decided. The bounds min_scale and max_scale hold here, too; nothing else of the settings is used.
std::unique_ptr<AutoscalerFamily> make_scripted_family(ScalingSchedule schedule);

}  // namespace dirigent::policy
