// SPDX-License-Identifier: MIT
//
// What happens to a wish on its way to a decision: initial scale, bounds, and the rules of the last sandbox. The first
// part is Knative's, pure, and driven by the golden cases of group K; ScaleGuard is how all autoscalers here apply it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "dirigent/base/time.h"
#include "dirigent/model/scaling.h"
#include "dirigent/policy/autoscaler.h"

namespace dirigent::policy {

// Whether a function can serve: `activating` while something is wanted and too little is ready.
enum class Activity { inactive, activating, active };
enum class Reachability { unknown, reachable, unreachable };

struct ScaleRules {
  std::uint32_t min_scale = 0;
  std::uint32_t max_scale = 0;  // 0 = no limit
  std::uint32_t initial_scale = 1;
  bool initial_reached = false;
  Reachability reachability = Reachability::unknown;
  bool scale_to_zero = true;
  Duration stable_window = 60s;
  Duration grace = 30s;            // the buffering proxy must have been in the path for this long
  Duration retention{};            // of the last sandbox
  Duration activation_max = 630s;  // progress deadline and its buffer
};
struct ScaleSituation {
  std::optional<std::uint32_t> wanted;  // nullopt: no data
  std::uint32_t present = 0;
  Activity activity = Activity::active;
  Duration in_activity{};
  Duration proxied{};       // for how long the buffering proxy has been in the path
  bool proxy_ready = true;  // it answered its probe, or never leaves the path
};
struct ScaleOutcome {
  std::optional<std::uint32_t> desired;  // nullopt: unknown, keep what there is
  bool apply = false;                    // set the number of sandboxes to `desired`
  std::string_view rule;                 // what had the last word, "" when the wish stands
};
ScaleOutcome apply_scale_rules(const ScaleRules& rules, const ScaleSituation& situation);

struct ScaleBounds {
  std::uint32_t min;
  std::uint32_t max;  // 0 = no limit
};
// An unreachable function has no minimum; max stays.
ScaleBounds scale_bounds(const ScaleRules& rules);
std::uint32_t clamp_to(const ScaleBounds& bounds, std::uint32_t value);
// How many must be ready for `active`.
std::uint32_t ready_needed(const ScaleRules& rules);
Activity next_activity(Activity activity, std::optional<std::uint32_t> wanted, std::uint32_t ready,
                       std::uint32_t needed);

// The state of these rules for one function.
class ScaleGuard {
 public:
  ScaleGuard(const ScalingSettings& settings, std::uint32_t ready, Instant now);
  // Fills in `desired` and `note` of a decision from what the policy wished (nullopt: no data). `note` as it comes
  // names the rule of the policy itself and is replaced when a later rule has the last word. `settings`: the present ones.
  void apply(const ScalingSettings& settings, std::optional<std::uint32_t> wished, ScalingDecision& decision);

 private:
  [[nodiscard]] ScaleRules rules(const ScalingSettings& settings, const ScalingInput& input) const;
  void settle(Activity activity, Instant now);
  void decide_without_data(const ScaleRules& rules, ScalingDecision& decision) const;

  Activity activity_;
  Instant since_;
  bool initial_reached_;
};

}  // namespace dirigent::policy
