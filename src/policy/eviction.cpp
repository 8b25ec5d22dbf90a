// SPDX-License-Identifier: MIT
#include "dirigent/policy/eviction.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "dirigent/base/assert.h"

namespace dirigent::policy {

namespace {

bool is_busy(const EvictionCandidate& candidate) {
  return candidate.state == SandboxState::ready && candidate.in_flight > 0;
}

// Smaller goes first. Busy is above everything else, so that no request suffers while something idle is left; within
// that an old revision goes before the current one.
auto rank(const EvictionCandidate& candidate) {
  const bool busy = is_busy(candidate);
  const bool serves = candidate.state == SandboxState::ready;
  std::int64_t within = 0;
  if (!serves) {
    within = candidate.age.count();  // youngest first: the least work is lost
  } else if (!busy) {
    within = -candidate.idle_for.count();
  } else {
    within = candidate.in_flight;
  }
  return std::tuple(busy, candidate.is_current_revision, serves, within, candidate.id.value);
}

}  // namespace

std::vector<std::size_t> choose_victims(std::span<const EvictionCandidate> candidates, std::size_t count) {
  ASSERT(count <= candidates.size(), "{} of {}", count, candidates.size());
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto earlier = [&](std::size_t a, std::size_t b) {
    return rank(candidates[a]) < rank(candidates[b]);
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), earlier);
  order.resize(count);
  return order;
}

}  // namespace dirigent::policy
