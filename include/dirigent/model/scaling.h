// SPDX-License-Identifier: MIT
//
// The settings of autoscaling, one value per function. Names and ranges are Knative's where it has one
// (docs/policies.md); a profile is a plain list of these.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"

namespace dirigent {

enum class ScalingMetric { concurrency, rps };
enum class Aggregation { linear, weighted_exponential };
// When a decision is taken besides the regular look.
enum class Reaction {
  from_zero,    // Knative: only when a function without sandboxes gets its first request
  every_queue,  // whenever a request has to wait and the sandboxes ready or starting cannot take it
};

struct ScalingSettings {
  std::uint32_t min_scale = 0;
  std::uint32_t max_scale = 0;         // 0 = no limit
  std::uint32_t initial_scale = 0;     // kept until first reached after a revision is made
  std::uint32_t activation_scale = 1;  // least number when anything is wanted
  std::uint32_t warm = 0;              // started beside the wanted ones and kept unused until one more is wanted
  ScalingMetric metric = ScalingMetric::concurrency;
  Aggregation aggregation = Aggregation::linear;
  std::optional<double> target;          // per sandbox; default 100 in flight or 200 requests/s; >= 0.01
  double utilization_percent = 70;       // 1..100
  Duration stable_window = 60s;          // 6 s..1 h
  double panic_window_percent = 10;      // 1..100 of the stable window
  double panic_threshold_percent = 200;  // 110..1000
  double target_burst_capacity = 211;    // -1, 0 or more; informative here: the data plane always queues
  double scale_up_rate_max = 1000;       // > 1
  double scale_down_rate_max = 2;        // > 1
  Duration scale_down_delay{};           // 0..1 h
  Duration last_sandbox_retention{};     // 0..1 h
  Duration scale_to_zero_grace{};        // Knative has 30 s because its ingress is told late; ours is told first
  bool scale_to_zero = true;
  Duration look_interval = 2s;
  Reaction reaction = Reaction::every_queue;

  friend bool operator==(const ScalingSettings&, const ScalingSettings&) = default;
};

// `knative`: Knative's defaults. `dirigent`: the original's (one request at a time, 100 %, 60 s and 6 s windows).
// `latency`: react to every queued request. `cost`: shorter window, higher utilisation. Unknown: an error with a suggestion.
struct ScalingProfile {
  std::string_view name;
  ScalingSettings scaling;
  std::uint32_t concurrency_limit;  // 0 = no limit
};
Result<ScalingProfile> scaling_profile(std::string_view name);
const std::vector<std::string>& scaling_profile_names();

// Checks every range above; the error names the field, the value and its bounds.
Status validate(const ScalingSettings& settings);

std::string_view to_string(ScalingMetric metric);
std::string_view to_string(Aggregation aggregation);
std::string_view to_string(Reaction reaction);
Result<ScalingMetric> parse_scaling_metric(std::string_view word);
Result<Aggregation> parse_aggregation(std::string_view word);
Result<Reaction> parse_reaction(std::string_view word);

}  // namespace dirigent
