// SPDX-License-Identifier: MIT
//
// Turns load samples into what a window of one bucket per period records, so that samples of any length add up to the
// same load as samples of exactly one period.
//
// The first sample of a quiet function arrives with its first request, long before a period is over. It counts as a whole
// period, so that the first look sees the request; what it counted too much is taken off the next samples.
#pragma once

#include <algorithm>

#include "dirigent/base/time.h"
#include "dirigent/policy/autoscaler.h"

namespace dirigent::policy {

class LoadIntake {
 public:
  explicit LoadIntake(Duration period = 1s) : period_(period) {}

  struct Amounts {
    double concurrency = 0;  // in period-averages
    double arrivals = 0;
    bool was_quiet = false;
  };
  Amounts take(const LoadSample& sample) {
    const double real = sample.concurrency * (to_seconds(sample.interval) / to_seconds(period_));
    Amounts amounts{0, static_cast<double>(sample.arrivals), quiet_};
    if (quiet_) {
      const double counted = std::max<double>(real, sample.current);
      amounts.concurrency = counted;
      surplus_ = counted - real;
    } else {
      const double taken = std::min(surplus_, real);
      amounts.concurrency = real - taken;
      surplus_ -= taken;
    }
    quiet_ = sample.current == 0 && sample.concurrency <= 0;
    if (quiet_) surplus_ = 0;
    return amounts;
  }

 private:
  Duration period_;
  bool quiet_ = true;
  double surplus_ = 0;
};

}  // namespace dirigent::policy
