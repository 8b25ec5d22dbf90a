// SPDX-License-Identifier: MIT
//
// The bodies of choose_among: one small function per policy. Include balancer.h instead.
#pragma once

#include <algorithm>
#include <limits>

#include "dirigent/policy/balancer.h"

namespace dirigent::policy::detail {

// Tries this often to hit a candidate by chance before counting them: with half of them taken 15 in 16 choices are made
// without looking at all.
constexpr int kProbes = 4;

// Uniform among the candidates for which `fits(i)`; `none` is returned when there are none.
template <class Fits>
std::size_t pick_uniform(std::size_t size, Rng& rng, const Fits& fits, std::size_t none) {
  if (size == 0) return none;
  for (int probe = 0; probe < kProbes; ++probe) {
    const auto i = static_cast<std::size_t>(rng.below(size));
    if (fits(i)) return i;
  }
  std::size_t count = 0;
  for (std::size_t i = 0; i < size; ++i) count += static_cast<std::size_t>(fits(i));
  if (count == 0) return none;
  std::size_t skip = static_cast<std::size_t>(rng.below(count));
  for (std::size_t i = 0; i < size; ++i) {
    if (fits(i) && skip-- == 0) return i;
  }
  return none;  // the view changed under us: another shard took the slots; the caller parks the request
}

template <class View>
std::optional<std::size_t> choose_random(const View& candidates, Rng& rng) {
  const std::size_t size = candidates.size();
  const std::size_t i = pick_uniform(
      size, rng, [&](std::size_t k) { return candidates.available(k); }, size);
  return i == size ? std::nullopt : std::optional(i);
}

template <class View>
std::optional<std::size_t> choose_first(const View& candidates) {
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (candidates.available(i)) return i;
  }
  return std::nullopt;
}

template <class View>
std::optional<std::size_t> choose_round_robin(const View& candidates, BalancerState& state) {
  const std::size_t size = candidates.size();
  if (size == 0) return std::nullopt;
  std::size_t i = state.next % size;
  for (std::size_t tried = 0; tried < size; ++tried) {
    if (candidates.available(i)) {
      state.next = i + 1;
      return i;
    }
    if (++i == size) i = 0;
  }
  return std::nullopt;
}

// Two different candidates by chance, then the one with fewer requests in flight.
template <class View>
std::optional<std::size_t> choose_better_of_two(const View& candidates, Rng& rng) {
  const std::size_t size = candidates.size();
  const std::size_t a = pick_uniform(
      size, rng, [&](std::size_t k) { return candidates.available(k); }, size);
  if (a == size) return std::nullopt;
  if (size == 1) return a;
  const std::size_t b = pick_uniform(
      size, rng, [&](std::size_t k) { return k != a && candidates.available(k); }, size);
  if (b == size) return a;
  return candidates.in_use(b) < candidates.in_use(a) ? b : a;
}

// The policy that Knative uses for such a limit. Shares of one limit may differ by one; the first usable one decides.
template <class View>
std::optional<std::size_t> choose_knative(const View& candidates, BalancerState& state, Rng& rng) {
  std::size_t first = 0;
  while (first < candidates.size() && !candidates.usable(first)) ++first;
  if (first == candidates.size()) return std::nullopt;
  const std::uint32_t limit = candidates.limit(first);
  if (limit == 0) return choose_better_of_two(candidates, rng);
  return limit <= 3 ? choose_first(candidates) : choose_round_robin(candidates, state);
}

