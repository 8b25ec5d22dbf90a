// SPDX-License-Identifier: MIT
#include "policy/window.h"

#include <algorithm>
#include <cmath>

#include "dirigent/base/assert.h"

namespace dirigent::policy {

namespace {

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  return a / b - static_cast<std::int64_t>(a % b != 0 && (a < 0) != (b < 0));
}

std::size_t slots_of(Duration window, Duration granularity) {
  ASSERT(window > Duration::zero() && granularity > Duration::zero(), "window {} granularity {}", window.count(),
         granularity.count());
  return static_cast<std::size_t>((window + granularity - Duration{1}) / granularity);
}

std::size_t wrap(std::int64_t index, std::size_t size) {
  const auto n = static_cast<std::int64_t>(size);
  return static_cast<std::size_t>(((index % n) + n) % n);
}

}  // namespace

double round_to(double value, int digits) {
  double scale = 1;
  for (int i = 0; i < digits; ++i) scale *= 10;
  return std::round(value * scale) / scale;
}

double decay_coefficient(std::size_t buckets) {
  return std::max(1.0 - std::pow(0.0001, 1.0 / static_cast<double>(buckets)), 0.2);
}

// --- TimeBuckets --------------------------------------------------------------------------------------------------

TimeBuckets::TimeBuckets(Duration window, Duration granularity, Aggregation aggregation)
    : window_(window), granularity_(granularity), aggregation_(aggregation), decay_(0), buckets_(slots_of(window, granularity)) {
  decay_ = decay_coefficient(buckets_);
}

std::int64_t TimeBuckets::index_of(Instant at) const {
  return floor_divide(at.time_since_epoch().count(), granularity_.count());
}

std::size_t TimeBuckets::place(std::int64_t index) const { return wrap(index, buckets_); }

bool TimeBuckets::outlived(std::int64_t newer, std::int64_t older) const {
  return (newer - older) * granularity_.count() >= window_.count();
}

std::int64_t TimeBuckets::written() const {
  return std::min(last_ - *first_ + 1, static_cast<std::int64_t>(buckets_));
}

void TimeBuckets::clear() {
  std::fill(ring_.begin(), ring_.end(), 0.0);
  total_ = 0;
  first_.reset();
}

void TimeBuckets::record(Instant at, double value) {
  const std::int64_t index = index_of(at);
  if (!first_ || outlived(index, last_)) {
    clear();
    ring_.resize(buckets_, 0.0);
    first_ = last_ = index;
  } else if (index > last_) {
    for (std::int64_t i = last_ + 1; i <= index; ++i) {
      total_ -= ring_[place(i)];
      ring_[place(i)] = 0;
    }
    last_ = index;
  } else if (outlived(last_, index)) {
    return;
  } else {
    first_ = std::min(*first_, index);
  }
  ring_[place(index)] += value;
  total_ += value;
}

bool TimeBuckets::is_empty(Instant now) const { return !first_ || outlived(index_of(now), last_); }

double TimeBuckets::average(Instant now) const {
  if (is_empty(now)) return 0;
  const std::int64_t index = std::max(index_of(now), last_);
  return round_to(aggregation_ == Aggregation::linear ? linear_average(index) : weighted_average(index), 6);
}

double TimeBuckets::linear_average(std::int64_t now) const {
  double sum = total_;
  for (std::int64_t i = last_ + 1; i <= now; ++i) sum -= ring_[place(i)];
  const std::int64_t divisor = std::min(written(), static_cast<std::int64_t>(buckets_) - (now - last_));
  return divisor > 0 ? sum / static_cast<double>(divisor) : 0;
}

double TimeBuckets::weighted_average(std::int64_t now) const {
  double sum = 0;
  double weight = decay_ * std::pow(1 - decay_, static_cast<double>(now - last_));
  const std::int64_t oldest = std::max(*first_, now - static_cast<std::int64_t>(buckets_) + 1);
  // A weight below a billionth cannot show in six digits of any load there is.
  for (std::int64_t i = last_; i >= oldest && weight > 1e-12; --i) {
    sum += ring_[place(i)] * weight;
    weight *= 1 - decay_;
  }
  return sum;
}

void TimeBuckets::resize(Duration window, Instant now) {
  if (window == window_) return;
  const std::size_t buckets = slots_of(window, granularity_);
  std::vector<double> ring;
  double total = 0;
  if (!is_empty(now)) {
    ring.resize(buckets, 0.0);
    const auto old_size = static_cast<std::int64_t>(buckets_);
    const auto kept = std::min(static_cast<std::int64_t>(ring.size()), old_size);
    for (std::int64_t i = last_; i > last_ - kept; --i) {
      const double value = ring_[place(i)];
      ring[wrap(i, ring.size())] = value;
      total += value;
    }
    // What left the old ring is unknown and must not count as zero in the larger one.
    first_ = std::max(*first_, last_ - old_size + 1);
  } else {
    first_.reset();
  }
  ring_ = std::move(ring);
  buckets_ = buckets;
  total_ = total;
  window_ = window;
  decay_ = decay_coefficient(buckets_);
}

// --- SlidingMaximum -----------------------------------------------------------------------------------------------

SlidingMaximum::SlidingMaximum(std::size_t slots) : slots_(slots) { ASSERT(slots > 0); }

SlidingMaximum::SlidingMaximum(Duration window, Duration granularity) : SlidingMaximum(slots_of(window, granularity)) {
  granularity_ = granularity;
}

std::uint32_t SlidingMaximum::record(std::int64_t index, std::uint32_t value) {
  ASSERT(count_ == 0 || entry(count_ - 1).index <= index, "index {} after {}", index, entry(count_ - 1).index);
  while (count_ > 0 && entry(0).index <= index - static_cast<std::int64_t>(slots_)) {
    head_ = (head_ + 1) % ring_.size();
    --count_;
  }
  if (count_ > 0 && entry(count_ - 1).index == index && entry(count_ - 1).value >= value) return entry(0).value;
  while (count_ > 0 && entry(count_ - 1).value <= value) --count_;
  if (count_ == ring_.size()) {
    std::vector<Entry> larger(std::max<std::size_t>(1, ring_.size() * 2));
    for (std::size_t i = 0; i < count_; ++i) larger[i] = entry(i);
    ring_ = std::move(larger);
    head_ = 0;
  }
  ring_[(head_ + count_) % ring_.size()] = {index, value};
  ++count_;
  return entry(0).value;
}

std::uint32_t SlidingMaximum::record(Instant at, std::uint32_t value) {
  return record(floor_divide(at.time_since_epoch().count(), granularity_.count()), value);
}

std::uint32_t SlidingMaximum::at(Instant at) const {
  const std::int64_t index = floor_divide(at.time_since_epoch().count(), granularity_.count());
  for (std::size_t i = 0; i < count_; ++i) {
    if (entry(i).index > index - static_cast<std::int64_t>(slots_)) return entry(i).value;
  }
  return 0;
}

void SlidingMaximum::resize(Duration window) { slots_ = slots_of(window, granularity_); }

}  // namespace dirigent::policy
