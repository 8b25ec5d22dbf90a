// SPDX-License-Identifier: MIT
#include "policy/smoothing.h"

#include <algorithm>

#include "dirigent/base/assert.h"

namespace dirigent::policy {

namespace {

// Moves `from` of every series with from < to (at these two places) up to `to`, then takes `units` back, one by one
// from each series in turn, never below where it was. `low` and `high` are the places: low < high in value.
void lift(std::span<std::vector<std::uint32_t>> series, std::size_t low, std::size_t high, std::uint32_t units) {
  struct Lifted {
    std::uint32_t* value;
    std::uint32_t before;
  };
  std::vector<Lifted> lifted;
  for (auto& values : series) {
    if (values[low] >= values[high]) continue;
    lifted.push_back({&values[low], values[low]});
    values[low] = values[high];
  }
  while (units > 0) {
    const std::uint32_t left = units;
    for (auto& one : lifted) {
      if (units == 0) break;
      if (*one.value == one.before) continue;
      --*one.value;
      --units;
    }
    if (units == left) return;
  }
}

std::uint64_t steps(std::span<std::vector<std::uint32_t>> series, std::size_t low, std::size_t high) {
  std::uint64_t total = 0;
  for (const auto& values : series) {
    if (values[high] > values[low]) total += values[high] - values[low];
  }
  return total;
}

std::size_t length_of(std::span<std::vector<std::uint32_t>> series) {
  if (series.empty()) return 0;
  for (const auto& values : series)
    ASSERT(values.size() == series[0].size(), "{} and {}", values.size(), series[0].size());
  return series[0].size();
}

}  // namespace

void smooth_up(std::span<std::vector<std::uint32_t>> series, std::uint32_t creations_max) {
  for (std::size_t i = length_of(series); i-- > 1;) {
    if (steps(series, i - 1, i) > creations_max) lift(series, i - 1, i, creations_max);
  }
}

void smooth_down(std::span<std::vector<std::uint32_t>> series, std::uint32_t removals_max) {
  const std::size_t length = length_of(series);
  for (std::size_t i = 0; i + 1 < length; ++i) {
    if (steps(series, i + 1, i) > removals_max) lift(series, i + 1, i, removals_max);
  }
}

}  // namespace dirigent::policy
