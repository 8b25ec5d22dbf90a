// SPDX-License-Identifier: MIT
//
// Averages and maxima over a moving window of time, in constant memory. Both are keyed by whole slots of time, so a
// value may come late, and the same calls in any process give the same figures. Semantics: docs/policies.md, "Windows".
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/model/scaling.h"

namespace dirigent::policy {

// Rounds half away from zero, so that a sum of subtractions that should be nothing is nothing.
double round_to(double value, int digits);

// The weight of the newest bucket of a weighted window of `buckets` buckets: after all of them 0.01 % of a value is
// left, but never less than 0.2 at once.
double decay_coefficient(std::size_t buckets);

// A ring of sums, one per `granularity`. What is written in one bucket adds up; the average is over the buckets since
// the first write of an unbroken history. Silence inside the window counts as zero once something is written after it;
// silence at its end takes the oldest buckets out of sum and divisor; a whole window of it forgets everything.
class TimeBuckets {
 public:
  // REQUIRES: window > 0 and granularity > 0.
  TimeBuckets(Duration window, Duration granularity, Aggregation aggregation = Aggregation::linear);

  // A value as old as the window or older than the newest one by that much is dropped.
  void record(Instant at, double value);
  // Rounded to six digits. 0 when the window is empty.
  [[nodiscard]] double average(Instant now) const;
  // True when nothing was written for a whole window (or ever).
  [[nodiscard]] bool is_empty(Instant now) const;
  [[nodiscard]] double sum() const { return total_; }
  [[nodiscard]] std::size_t buckets() const { return buckets_; }
  // Keeps the newest values that still fit. REQUIRES: window > 0.
  void resize(Duration window, Instant now);
  void set_aggregation(Aggregation aggregation) { aggregation_ = aggregation; }
  void clear();

 private:
  [[nodiscard]] std::int64_t index_of(Instant at) const;
  [[nodiscard]] std::size_t place(std::int64_t index) const;
  [[nodiscard]] double linear_average(std::int64_t now) const;
  [[nodiscard]] double weighted_average(std::int64_t now) const;
  [[nodiscard]] std::int64_t written() const;
  // How many buckets of age make a value too old: the window in whole buckets, rounded up like the ring.
  [[nodiscard]] bool outlived(std::int64_t newer, std::int64_t older) const;

  Duration window_;
  Duration granularity_;
  Aggregation aggregation_;
  double decay_;
  std::size_t buckets_;
  std::vector<double> ring_;           // empty until the first write: most functions are never called
  double total_ = 0;
  std::optional<std::int64_t> first_;  // index of the first write of the unbroken history
  std::int64_t last_ = 0;              // index of the newest write; valid when first_ is
};

// The largest value of the last `slots` slots. Amortised O(1): a queue of the values that can still become the largest.
class SlidingMaximum {
 public:
  // REQUIRES: slots > 0.
  explicit SlidingMaximum(std::size_t slots);
  SlidingMaximum(Duration window, Duration granularity);

  // Records and returns the maximum. REQUIRES: indices never go back.
  std::uint32_t record(std::int64_t index, std::uint32_t value);
  std::uint32_t record(Instant at, std::uint32_t value);
  // The maximum of the slots that a record at `at` would still see; 0 when there are none.
  [[nodiscard]] std::uint32_t at(Instant at) const;
  [[nodiscard]] std::size_t slots() const { return slots_; }
  // Forgets what no longer fits when it shrinks. REQUIRES: made with a window; slots > 0.
  void resize(Duration window);

 private:
  struct Entry {
    std::int64_t index;
    std::uint32_t value;
  };
  [[nodiscard]] const Entry& entry(std::size_t i) const { return ring_[(head_ + i) % ring_.size()]; }

  std::size_t slots_;
  Duration granularity_{1};
  std::vector<Entry> ring_;
  std::size_t head_ = 0;  // oldest entry, which is the largest
  std::size_t count_ = 0;
};

}  // namespace dirigent::policy
