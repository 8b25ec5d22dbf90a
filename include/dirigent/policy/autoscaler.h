// SPDX-License-Identifier: MIT
//
// Autoscaling: how many sandboxes a function should have. Each policy is a plain object per function with an explicit
// state; time comes in, a decision with everything it was made from goes out. Formulas: docs/policies.md.
//
//   observe(now, sample)   about once a second per function while there is load, and at once when a request must wait
//   decide(input)          every look_interval, and at once as ScalingSettings::reaction says
//
// The conductor sums the loads of all data planes before it observes, so a policy never sees how many there are.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/scaling.h"

namespace dirigent::policy {

enum class AutoscalerKind { knative, predictive, mu, scripted };
std::string_view to_string(AutoscalerKind kind);
// Also the aliases "default" (knative) and "escargot" (predictive). Unknown: an error with a suggestion.
Result<AutoscalerKind> parse_autoscaler(std::string_view word);
const std::vector<std::string>& autoscaler_names();

// The load of a function over all data planes.
struct LoadSample {
  double concurrency = 0;         // waiting + in flight, averaged since the last sample
  std::uint32_t current = 0;      // waiting + in flight, now
  std::uint32_t waiting = 0;      // now
  std::uint64_t arrivals = 0;     // since the last sample
  std::uint64_t completions = 0;  // since the last sample
  Duration busy{};                // time in sandboxes of those completions, summed
  Duration interval{};            // since the last sample
};

struct ScalingInput {
  Instant now;
  std::uint32_t ready = 0;
  std::uint32_t starting = 0;  // placed or starting
  bool reachable = true;       // gets traffic
  bool urgent = false;         // asked for because a request waits, not because look_interval is over
};

// The record of one decision: what it was made from, filled in, for `ctl explain`.
struct ScalingDecision {
  AutoscalerKind kind = AutoscalerKind::knative;
  Instant at;
  ScalingInput input;
  std::optional<std::uint32_t> desired;  // within min and max; nullopt: no data, keep what there is
  double stable_average = 0;
  double panic_average = 0;
  double target = 0;       // load one sandbox should have
  double stable_wish = 0;  // unclamped
  double panic_wish = 0;
  bool panicking = false;
  std::optional<Instant> panicking_since;
  double rate_floor = 0;  // least and most that the rates allow in one look
  double rate_ceiling = 0;
  std::uint32_t raw = 0;  // before min, max, retention and grace
  double excess_burst_capacity = 0;
  double predicted = 0;  // predictive and mu
  std::string note;      // which rule had the last word: "panic", "min scale 1", "kept for the grace period"
};

class Autoscaler {
 public:
  virtual ~Autoscaler() = default;
  virtual void observe(Instant now, const LoadSample& sample) = 0;
  virtual ScalingDecision decide(const ScalingInput& input) = 0;
  // New settings keep the history.
  virtual void reconfigure(const ScalingSettings& settings, std::uint32_t concurrency_limit) = 0;
};

// Makes the autoscalers of one cluster and holds what they share (the predictive one smooths creations over all
// functions).
class AutoscalerFamily {
 public:
  virtual ~AutoscalerFamily() = default;
  [[nodiscard]] virtual AutoscalerKind kind() const = 0;
  // The family must outlive what it makes. `ready` = sandboxes there are already (Knative starts in panic above one).
  virtual std::unique_ptr<Autoscaler> make(const FunctionName& function, const ScalingSettings& settings,
                                           std::uint32_t concurrency_limit, std::uint32_t ready, Instant now) = 0;
};
std::unique_ptr<AutoscalerFamily> make_autoscaler_family(AutoscalerKind kind);

}  // namespace dirigent::policy
