// SPDX-License-Identifier: MIT
#include <algorithm>
#include <map>

#include "catch.h"
#include "dirigent/base/random.h"
#include "dirigent/policy/eviction.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

EvictionCandidate candidate(std::uint64_t id, SandboxState state, bool current, std::uint32_t in_flight, Duration idle,
                            Duration age) {
  return {{id}, state, current, in_flight, idle, age};
}

using Order = std::vector<std::size_t>;

}  // namespace

TEST_CASE("eviction: nothing is chosen of nothing, and nothing when nothing is asked for") {
  CHECK(choose_victims({}, 0).empty());
  const std::vector<EvictionCandidate> one{candidate(1, SandboxState::ready, true, 0, 1s, 1s)};
  CHECK(choose_victims(one, 0).empty());
  CHECK(choose_victims(one, 1) == Order{0});
}

TEST_CASE("eviction: old revisions, then those that do not serve, then idle longest, then least busy") {
  const std::vector<EvictionCandidate> all{
      candidate(1, SandboxState::ready, true, 3, 0s, 50s),     // 0 busy
      candidate(2, SandboxState::ready, true, 0, 5s, 50s),     // 1 idle shortly
      candidate(3, SandboxState::ready, true, 0, 20s, 50s),    // 2 idle longest
      candidate(4, SandboxState::starting, true, 0, 0s, 2s),   // 3 starting for longer
      candidate(5, SandboxState::placed, true, 0, 0s, 1s),     // 4 youngest
      candidate(6, SandboxState::ready, false, 0, 1s, 90s),    // 5 old and idle
      candidate(7, SandboxState::ready, true, 1, 0s, 50s),     // 6 least busy
      candidate(8, SandboxState::starting, false, 0, 0s, 9s),  // 7 old and not serving
      candidate(9, SandboxState::ready, false, 9, 0s, 90s),    // 8 old and busy
  };
  CHECK(choose_victims(all, all.size()) == Order{7, 5, 4, 3, 2, 1, 8, 6, 0});
  CHECK(choose_victims(all, 3) == Order{7, 5, 4});
}

TEST_CASE("eviction: a busy sandbox never goes before an idle one, whatever else is true of them") {
  const std::uint64_t seed = 3;
  INFO("seed " << seed);
  Rng rng(seed);
  for (int round = 0; round < 500; ++round) {
    std::vector<EvictionCandidate> all;
    const std::size_t size = 1 + rng.below(30);
    for (std::size_t i = 0; i < size; ++i) {
      const auto state = static_cast<SandboxState>(rng.below(3));
      const auto in_flight = state == SandboxState::ready ? static_cast<std::uint32_t>(rng.below(3)) : 0;
      const Duration idle = in_flight > 0 ? 0s : std::chrono::seconds(rng.below(100));
      all.push_back(candidate(rng.below(1000) * 100 + i, state, rng.below(2) == 0, in_flight, idle,
                              std::chrono::seconds(rng.below(100))));
    }
    const std::size_t count = rng.below(size + 1);
    const auto victims = choose_victims(all, count);
    REQUIRE(victims.size() == count);
    std::vector<bool> gone(size);
    for (const std::size_t victim : victims) {
      REQUIRE_FALSE(gone[victim]);
      gone[victim] = true;
    }
    bool busy_gone = false;
    bool idle_left = false;
    for (std::size_t i = 0; i < size; ++i) {
      const bool busy = all[i].in_flight > 0;
      busy_gone = busy_gone || (gone[i] && busy);
      idle_left = idle_left || (!gone[i] && !busy);
    }
    REQUIRE_FALSE((busy_gone && idle_left));
    // The order does not depend on where a candidate stood.
    std::vector<EvictionCandidate> reversed(all.rbegin(), all.rend());
    const auto again = choose_victims(reversed, count);
    for (std::size_t i = 0; i < count; ++i) REQUIRE(reversed[again[i]].id == all[victims[i]].id);
  }
}
