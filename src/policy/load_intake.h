// SPDX-License-Identifier: MIT
//
// Turns load samples into what a window of one bucket per period records, so that samples of any length add up to the
// same load as samples of exactly one period.
//
// The first sample of a quiet function arrives with its first request, long before a period is over. It counts as a
// whole period, so that the first look sees the request; what it counted too much is taken off the next ones. Later
// samples are put together until a new period has begun: two in the bucket of one period would look like more load than
// there is.
#pragma once

#include <algorithm>
#include <optional>

#include "dirigent/base/time.h"
#include "dirigent/policy/autoscaler.h"

namespace dirigent::policy {

class LoadIntake {
 public:
  explicit LoadIntake(Duration period = 1s) : period_(period) {}

  struct Amounts {
    double concurrency = 0;  // averages of a period, added up
    double arrivals = 0;
    std::int64_t periods = 1;  // for how many periods they stand
  };
  // What is to be recorded now; nullopt when that is to wait for a later sample.
  std::optional<Amounts> take(Instant now, const LoadSample& sample) {
    const bool was_quiet = quiet_;
    quiet_ = sample.current == 0 && sample.concurrency <= 0;
    area_ += sample.concurrency * to_seconds(sample.interval);
    arrivals_ += static_cast<double>(sample.arrivals);
    length_ += sample.interval;
    const std::int64_t period = now.time_since_epoch() / period_;
    if (!was_quiet && !quiet_ && (period == recorded_ || length_ < period_ / 2)) return std::nullopt;
    recorded_ = period;

    const double real = area_ / to_seconds(period_);
    Amounts amounts{real, arrivals_, 1};
    if (was_quiet) {
      amounts.concurrency = std::max<double>(real, sample.current);
      surplus_ = amounts.concurrency - real;
    } else {
      const double taken = std::min(surplus_, real);
      amounts.concurrency = real - taken;
      surplus_ -= taken;
      amounts.periods = std::max<std::int64_t>(1, (length_ + period_ / 2) / period_);
    }
    if (quiet_) surplus_ = 0;
    area_ = arrivals_ = 0;
    length_ = Duration::zero();
    return amounts;
  }

 private:
  Duration period_;
  bool quiet_ = true;
  std::int64_t recorded_ = 0;  // the period in which something was recorded last
  double surplus_ = 0;
  double area_ = 0;  // request-seconds since the last amounts
  double arrivals_ = 0;
  Duration length_{};
};

}  // namespace dirigent::policy
