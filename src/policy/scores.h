// SPDX-License-Identifier: MIT
//
// The scores of one node for one request, 0..100, as Kubernetes' scheduler computes them (golden cases in
// test/policy/test_placement.cpp), and the shares of the other placement policies.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "dirigent/model/resources.h"

namespace dirigent::policy {

inline std::int64_t free_percent(std::int64_t capacity, std::int64_t used) {
  if (capacity <= 0 || used > capacity) return 0;
  return (capacity - used) * 100 / capacity;
}
inline double fraction(std::int64_t part, std::int64_t whole) {
  return whole <= 0 ? 1.0 : std::clamp(static_cast<double>(part) / static_cast<double>(whole), 0.0, 1.0);
}

// The integer mean of the free percentages of CPU and memory. `used` includes the request.
inline std::int64_t least_allocated(const Resources& capacity, const Resources& used) {
  return (free_percent(capacity.cpu.value, used.cpu.value) + free_percent(capacity.memory.value, used.memory.value)) /
         2;
}

// 100 when CPU and memory are used to the same fraction; the standard deviation of two fractions is half their
// distance.
inline std::int64_t balanced_allocation(const Resources& capacity, const Resources& used) {
  const double deviation =
      std::abs(fraction(used.cpu.value, capacity.cpu.value) - fraction(used.memory.value, capacity.memory.value)) / 2;
  return static_cast<std::int64_t>(100 * (1 - deviation));
}

// Images on few nodes score low, so that a new image does not pull every sandbox onto the one node that has it. Nobody
// reports sizes, so every image counts as one of 500 MiB, between the bounds of 50 and 1000 MiB that Kubernetes has.
inline std::int64_t image_locality(bool present, std::size_t nodes_with_it, std::size_t nodes) {
  constexpr std::int64_t kSize = 500;
  constexpr std::int64_t kLow = 50;
  constexpr std::int64_t kHigh = 1000;
  if (!present || nodes == 0) return 0;
  const auto spread = kSize * static_cast<std::int64_t>(nodes_with_it) / static_cast<std::int64_t>(nodes);
  return 100 * (std::clamp(spread, kLow, kHigh) - kLow) / (kHigh - kLow);
}

// How many feasible nodes Kubernetes looks for before it scores: all below 100, then a share that shrinks from 50 % to
// 5 %.
constexpr std::size_t nodes_to_score(std::size_t nodes) {
  if (nodes < 100) return nodes;
  const std::size_t reduction = nodes / 125;
  const std::size_t percent = reduction >= 45 ? 5 : 50 - reduction;
  return std::max<std::size_t>(100, nodes * percent / 100);
}

// The larger of the two shares of a node that are used.
inline double dominant_share(const Resources& capacity, const Resources& used) {
  return std::max(fraction(used.cpu.value, capacity.cpu.value), fraction(used.memory.value, capacity.memory.value));
}
// The mean of the two.
inline double mean_share(const Resources& capacity, const Resources& used) {
  return (fraction(used.cpu.value, capacity.cpu.value) + fraction(used.memory.value, capacity.memory.value)) / 2;
}

}  // namespace dirigent::policy
