// SPDX-License-Identifier: MIT
//
// The scaling rule of Knative's pod autoscaler as one function with an explicit spec and state: what `knative` decides
// with, and what the golden cases of group A drive. docs/policies.md has the formula line by line.
#pragma once

#include <cstdint>
#include <optional>

#include "dirigent/base/time.h"
#include "dirigent/model/scaling.h"
#include "policy/window.h"

namespace dirigent::policy {

// One look at the load is meant to happen this often; the scale-down delay has slots of this size.
constexpr Duration kKpaTick = 2s;

struct KpaSpec {
  double target = 70;  // load one sandbox should have
  double total = 100;  // load one sandbox can have
  double burst = 211;  // target burst capacity: -1 unlimited, 0 none
  double up_rate = 1000;
  double down_rate = 2;
  double panic_threshold = 2;  // a factor, not per cent
  Duration stable_window = 60s;
  Duration scale_down_delay{};
  std::uint32_t activation_scale = 1;
  bool reachable = true;
};

struct KpaState {
  std::optional<Instant> panic_since;
  std::uint32_t panic_max = 0;
  std::optional<SlidingMaximum> delay;  // made when a spec first asks for it
};
// A scaler that finds more than one sandbox starts in panic, so that a restart does not remove them.
KpaState kpa_start(std::uint32_t ready, Instant now);

struct KpaResult {
  std::uint32_t desired = 0;
  double excess_burst = 0;
  double stable_wish = 0;  // unclamped
  double panic_wish = 0;
  double floor = 0;  // what the rates allow
  double ceiling = 0;
  bool panicking = false;
  bool held_by_panic = false;  // an earlier wish of this panic is larger than the present ones
  bool held_by_delay = false;
};
KpaResult kpa_decide(const KpaSpec& spec, KpaState& state, Instant now, std::uint32_t ready, double stable,
                     double panic);

// Before the first look: what the burst capacity is when `initial` sandboxes are started.
double excess_burst_before_first_look(const KpaSpec& spec, std::uint32_t initial);
// Watchers are told when the excess burst capacity changes its sign; 0 counts as positive.
constexpr bool same_sign(double a, double b) { return (a >= 0) == (b >= 0); }

struct ScalingTarget {
  double target;  // after utilisation, at least 0.01
  double total;
};
// `limit` 0 = none. A target above the limit is cut to it. Utilisation counts for both metrics.
ScalingTarget resolve_target(ScalingMetric metric, std::uint32_t limit, std::optional<double> target,
                             double utilization_percent, double default_concurrency = 100, double default_rps = 200);
// A share of the stable window in whole seconds, at least one.
Duration panic_window(Duration stable_window, double percent);
// What the settings of a function mean for the rule.
KpaSpec kpa_spec(const ScalingSettings& settings, std::uint32_t concurrency_limit, bool reachable);

}  // namespace dirigent::policy
