// SPDX-License-Identifier: MIT
#include "dirigent/sim/settings.h"

#include <functional>
#include <limits>
#include <map>

#include "dirigent/base/text.h"

namespace dirigent::sim {

namespace {

using Setter = std::function<Status(RevisionSpec&, std::string_view)>;

template <class Member>
Setter whole(Member member) {
  return [member](RevisionSpec& spec, std::string_view text) -> Status {
    const auto value = parse_integer(text);
    if (!value || *value < 0 || *value > std::numeric_limits<std::uint32_t>::max()) {
      return failure(ErrorCode::invalid_argument, "\"{}\" is not a whole number (0..4294967295)", text);
    }
    member(spec) = static_cast<std::uint32_t>(*value);
    return {};
  };
}

template <class Member>
Setter number(Member member) {
  return [member](RevisionSpec& spec, std::string_view text) -> Status {
    const auto value = parse_number(text);
    if (!value) return failure(ErrorCode::invalid_argument, "\"{}\" is not a number", text);
    member(spec) = *value;
    return {};
  };
}

// Anything with a parser that returns a Result.
template <class Member, class Parse>
Setter parsed(Member member, Parse parse) {
  return [member, parse](RevisionSpec& spec, std::string_view text) -> Status {
    auto value = parse(text);
    if (!value) return failure(value.error());
    member(spec) = *value;
    return {};
  };
}

Result<bool> parse_switch(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return failure(ErrorCode::invalid_argument, "\"{}\" is neither true nor false", text);
}

#define SCALING(field) [](RevisionSpec& spec) -> auto& { return spec.scaling.field; }

const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> all{
      {"min_scale", whole(SCALING(min_scale))},
      {"max_scale", whole(SCALING(max_scale))},
      {"initial_scale", whole(SCALING(initial_scale))},
      {"activation_scale", whole(SCALING(activation_scale))},
      {"warm", whole(SCALING(warm))},
      {"metric", parsed(SCALING(metric), parse_scaling_metric)},
      {"aggregation", parsed(SCALING(aggregation), parse_aggregation)},
      {"target", number(SCALING(target))},
      {"utilization_percent", number(SCALING(utilization_percent))},
      {"stable_window", parsed(SCALING(stable_window), parse_duration)},
      {"panic_window_percent", number(SCALING(panic_window_percent))},
      {"panic_threshold_percent", number(SCALING(panic_threshold_percent))},
      {"target_burst_capacity", number(SCALING(target_burst_capacity))},
      {"scale_up_rate_max", number(SCALING(scale_up_rate_max))},
      {"scale_down_rate_max", number(SCALING(scale_down_rate_max))},
      {"scale_down_delay", parsed(SCALING(scale_down_delay), parse_duration)},
      {"last_sandbox_retention", parsed(SCALING(last_sandbox_retention), parse_duration)},
      {"scale_to_zero_grace", parsed(SCALING(scale_to_zero_grace), parse_duration)},
      {"scale_to_zero", parsed(SCALING(scale_to_zero), parse_switch)},
      {"look_interval", parsed(SCALING(look_interval), parse_duration)},
      {"reaction", parsed(SCALING(reaction), parse_reaction)},
      {"concurrency_limit", whole([](RevisionSpec& spec) -> auto& { return spec.concurrency_limit; })},
      {"queue_depth", whole([](RevisionSpec& spec) -> auto& { return spec.limits.queue_depth; })},
      {"queue_timeout", parsed([](RevisionSpec& spec) -> auto& { return spec.limits.queue_timeout; }, parse_duration)},
      {"cpu", parsed([](RevisionSpec& spec) -> auto& { return spec.resources.cpu; }, parse_cpu)},
  };
  return all;
}

#undef SCALING

}  // namespace

Status apply_setting(RevisionSpec& spec, std::string_view text) {
  const auto equals = text.find('=');
  const std::string key(trim(text.substr(0, equals)));
  const auto found = setters().find(key);
  if (found == setters().end()) {
    std::vector<std::string> keys;
    for (const auto& [name, setter] : setters()) keys.push_back(name);
    return failure(ErrorCode::invalid_argument, "there is no setting \"{}\"{}", key, did_you_mean_suffix(key, keys));
  }
  if (equals == std::string_view::npos) return failure(ErrorCode::invalid_argument, "setting {} has no value (say {}=VALUE)", key, key);
  if (Status set = found->second(spec, trim(text.substr(equals + 1))); !set) return failure(set.error().within("setting " + key));
  return {};
}

}  // namespace dirigent::sim
