// SPDX-License-Identifier: MIT
#include <array>
#include <functional>
#include <map>
#include <set>

#include "catch.h"
#include "dirigent/policy/balancer.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

struct Candidate {
  std::uint32_t in_use = 0;
  std::uint32_t limit = 1;
  bool usable = true;
  std::uint64_t identity = 0;
};

class FakeView final : public CandidateView {
 public:
  FakeView() = default;
  FakeView(std::size_t count, std::uint32_t limit) {
    for (std::size_t i = 0; i < count; ++i) all.push_back({0, limit, true, 100 + i});
  }
  [[nodiscard]] std::size_t size() const override { return all.size(); }
  [[nodiscard]] std::uint32_t in_use(std::size_t i) const override { return all[i].in_use; }
  [[nodiscard]] std::uint32_t limit(std::size_t i) const override { return all[i].limit; }
  [[nodiscard]] bool usable(std::size_t i) const override { return all[i].usable; }
  [[nodiscard]] std::uint64_t identity(std::size_t i) const override { return all[i].identity; }

  // Chooses and takes the slot. A request that finds none is nullopt.
  std::optional<std::size_t> take(BalancerKind kind, BalancerState& state, Rng& rng) {
    const auto chosen = choose(kind, *this, state, rng);
    if (chosen) ++all[*chosen].in_use;
    return chosen;
  }

  std::vector<Candidate> all;
};

const std::array kAll{BalancerKind::random, BalancerKind::round_robin, BalancerKind::least_processed,
                      BalancerKind::knative, BalancerKind::least_loaded};
using Index = std::optional<std::size_t>;

}  // namespace

TEST_CASE("balancer: names are read and printed, and a slip of the pen gets a suggestion") {
  for (const auto kind : kAll) CHECK(parse_balancer(to_string(kind)).value() == kind);
  CHECK(balancer_names().size() == kAll.size());
  const auto error = parse_balancer("round-robbin");
  REQUIRE_FALSE(error);
  CHECK(error.error().code == ErrorCode::invalid_argument);
  CHECK(error.error().message.find("\"round-robbin\"") != std::string::npos);
  CHECK(error.error().message.find("did you mean \"round-robin\"?") != std::string::npos);
}

TEST_CASE("balancer: no policy ever chooses an unavailable candidate, and each finds the last available one") {
  const std::uint64_t seed = 7;
  INFO("seed " << seed);
  Rng rng(seed);
  for (const auto kind : kAll) {
    BalancerState state;
    for (int round = 0; round < 2000; ++round) {
      FakeView view;
      const std::size_t count = rng.below(9);
      std::size_t available = 0;
      for (std::size_t i = 0; i < count; ++i) {
        Candidate candidate{static_cast<std::uint32_t>(rng.below(4)), static_cast<std::uint32_t>(rng.below(4)),
                            rng.below(4) != 0, rng.below(20) * 16 + i};
        view.all.push_back(candidate);
        available += static_cast<std::size_t>(view.available(i));
      }
      const auto chosen = choose(kind, view, state, rng);
      INFO(to_string(kind) << " round " << round);
      // Knative's better of two and the rest agree: one is found exactly when there is one.
      REQUIRE(chosen.has_value() == (available > 0));
      if (chosen) REQUIRE(view.available(*chosen));
    }
  }
}

TEST_CASE("golden L1: random gives every sandbox some of the requests") {
  Rng rng(1);
  BalancerState state;
  FakeView view(2, 0);
  for (int i = 0; i < 100; ++i) view.take(BalancerKind::random, state, rng);
  CHECK(view.all[0].in_use > 0);
  CHECK(view.all[1].in_use > 0);
  CHECK(view.all[0].in_use + view.all[1].in_use == 100);
}

TEST_CASE("random is uniform among the available ones, also when few are") {
  Rng rng(3);
  BalancerState state;
  FakeView view(20, 1);
  for (std::size_t i = 0; i < 20; ++i) view.all[i].in_use = i == 3 || i == 4 || i == 17 ? 0 : 1;
  std::map<std::size_t, int> hits;
  for (int i = 0; i < 3000; ++i) ++hits[choose(BalancerKind::random, view, state, rng).value()];
  CHECK(hits.size() == 3);
  for (const auto& [index, count] : hits) CHECK(count == Approx(1000).margin(120));
}

