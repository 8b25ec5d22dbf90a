// SPDX-License-Identifier: MIT
#include "policy/kpa.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dirigent::policy {

namespace {

// More sandboxes than any cluster has; keeps every conversion from double defined.
constexpr double kSandboxesMax = std::numeric_limits<std::int32_t>::max();

std::uint32_t to_count(double value) { return static_cast<std::uint32_t>(std::clamp(value, 0.0, kSandboxesMax)); }

// First raised to `low`, then cut at `high`: the ceiling wins when they cross.
double between(double value, double low, double high) { return std::min(std::max(value, low), high); }

double excess_burst(const KpaSpec& spec, std::uint32_t ready, double panic) {
  if (spec.burst == 0) return 0;
  if (spec.burst > 0) return std::floor(static_cast<double>(ready) * spec.total - spec.burst - panic);
  return -1;
}

}  // namespace

KpaState kpa_start(std::uint32_t ready, Instant now) {
  KpaState state;
  state.panic_max = ready;
  if (ready > 1) state.panic_since = now;
  return state;
}

KpaResult kpa_decide(const KpaSpec& spec, KpaState& state, Instant now, std::uint32_t ready, double stable,
                     double panic) {
  KpaResult result;
  const double present = std::max(1.0, static_cast<double>(ready));
  result.ceiling = std::ceil(spec.up_rate * present);
  result.floor = spec.reachable ? std::floor(present / spec.down_rate) : 0;
  result.stable_wish = std::ceil(stable / spec.target);
  result.panic_wish = std::ceil(panic / spec.target);

  double by_stable = between(result.stable_wish, result.floor, result.ceiling);
  double by_panic = between(result.panic_wish, result.floor, result.ceiling);
  if (spec.activation_scale > 1) {
    // May go above the ceiling: it is the least with which the function works at all.
    if (result.stable_wish > 0) by_stable = std::max(by_stable, static_cast<double>(spec.activation_scale));
    if (result.panic_wish > 0) by_panic = std::max(by_panic, static_cast<double>(spec.activation_scale));
  }

  if (result.panic_wish / present >= spec.panic_threshold) {
    state.panic_since = now;
  } else if (state.panic_since && *state.panic_since + spec.stable_window < now) {
    state.panic_since.reset();
    state.panic_max = 0;
  }
  result.panicking = state.panic_since.has_value();

  std::uint32_t desired = to_count(by_stable);
  if (result.panicking) {
    desired = std::max(desired, to_count(by_panic));
    result.held_by_panic = state.panic_max > desired;
    state.panic_max = std::max(state.panic_max, desired);
    desired = state.panic_max;
  }
  if (spec.scale_down_delay <= Duration::zero()) {
    state.delay.reset();
  } else if (spec.reachable) {
    if (!state.delay) state.delay.emplace(spec.scale_down_delay, kKpaTick);
    state.delay->resize(spec.scale_down_delay);
    const std::uint32_t delayed = state.delay->record(now, desired);
    result.held_by_delay = delayed > desired;
    desired = delayed;
  }
  result.desired = desired;
  result.excess_burst = excess_burst(spec, ready, panic);
  return result;
}

double excess_burst_before_first_look(const KpaSpec& spec, std::uint32_t initial) {
  return spec.burst <= 0 ? spec.burst : static_cast<double>(initial) * spec.total - spec.burst;
}

ScalingTarget resolve_target(ScalingMetric metric, std::uint32_t limit, std::optional<double> target,
                             double utilization_percent, double default_concurrency, double default_rps) {
  double total = metric == ScalingMetric::rps ? default_rps : default_concurrency;
  if (metric == ScalingMetric::concurrency && limit > 0) total = limit;
  if (target) {
    total = *target;
    if (metric == ScalingMetric::concurrency && limit > 0) total = std::min(total, static_cast<double>(limit));
  }
  return {std::max(0.01, total * utilization_percent / 100), total};
}

Duration panic_window(Duration stable_window, double percent) {
  return std::max<Duration>(1s, std::chrono::seconds(std::llround(to_seconds(stable_window) * percent / 100)));
}

KpaSpec kpa_spec(const ScalingSettings& settings, std::uint32_t concurrency_limit, bool reachable) {
  const auto [target, total] =
      resolve_target(settings.metric, concurrency_limit, settings.target, settings.utilization_percent);
  return {.target = target,
          .total = total,
          .burst = settings.target_burst_capacity,
          .up_rate = settings.scale_up_rate_max,
          .down_rate = settings.scale_down_rate_max,
          .panic_threshold = settings.panic_threshold_percent / 100,
          .stable_window = settings.stable_window,
          .scale_down_delay = settings.scale_down_delay,
          .activation_scale = settings.activation_scale,
          .reachable = reachable};
}

}  // namespace dirigent::policy
