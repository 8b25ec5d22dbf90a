// SPDX-License-Identifier: MIT
#include "dirigent/model/scaling.h"

#include "dirigent/base/text.h"

namespace dirigent {

namespace {

const std::vector<std::string> kMetrics{"concurrency", "rps"};
const std::vector<std::string> kAggregations{"linear", "weighted-exponential"};
const std::vector<std::string> kReactions{"from-zero", "every-queue"};
const std::vector<std::string> kProfiles{"knative", "dirigent", "latency", "cost"};

template <class Enum>
Result<Enum> parse_word(std::string_view word, const std::vector<std::string>& words, std::string_view what) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == word) return static_cast<Enum>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown {} \"{}\"{}", what, word, did_you_mean_suffix(word, words));
}

Status in_range(std::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return {};
  return failure(ErrorCode::invalid_argument, "{} is {}, it must be in {}..{}", field, value, low, high);
}
Status in_range(std::string_view field, Duration value, Duration low, Duration high) {
  if (value < low || value > high) {
    return failure(ErrorCode::invalid_argument, "{} is {}, it must be in {}..{}", field, format_duration(value),
                   format_duration(low), format_duration(high));
  }
  return {};
}
Status whole_seconds(std::string_view field, Duration value) {
  if (value % 1s == Duration::zero()) return {};
  return failure(ErrorCode::invalid_argument, "{} is {}, it must be a whole number of seconds", field, format_duration(value));
}

ScalingProfile make_profile(std::string_view name) {
  ScalingSettings settings;
  if (name == "knative") {
    settings.scale_to_zero_grace = 30s;
    settings.reaction = Reaction::from_zero;
    return {"knative", settings, 0};
  }
  if (name == "dirigent") {
    settings.utilization_percent = 100;
    settings.reaction = Reaction::every_queue;
    return {"dirigent", settings, 1};
  }
  if (name == "cost") {
    settings.utilization_percent = 90;
    settings.stable_window = 30s;
    settings.reaction = Reaction::from_zero;
    return {"cost", settings, 0};
  }
  return {"latency", settings, 0};
}

}  // namespace

const std::vector<std::string>& scaling_profile_names() { return kProfiles; }

Result<ScalingProfile> scaling_profile(std::string_view name) {
  for (const auto& known : kProfiles) {
    if (known == name) return make_profile(known);
  }
  return failure(ErrorCode::invalid_argument, "unknown scaling profile \"{}\": use knative, dirigent, latency or cost{}", name,
                 did_you_mean_suffix(name, kProfiles));
}

Status validate(const ScalingSettings& s) {
  const Status checks[] = {
      in_range("scale_activation", s.activation_scale, 1, 1e6),
      in_range("warm", s.warm, 0, 1000),
      in_range("scale_target", s.target.value_or(1), 0.01, 1e9),
      in_range("scale_utilization_percent", s.utilization_percent, 1, 100),
      in_range("scale_window", s.stable_window, 6s, 3600s),
      whole_seconds("scale_window", s.stable_window),
      in_range("panic_window_percent", s.panic_window_percent, 1, 100),
      in_range("panic_threshold_percent", s.panic_threshold_percent, 110, 1000),
      in_range("target_burst_capacity", s.target_burst_capacity, -1, 1e9),
      in_range("scale_up_rate_max", s.scale_up_rate_max, 1.000001, 1e9),
      in_range("scale_down_rate_max", s.scale_down_rate_max, 1.000001, 1e9),
      in_range("scale_down_delay", s.scale_down_delay, 0s, 3600s),
      whole_seconds("scale_down_delay", s.scale_down_delay),
      in_range("last_sandbox_retention", s.last_sandbox_retention, 0s, 3600s),
      in_range("scale_to_zero_grace", s.scale_to_zero_grace, 0s, 3600s),
      in_range("look_interval", s.look_interval, 100ms, 60s),
  };
  for (const auto& status : checks) {
    if (!status) return status;
  }
  if (s.max_scale != 0 && s.min_scale > s.max_scale) {
    return failure(ErrorCode::invalid_argument, "scale_min is {}, above scale_max which is {}", s.min_scale, s.max_scale);
  }
  // An activation scale of one says nothing; a larger one must fit between the bounds.
  if (s.activation_scale > 1 && s.min_scale > s.activation_scale) {
    return failure(ErrorCode::invalid_argument, "scale_activation is {}, below scale_min which is {}", s.activation_scale, s.min_scale);
  }
  if (s.max_scale != 0 && s.activation_scale > s.max_scale) {
    return failure(ErrorCode::invalid_argument, "scale_activation is {}, above scale_max which is {}", s.activation_scale, s.max_scale);
  }
  if (s.max_scale != 0 && s.initial_scale > s.max_scale) {
    return failure(ErrorCode::invalid_argument, "scale_initial is {}, above scale_max which is {}", s.initial_scale, s.max_scale);
  }
  return {};
}

std::string_view to_string(ScalingMetric metric) { return kMetrics[static_cast<std::size_t>(metric)]; }
std::string_view to_string(Aggregation aggregation) { return kAggregations[static_cast<std::size_t>(aggregation)]; }
std::string_view to_string(Reaction reaction) { return kReactions[static_cast<std::size_t>(reaction)]; }
Result<ScalingMetric> parse_scaling_metric(std::string_view word) { return parse_word<ScalingMetric>(word, kMetrics, "scaling metric"); }
Result<Aggregation> parse_aggregation(std::string_view word) { return parse_word<Aggregation>(word, kAggregations, "aggregation"); }
Result<Reaction> parse_reaction(std::string_view word) { return parse_word<Reaction>(word, kReactions, "reaction"); }

}  // namespace dirigent