TEST_CASE("golden L2: better of two with one sandbox takes it each time") {
  Rng rng(1);
  BalancerState state;
  FakeView view(1, 0);
  CHECK(view.take(BalancerKind::knative, state, rng) == Index(0));
  CHECK(view.take(BalancerKind::knative, state, rng) == Index(0));
  CHECK(view.all[0].in_use == 2);
}

// The original compared how many requests each had ever served, and took the one with more.
TEST_CASE("golden L3: better of two takes the sandbox with fewer requests in flight, not the other one") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    BalancerState state;
    FakeView view(2, 0);
    const auto first = view.take(BalancerKind::knative, state, rng);
    const auto second = view.take(BalancerKind::knative, state, rng);
    REQUIRE(second == Index(1 - *first));
    --view.all[*second].in_use;
    REQUIRE(view.take(BalancerKind::knative, state, rng) == second);
  }
}

TEST_CASE("golden L4: with three sandboxes the second request never joins the first") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    INFO("seed " << seed);
    Rng rng(seed);
    BalancerState state;
    FakeView view(3, 0);
    view.take(BalancerKind::knative, state, rng);
    const auto second = view.take(BalancerKind::knative, state, rng);
    REQUIRE(view.all[*second].in_use == 1);
    --view.all[*second].in_use;
    const auto third = view.take(BalancerKind::knative, state, rng);
    REQUIRE(view.all[*third].in_use == 1);
  }
}

TEST_CASE("golden L5, L6: limits of 1 to 3 fill the first sandbox first") {
  Rng rng(1);
  BalancerState state;
  FakeView one(1, 1);
  CHECK(one.take(BalancerKind::knative, state, rng) == Index(0));
  CHECK(one.take(BalancerKind::knative, state, rng) == std::nullopt);
  FakeView two(2, 1);
  CHECK(two.take(BalancerKind::knative, state, rng) == Index(0));
  CHECK(two.take(BalancerKind::knative, state, rng) == Index(1));
}

TEST_CASE("golden L7: round robin goes on where it was after the list was shorter for a while") {
  Rng rng(1);
  BalancerState state;
  FakeView view(3, 1);
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(0));
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(1));
  FakeView cut;
  cut.all = {view.all[0]};
  CHECK(cut.take(BalancerKind::round_robin, state, rng) == std::nullopt);
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(2));
  CHECK(view.take(BalancerKind::round_robin, state, rng) == std::nullopt);
  view.all[2].in_use = 0;
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(2));
}

TEST_CASE("golden L8: the same with two slots each") {
  Rng rng(1);
  BalancerState state;
  FakeView view(3, 2);
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(0));
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(1));
  FakeView cut;
  cut.all = {view.all[0]};
  CHECK(cut.take(BalancerKind::round_robin, state, rng) == Index(0));
  view.all[0].in_use = cut.all[0].in_use;
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(1));
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(2));
  CHECK(view.take(BalancerKind::round_robin, state, rng) == Index(2));
}

TEST_CASE("golden L9, L10, L11: the limit chooses between clumping and spreading") {
  Rng rng(1);
  const auto three = [&](std::size_t sandboxes, std::uint32_t limit, int requests) {
    BalancerState state;
    FakeView view(sandboxes, limit);
    std::multiset<std::size_t> taken;
    for (int i = 0; i < requests; ++i) taken.insert(view.take(BalancerKind::knative, state, rng).value());
    return taken;
  };
  CHECK(three(5, 3, 3) == std::multiset<std::size_t>{0, 0, 0});
  CHECK(three(3, 5, 3) == std::multiset<std::size_t>{0, 1, 2});
  CHECK(three(2, 1, 2) == std::multiset<std::size_t>{0, 1});
}

