// SPDX-License-Identifier: MIT
//
// The arithmetic of the `predictive` autoscaler: the last hour's load extrapolated by its strongest harmonics, and what
// a load per minute means in sandboxes. Pure functions; docs/policies.md says where they differ from their ancestor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/policy/autoscaler.h"

namespace dirigent::policy {

// As many values as `history` (oldest first) has, for the time after it: a straight line through it, plus the
// `harmonics` strongest oscillations of what is left, going on. Negative values are possible. Deterministic: ties keep
// the slower one.
std::vector<double> extrapolate(std::span<const double> history, std::size_t harmonics);

// How many sandboxes `per_minute` requests need when one serves `capacity` requests per second (<= 0: unknown, taken as
// 1), with half as much again for safety, and never more than one per request.
std::uint32_t scale_for(double per_minute, double capacity);

// out[k] = max(in[k], in[k+1], ..., in[k+width-1]); one value longer than `in`. What is needed soon is there in time.
std::vector<std::uint32_t> forward_maximum(std::span<const std::uint32_t> in, std::size_t width);

// Mean time of a request in a sandbox, as an average that after a minute consists to 80 % of that minute.
class ServiceTime {
 public:
  void observe(const LoadSample& sample);
  // Seconds; 0 while nothing has completed.
  [[nodiscard]] double seconds() const { return seconds_; }

 private:
  double seconds_ = 0;
};

// Requests per second that one sandbox serves at its target load: the target itself when that is a rate.
double sandbox_capacity(const ScalingSettings& settings, double target, const ServiceTime& service_time);

}  // namespace dirigent::policy
