// SPDX-License-Identifier: MIT
#include "policy/scale_rules.h"

#include <fmt/format.h>

#include <algorithm>

namespace dirigent::policy {

namespace {

// A start that nobody waits for any more is given up after this long: the default of `start_timeout`.
constexpr Duration kActivationMax = 60s;

}  // namespace

ScaleBounds scale_bounds(const ScaleRules& rules) {
  const bool reachable = rules.reachability != Reachability::unreachable;
  std::uint32_t min = reachable ? rules.min_scale : 0;
  if (reachable && rules.initial_scale > 1 && !rules.initial_reached) min = std::max(min, rules.initial_scale);
  return {min, rules.max_scale};
}

std::uint32_t clamp_to(const ScaleBounds& bounds, std::uint32_t value) {
  const std::uint32_t raised = std::max(value, bounds.min);
  return bounds.max == 0 ? raised : std::min(raised, bounds.max);
}

std::uint32_t ready_needed(const ScaleRules& rules) {
  if (!rules.initial_reached) return std::max(rules.min_scale, rules.initial_scale);
  return std::max<std::uint32_t>(1, rules.min_scale);
}

Activity next_activity(Activity activity, std::optional<std::uint32_t> wanted, std::uint32_t ready,
                       std::uint32_t needed) {
  if (wanted == 0U) return Activity::inactive;
  if (!wanted && (activity == Activity::inactive || needed == 0)) return Activity::inactive;
  return ready < needed ? Activity::activating : Activity::active;
}

namespace {

// The wish is zero and scaling to zero is allowed.
ScaleOutcome leave(const ScaleRules& rules, const ScaleSituation& situation) {
  const bool reachable = rules.reachability != Reachability::unreachable;
  switch (situation.activity) {
    case Activity::activating:
      if (situation.in_activity > rules.activation_max)
        return {0, true, "given up: not ready in time and not wanted any more"};
      return {std::nullopt, false, "still starting"};
    case Activity::active:
      if (situation.in_activity >= rules.stable_window) return {0, false, "idle for the window"};
      return {1, true, "one is kept until the window is over"};
    case Activity::inactive: break;
  }
  const Duration needed = std::max(rules.grace, reachable ? rules.retention : Duration::zero());
  const Duration waited = std::max(situation.in_activity, situation.proxied);
  if (situation.proxy_ready && waited >= needed) return {0, true, "scaled to zero"};
  return {0, false, rules.grace >= needed ? "kept for the grace period" : "last sandbox retained"};
}

}  // namespace

ScaleOutcome apply_scale_rules(const ScaleRules& rules, const ScaleSituation& situation) {
  if (!situation.wanted && situation.activity != Activity::activating) return {std::nullopt, false, "no data"};
  const std::uint32_t wanted = situation.wanted.value_or(0);
  const std::uint32_t bounded = clamp_to(scale_bounds(rules), wanted);
  std::string_view rule = bounded > wanted ? "raised to the minimum" : bounded < wanted ? "cut to the maximum" : "";
  if (bounded == 0 && !rules.scale_to_zero) return {1, situation.present != 1, "scale to zero is off"};
  if (bounded > 0) return {bounded, bounded != situation.present, rule};
  ScaleOutcome outcome = leave(rules, situation);
  if (outcome.apply && outcome.desired == situation.present) outcome.apply = false;
  return outcome;
}

// --- ScaleGuard ---------------------------------------------------------------------------------------------------

ScaleGuard::ScaleGuard(const ScalingSettings& settings, std::uint32_t ready, Instant now)
    : since_(now), initial_reached_(ready >= settings.initial_scale) {
  const std::uint32_t wanted_at_once = std::max(settings.min_scale, settings.initial_scale);
  activity_ = ready > 0 ? Activity::active : wanted_at_once > 0 ? Activity::activating : Activity::inactive;
}

ScaleRules ScaleGuard::rules(const ScalingSettings& settings, const ScalingInput& input) const {
  return {.min_scale = settings.min_scale,
          .max_scale = settings.max_scale,
          .initial_scale = settings.initial_scale,
          .initial_reached = initial_reached_,
          .reachability = input.reachable ? Reachability::reachable : Reachability::unreachable,
          .scale_to_zero = settings.scale_to_zero,
          .stable_window = settings.stable_window,
          .grace = settings.scale_to_zero_grace,
          .retention = settings.last_sandbox_retention,
          .activation_max = kActivationMax};
}

void ScaleGuard::settle(Activity activity, Instant now) {
  if (activity == activity_) return;
  activity_ = activity;
  since_ = now;
}

// Bounds hold without any load, too: a function with a minimum has it from its first look on.
void ScaleGuard::decide_without_data(const ScaleRules& rules, ScalingDecision& decision) const {
  ScaleBounds bounds = scale_bounds(rules);
  // An initial scale of one is not a bound of apply_scale_rules (any wish implies it), but without a wish it must be
  // kept.
  if (decision.input.reachable && !initial_reached_) bounds.min = std::max(bounds.min, rules.initial_scale);
  const std::uint32_t present = decision.input.ready + decision.input.starting;
  const std::uint32_t bounded = clamp_to(bounds, present);
  decision.raw = present;
  if (bounded == present) {
    decision.desired = std::nullopt;
    decision.note = "no data";
    return;
  }
  decision.desired = bounded;
  decision.note = bounded > present ? fmt::format("min scale {}", bounds.min) : fmt::format("max scale {}", bounds.max);
}

void ScaleGuard::apply(const ScalingSettings& settings, std::optional<std::uint32_t> wished, ScalingDecision& decision) {
  const ScalingInput& input = decision.input;
  if (input.ready >= settings.initial_scale) initial_reached_ = true;
  const ScaleRules now_rules = rules(settings, input);
  const std::uint32_t present = input.ready + input.starting;
  const std::uint32_t needed = ready_needed(now_rules);
  if (!wished) {
    decide_without_data(now_rules, decision);
    settle(next_activity(activity_, wished, input.ready, needed), input.now);
    return;
  }
  decision.raw = *wished;
  if (*wished > 0) settle(next_activity(activity_, wished, input.ready, needed), input.now);
  // Twice: the pass that finds the window over marks the function inactive, and a grace of nothing ends in the next
  // one.
  for (int pass = 0;; ++pass) {
    const ScaleOutcome outcome = apply_scale_rules(now_rules, {.wanted = wished,
                                                               .present = present,
                                                               .activity = activity_,
                                                               .in_activity = input.now - since_,
                                                               .proxied = Duration::zero(),
                                                               .proxy_ready = true});
    if (outcome.desired == 0U && !outcome.apply && present > 0) {
      if (activity_ == Activity::active && pass == 0) {
        settle(Activity::inactive, input.now);
        continue;
      }
      decision.desired = 1;
    } else {
      decision.desired = outcome.desired;
    }
    // One that is only kept is not wanted: it stays inactive, or the grace would never end.
    if (outcome.desired) settle(next_activity(activity_, outcome.desired, input.ready, needed), input.now);
    if (outcome.rule == "raised to the minimum") {
      decision.note = fmt::format("min scale {}", scale_bounds(now_rules).min);
    } else if (outcome.rule == "cut to the maximum") {
      decision.note = fmt::format("max scale {}", settings.max_scale);
    } else if (!outcome.rule.empty()) {
      decision.note = outcome.rule;
    }
    return;
  }
}

}  // namespace dirigent::policy
