// SPDX-License-Identifier: MIT
#include "dirigent/base/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <utility>

#include "dirigent/base/assert.h"

namespace dirigent {

// With 6 bits: values below 64 have a bucket each; above, the exponent picks a group of 64 and the next six bits the
// bucket in it.
template <int kSubBits>
std::size_t BasicHistogram<kSubBits>::bucket_of(std::int64_t value) {
  const auto v = static_cast<std::uint64_t>(std::max<std::int64_t>(value, 0));
  if (v < (1u << kSubBits)) return v;
  const int shift = static_cast<int>(std::bit_width(v)) - 1 - kSubBits;
  return (static_cast<std::size_t>(shift + 1) << kSubBits) + static_cast<std::size_t>((v >> shift) - (1u << kSubBits));
}

template <int kSubBits>
std::int64_t BasicHistogram<kSubBits>::highest_of(std::size_t bucket) {
  if (bucket < (1u << kSubBits)) return static_cast<std::int64_t>(bucket);
  const std::size_t shift = (bucket >> kSubBits) - 1;
  const std::uint64_t top = (bucket & ((1u << kSubBits) - 1)) + (1u << kSubBits);
  return static_cast<std::int64_t>(((top + 1) << shift) - 1);
}

// Grows so that both buckets are there.
template <int kSubBits>
void BasicHistogram<kSubBits>::cover(std::size_t first, std::size_t last) {
  constexpr std::size_t kGroup = std::size_t{1} << kSubBits;
  first = first / kGroup * kGroup;
  std::size_t end = (last / kGroup + 1) * kGroup;
  if (!buckets_.empty()) {
    first = std::min(first, first_);
    end = std::max(end, first_ + buckets_.size());
  }
  std::vector<std::uint64_t> grown(end - first);
  std::copy(buckets_.begin(), buckets_.end(), grown.begin() + static_cast<std::ptrdiff_t>(buckets_.empty() ? 0 : first_ - first));
  buckets_ = std::move(grown);
  first_ = first;
}

template <int kSubBits>
void BasicHistogram<kSubBits>::record(std::int64_t value, std::uint64_t times) {
  if (times == 0) return;
  value = std::max<std::int64_t>(value, 0);
  const std::size_t bucket = bucket_of(value);
  if (bucket < first_ || bucket >= first_ + buckets_.size()) cover(bucket, bucket);
  buckets_[bucket - first_] += times;
  min_ = count_ == 0 ? value : std::min(min_, value);
  max_ = std::max(max_, value);
  count_ += times;
  sum_ += static_cast<double>(value) * static_cast<double>(times);
}

template <int kSubBits>
void BasicHistogram<kSubBits>::merge(const BasicHistogram& other) {
  if (other.count_ == 0) return;
  cover(other.first_, other.first_ + other.buckets_.size() - 1);
  for (std::size_t i = 0; i < other.buckets_.size(); ++i) buckets_[other.first_ + i - first_] += other.buckets_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  count_ += other.count_;
  sum_ += other.sum_;
}

template <int kSubBits>
void BasicHistogram<kSubBits>::clear() {
  buckets_.clear();
  first_ = 0;
  count_ = 0;
  min_ = 0;
  max_ = 0;
  sum_ = 0;
}

template <int kSubBits>
std::int64_t BasicHistogram<kSubBits>::quantile(double q) const {
  ASSERT(q >= 0 && q <= 1, "quantile {}", q);
  if (count_ == 0) return 0;
  const auto rank = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(count_))));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= rank) return std::clamp(highest_of(first_ + i), min_, max_);
  }
  return max_;
}

template <int kSubBits>
std::uint64_t BasicHistogram<kSubBits>::count_at_most(std::int64_t value) const {
  if (value < 0) return 0;
  const std::size_t last = bucket_of(value);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size() && first_ + i <= last; ++i) seen += buckets_[i];
  return seen;
}

template class BasicHistogram<6>;
template class BasicHistogram<10>;

}  // namespace dirigent
