// SPDX-License-Identifier: MIT
//
// The vectors of the system whose place this one takes: two-second buckets, decisions without the rules of the last
// sandbox. What differs on purpose is in docs/policies.md.
#include <algorithm>
#include <vector>

#include "catch.h"
#include "policy/kpa.h"
#include "policy/window.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

Instant at(double seconds) { return Instant(from_seconds(seconds)); }

struct Original {
  KpaSpec spec{.target = 1, .total = 1, .burst = 0};
  std::uint32_t lower = 0;
  std::uint32_t upper = 1'000'000;
  Duration panic_window = 6s;

  std::vector<std::uint32_t> run(const std::vector<double>& metrics, std::vector<bool>* panics = nullptr) const {
    TimeBuckets stable(spec.stable_window, 2s);
    TimeBuckets panic(panic_window, 2s);
    std::uint32_t ready = 1;
    KpaState state = kpa_start(ready, at(0));
    std::vector<std::uint32_t> published;
    double t = 0;
    for (const double metric : metrics) {
      t += 2;
      stable.record(at(t), metric);
      panic.record(at(t), metric);
      const auto result = kpa_decide(spec, state, at(t), ready, stable.average(at(t)), panic.average(at(t)));
      ready = std::clamp(result.desired, lower, upper);
      published.push_back(ready);
      if (panics != nullptr) panics->push_back(result.panicking);
    }
    return published;
  }
};

std::vector<double> metrics(std::vector<double> first, std::size_t zeros) {
  first.insert(first.end(), zeros, 0.0);
  return first;
}
std::vector<std::uint32_t> scales(const std::vector<std::pair<std::uint32_t, std::size_t>>& runs) {
  std::vector<std::uint32_t> all;
  for (const auto& [value, times] : runs) all.insert(all.end(), times, value);
  return all;
}

}  // namespace

TEST_CASE("the original's vectors A to J come out of the same rule") {
  const Original plain;
  CHECK(plain.run({0}) == scales({{0, 1}}));                                                                  // A
  CHECK(plain.run(metrics({1}, 30)) == scales({{1, 30}, {0, 1}}));                                            // B
  CHECK(plain.run(metrics({10, 10, 10, 10, 10}, 30)) == scales({{10, 31}, {5, 1}, {2, 1}, {1, 1}, {0, 1}}));  // C
  const std::vector<double> growth{1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 55, 55};
  CHECK(plain.run(metrics(growth, 31)) ==  // D
        scales({{1, 2},
                {2, 2},
                {4, 1},
                {6, 1},
                {9, 1},
                {14, 1},
                {23, 1},
                {37, 1},
                {48, 1},
                {55, 24},
                {27, 1},
                {13, 1},
                {7, 1},
                {6, 1},
                {4, 1},
                {2, 1},
                {1, 1},
                {0, 1}}));
  Original capped;  // E, with a ring that is right: panic is over at tick 36 instead of starting again at 31
  capped.upper = 5;
  std::vector<bool> panics;
  CHECK(capped.run(metrics({20, 20, 20, 20}, 31), &panics) == scales({{5, 35}}));
  capped.run(metrics({20, 20, 20, 20}, 32), &panics);
  CHECK_FALSE(panics.back());
  Original floored;  // F
  floored.lower = 2;
  CHECK(floored.run(metrics({}, 50)) == scales({{2, 50}}));
  Original seven;  // G
  seven.spec.target = 7;
  CHECK(seven.run({33}) == scales({{5, 1}}));
  Original hundred;  // H
  hundred.spec.target = 100;
  CHECK(hundred.run({250}) == scales({{3, 1}}));
  Original sweep;  // I
  sweep.upper = 1;
  sweep.spec.stable_window = 6s;
  sweep.panic_window = 2s;
  CHECK(sweep.run({1, 0, 0, 0}) == scales({{1, 3}, {0, 1}}));
  std::vector<double> again = metrics({1}, 30);  // J
  again.insert(again.end(), 4, 10.0);
  const auto published = plain.run(again);
  CHECK(std::vector<std::uint32_t>(published.end() - 4, published.end()) == std::vector<std::uint32_t>{4, 7, 10, 10});
}