TEST_CASE("golden L12, L13: sandboxes that were replaced are never chosen again") {
  Rng rng(1);
  for (const std::uint32_t limit : {0U, 1U, 5U}) {
    BalancerState state;
    FakeView before;
    before.all = {{0, limit, true, 3}};
    before.take(BalancerKind::knative, state, rng);
    FakeView after;
    after.all = {{0, limit, true, 1}, {0, limit, true, 2}};
    std::set<std::uint64_t> chosen;
    for (int i = 0; i < 2; ++i) chosen.insert(after.identity(after.take(BalancerKind::knative, state, rng).value()));
    CHECK(chosen == std::set<std::uint64_t>{1, 2});
  }
}

TEST_CASE("the original's table: least processed serves those with fewer requests first, then in turn") {
  Rng rng(1);
  BalancerState state;
  FakeView view(7, 0);
  for (std::size_t i = 0; i < 7; ++i) state.processed.emplace_back(100 + i, i < 2 ? 1 : 0);
  for (const std::size_t want : {2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6}) {
    CHECK(choose(BalancerKind::least_processed, view, state, rng) == Index(want));
  }
}

// The original counted from zero, so that a fresh sandbox got every request until it had caught up.
TEST_CASE("least processed does not flood a newcomer with all that it has not had yet") {
  Rng rng(1);
  BalancerState state;
  FakeView view(4, 0);
  for (int i = 0; i < 4000; ++i) view.take(BalancerKind::least_processed, state, rng);
  view.all.push_back({0, 0, true, 900});
  for (int i = 0; i < 500; ++i) view.take(BalancerKind::least_processed, state, rng);
  CHECK(view.all[4].in_use == 100);
}

TEST_CASE("least processed forgets sandboxes that are gone") {
  Rng rng(1);
  BalancerState state;
  for (std::uint64_t generation = 0; generation < 1000; ++generation) {
    FakeView view;
    for (std::uint64_t i = 0; i < 3; ++i) view.all.push_back({0, 0, true, generation * 3 + i});
    for (int i = 0; i < 5; ++i) view.take(BalancerKind::least_processed, state, rng);
  }
  CHECK(state.processed.size() <= 14);
}

TEST_CASE("least processed allocates nothing once it knows its candidates") {
  Rng rng(1);
  BalancerState state;
  FakeView view(50, 0);
  choose(BalancerKind::least_processed, view, state, rng);
  const auto* where = state.processed.data();
  for (int i = 0; i < 1000; ++i) choose(BalancerKind::least_processed, view, state, rng);
  CHECK(state.processed.data() == where);
}

// A limit of 0 made a channel without tokens in the original, through which no request could pass.
TEST_CASE("a limit of 0 means no limit for every policy") {
  Rng rng(1);
  for (const auto kind : kAll) {
    BalancerState state;
    FakeView view(2, 0);
    for (int i = 0; i < 100; ++i) {
      INFO(to_string(kind));
      REQUIRE(view.take(kind, state, rng));
    }
  }
}

TEST_CASE("least loaded compares requests in flight to the limit, and takes turns among equals") {
  Rng rng(1);
  BalancerState state;
  FakeView view;
  view.all = {{5, 10, true, 1}, {2, 3, true, 2}, {1, 10, false, 3}};
  CHECK(choose(BalancerKind::least_loaded, view, state, rng) == Index(0));  // 1/2 against 2/3
  FakeView equal(3, 4);
  std::vector<std::size_t> order;
  for (int i = 0; i < 6; ++i) order.push_back(equal.take(BalancerKind::least_loaded, state, rng).value());
  CHECK(std::set<std::size_t>(order.begin(), order.begin() + 3).size() == 3);
  for (const auto& candidate : equal.all) CHECK(candidate.in_use == 2);
}

TEST_CASE("a candidate that is not usable is passed over even with free slots") {
  Rng rng(1);
  for (const auto kind : kAll) {
    BalancerState state;
    FakeView view(3, 5);
    view.all[0].usable = false;
    view.all[1].usable = false;
    for (int i = 0; i < 5; ++i) CHECK(view.take(kind, state, rng) == Index(2));
    CHECK(view.take(kind, state, rng) == std::nullopt);
  }
}
