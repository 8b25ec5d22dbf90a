// SPDX-License-Identifier: MIT
//
// A distribution of durations, and draws from it.
#pragma once

#include <string_view>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/base/result.h"
#include "dirigent/base/time.h"

namespace dirigent::sim {

class Distribution {
 public:
  static Distribution constant(Duration value);
  // "constant:40ms", "uniform:30ms,50ms", "lognormal:40ms,60ms" (the 50th and 99th percentile), or "file:PATH" (one
  // duration in milliseconds a line, drawn with equal chances). A bare duration is a constant.
  static Result<Distribution> parse(std::string_view text);

  [[nodiscard]] Duration draw(Rng& rng) const;  // never negative

 private:
  enum class Kind { constant, uniform, lognormal, samples };
  Kind kind_ = Kind::constant;
  Duration low_{};   // the value, the lower end, or the median
  Duration high_{};  // the upper end
  double sigma_ = 0; // of the logarithm
  std::vector<Duration> samples_;
};

}  // namespace dirigent::sim
