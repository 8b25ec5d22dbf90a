// SPDX-License-Identifier: MIT
//
// The `knative` autoscaler of one function: windows fed by samples, the rule of kpa.h, and the guard of scale_rules.h.
#pragma once

#include "dirigent/policy/autoscaler.h"
#include "policy/kpa.h"
#include "policy/load_intake.h"
#include "policy/scale_rules.h"
#include "policy/window.h"

namespace dirigent::policy {

// The two moving averages of a function's metric. Shared by the policies that look at averages.
class LoadWindows {
 public:
  explicit LoadWindows(const ScalingSettings& settings);
  void observe(Instant now, const LoadSample& sample);
  // A function with sandboxes that reports nothing has no load: the data planes fall silent when all is zero. Without
  // sandboxes silence leaves no trace, so that after a long idle time the window starts anew.
  void note_silence(Instant now, const ScalingInput& input);
  void reconfigure(const ScalingSettings& settings, Instant now);

  [[nodiscard]] bool has_data(Instant now) const { return !stable_.is_empty(now); }
  [[nodiscard]] double stable(Instant now) const { return stable_.average(now); }
  [[nodiscard]] double panic(Instant now) const { return panic_.average(now); }
  [[nodiscard]] std::uint32_t current() const { return current_; }
  // The largest number of requests at once that any sample of the panic window has seen.
  [[nodiscard]] std::uint32_t peak(Instant now) const { return peak_.at(now); }

 private:
  void record(Instant now, double value);

  ScalingMetric metric_;
  LoadIntake intake_;
  TimeBuckets stable_;
  TimeBuckets panic_;
  SlidingMaximum peak_;
  std::uint32_t current_ = 0;
  std::optional<Instant> last_sample_;
};

class KnativeAutoscaler final : public Autoscaler {
 public:
  KnativeAutoscaler(const ScalingSettings& settings, std::uint32_t concurrency_limit, std::uint32_t ready, Instant now);
  void observe(Instant now, const LoadSample& sample) override;
  ScalingDecision decide(const ScalingInput& input) override;
  void reconfigure(const ScalingSettings& settings, std::uint32_t concurrency_limit) override;

 private:
  ScalingSettings settings_;
  std::uint32_t concurrency_limit_;
  LoadWindows windows_;
  KpaState kpa_;
  ScaleGuard guard_;
  Instant last_now_;
};

// How many sandboxes `in_flight` requests need now: by the target when it is a number of requests, else by the limit.
std::uint32_t sandboxes_for(std::uint32_t in_flight, const ScalingSettings& settings, std::uint32_t concurrency_limit);

}  // namespace dirigent::policy
