// SPDX-License-Identifier: MIT
//
// A log-linear histogram of non-negative integers (usually nanoseconds): O(1) recording, quantiles with a relative error
// below 1/64. Same idea as HdrHistogram: a power of two is split into 64 equal buckets. Memory: 512 bytes for each power of
// two between the smallest and the largest value, allocated when a value first needs it; at most 30 kB.
// Not synchronised: one owner, or copy and merge.
#pragma once

#include <cstdint>
#include <vector>

#include "dirigent/base/time.h"

namespace dirigent {

class Histogram {
 public:
  void record(std::int64_t value, std::uint64_t times = 1);
  void record(Duration d) { record(d.count()); }
  void merge(const Histogram& other);
  void clear();

  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] std::int64_t min() const { return count_ == 0 ? 0 : min_; }
  [[nodiscard]] std::int64_t max() const { return max_; }
  [[nodiscard]] double mean() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }
  [[nodiscard]] double sum() const { return sum_; }
  // The value below or at which the fraction `q` of the records lies; 0 when empty. REQUIRES: 0 <= q <= 1.
  [[nodiscard]] std::int64_t quantile(double q) const;
  // How many records are <= value (to the precision of the buckets).
  [[nodiscard]] std::uint64_t count_at_most(std::int64_t value) const;

 private:
  static constexpr int kSubBits = 6;  // 64 buckets a power of two
  static std::size_t bucket_of(std::int64_t value);
  static std::int64_t highest_of(std::size_t bucket);

  void cover(std::size_t first, std::size_t last);

  std::vector<std::uint64_t> buckets_;  // from bucket `first_` on, whole powers of two
  std::size_t first_ = 0;
  std::uint64_t count_ = 0;
  std::int64_t min_ = 0;
  std::int64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace dirigent