template <class View>
std::optional<std::size_t> choose_least_loaded(const View& candidates, BalancerState& state) {
  const std::size_t size = candidates.size();
  std::optional<std::size_t> best;
  std::uint64_t best_used = 0;
  std::uint64_t best_limit = 0;
  // Starting after the last choice spreads requests over equally loaded candidates.
  std::size_t i = size == 0 ? 0 : state.next % size;
  for (std::size_t tried = 0; tried < size; ++tried, i = i + 1 == size ? 0 : i + 1) {
    const std::uint64_t used = candidates.in_use(i);
    const std::uint64_t limit = candidates.limit(i);
    if (!candidates.usable(i) || (limit != 0 && used >= limit)) continue;
    const bool both_limited = limit != 0 && best_limit != 0;
    const bool fewer = both_limited ? used * best_limit < best_used * limit : used < best_used;
    if (best && !fewer) continue;
    best = i;
    best_used = used;
    best_limit = limit;
    if (used == 0) break;
  }
  if (best) state.next = *best + 1;
  return best;
}

// Where the count of `identity` is in the sorted list, or where it belongs. Candidates usually come in the order of
// their identities, so the place after the last one is tried first.
inline std::size_t find_processed(const BalancerState& state, std::uint64_t identity, std::size_t hint) {
  const auto& list = state.processed;
  if (hint < list.size() && list[hint].first == identity) return hint;
  const auto at = std::lower_bound(list.begin(), list.end(), identity,
                                   [](const auto& entry, std::uint64_t wanted) { return entry.first < wanted; });
  return static_cast<std::size_t>(at - list.begin());
}

inline bool is_at(const BalancerState& state, std::size_t place, std::uint64_t identity) {
  return place < state.processed.size() && state.processed[place].first == identity;
}

// Brings the list in line with the candidates. A newcomer starts at the least count of those that were there before it:
// it shares the next requests with them instead of taking all until it has caught up.
template <class View>
void adopt_candidates(const View& candidates, BalancerState& state) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> present;
  present.reserve(candidates.size());
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  constexpr std::uint64_t kNew = std::numeric_limits<std::uint64_t>::max();
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const std::uint64_t identity = candidates.identity(i);
    const std::size_t place = find_processed(state, identity, 0);
    const std::uint64_t count = is_at(state, place, identity) ? state.processed[place].second : kNew;
    if (count != kNew) least = std::min(least, count);
    present.emplace_back(identity, count);
  }
  for (auto& entry : present) {
    if (entry.second == kNew) entry.second = least == kNew ? 0 : least;
  }
  std::sort(present.begin(), present.end());
  state.processed = std::move(present);
}

template <class View>
std::optional<std::size_t> choose_least_processed(const View& candidates, BalancerState& state) {
  for (int round = 0; round < 2; ++round) {
    std::optional<std::size_t> best;
    std::size_t best_place = 0;
    std::size_t hint = 0;
    bool unknown = false;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const std::size_t place = find_processed(state, candidates.identity(i), hint);
      hint = place + 1;
      if (!is_at(state, place, candidates.identity(i))) {
        unknown = true;
        break;
      }
      if (!candidates.available(i)) continue;
      if (!best || state.processed[place].second < state.processed[best_place].second) {
        best = i;
        best_place = place;
      }
    }
    // Counts of sandboxes that are gone are kept until they are as many as those that are there.
    if (!unknown && state.processed.size() <= 2 * candidates.size() + 8) {
      if (best) ++state.processed[best_place].second;
      return best;
    }
    adopt_candidates(candidates, state);
  }
  return std::nullopt;
}

}  // namespace dirigent::policy::detail

namespace dirigent::policy {

template <class View>
std::optional<std::size_t> choose_among(BalancerKind kind, const View& candidates, BalancerState& state, Rng& rng) {
  switch (kind) {
    case BalancerKind::random: return detail::choose_random(candidates, rng);
    case BalancerKind::round_robin: return detail::choose_round_robin(candidates, state);
    case BalancerKind::least_processed: return detail::choose_least_processed(candidates, state);
    case BalancerKind::knative: return detail::choose_knative(candidates, state, rng);
    case BalancerKind::least_loaded: return detail::choose_least_loaded(candidates, state);
  }
  return std::nullopt;
}

}  // namespace dirigent::policy
