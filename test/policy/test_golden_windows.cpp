// SPDX-License-Identifier: MIT
#include <cmath>

#include "dirigent/base/random.h"
#include "golden.h"
#include "policy/breaker.h"
#include "policy/kpa.h"
#include "policy/load_intake.h"
#include "policy/window.h"

using namespace dirigent;
using namespace dirigent::policy;
using golden::Json;

namespace {

// How many digits a figure was printed with, so that it is compared to as many.
int digits_of(const Json& figure) {
  const std::string text = figure.dump();
  const std::size_t point = text.find('.');
  return point == std::string::npos ? 0 : static_cast<int>(std::min<std::size_t>(6, text.size() - point - 1));
}

}  // namespace

TEST_CASE("golden B: the sliding maximum") {
  golden::Group group("B");
  for (const Json& item : golden::load("B_sliding_maximum")) {
    INFO(item.dump());
    bool good = true;
    SlidingMaximum maximum(item.at("size").get<std::size_t>());
    for (std::size_t i = 0; i < item.at("records").size(); ++i) {
      const Json& record = item.at("records")[i];
      GOLDEN_CHECK(good,
                   maximum.record(record[0].get<std::int64_t>(), record[1].get<std::uint32_t>()) == item.at("want")[i]);
    }
    group.count(good);
  }
  const auto timed = [&](double second_at, std::uint32_t first, std::uint32_t second, std::uint32_t want) {
    bool good = true;
    SlidingMaximum maximum(5s, 1s);
    GOLDEN_CHECK(good, maximum.record(golden::at(0), first) == first);
    GOLDEN_CHECK(good, maximum.record(golden::at(second_at), second) == want);
    GOLDEN_CHECK(good, maximum.at(golden::at(second_at)) == want);
    group.count(good);
  };
  timed(0, 5, 5, 5);    // B12
  timed(0.5, 6, 5, 6);  // B13
  timed(1, 5, 8, 8);    // B14
  timed(6, 5, 4, 4);    // B15
  CHECK(SlidingMaximum(5min, kKpaTick).slots() == 150);
}

TEST_CASE("a sliding maximum equals the largest of the last slots, whatever comes") {
  const std::uint64_t seed = 42;
  INFO("seed " << seed);
  Rng rng(seed);
  SlidingMaximum maximum(7);
  std::vector<std::pair<std::int64_t, std::uint32_t>> all;
  std::int64_t index = -20;
  for (int i = 0; i < 5000; ++i) {
    index += static_cast<std::int64_t>(rng.below(3));
    const auto value = static_cast<std::uint32_t>(rng.below(50));
    all.emplace_back(index, value);
    std::uint32_t want = 0;
    for (const auto& [at, what] : all) want = at > index - 7 ? std::max(want, what) : want;
    REQUIRE(maximum.record(index, value) == want);
  }
}

TEST_CASE("golden C: metric buckets") {
  golden::Group group("C");
  for (const Json& item : golden::load("C_buckets")) {
    INFO(item.dump());
    bool good = true;
    const bool weighted = item.at("weighted");
    TimeBuckets buckets(golden::span(item.at("window")), golden::span(item.at("granularity")),
                        weighted ? Aggregation::weighted_exponential : Aggregation::linear);
    Instant now;
    for (const Json& op : item.at("ops")) {
      INFO(op.dump());
      const std::string what = op[0];
      if (what == "rec") {
        now = golden::at(op[1]);
        buckets.record(now, op[2]);
      } else if (what == "avg") {
        now = golden::at(op[1]);
        const int digits = weighted ? digits_of(op[2]) : 6;
        GOLDEN_CHECK(good, round_to(buckets.average(now), digits) == round_to(op[2], digits));
      } else if (what == "sum") {
        GOLDEN_CHECK(good, buckets.sum() == op[1]);
      } else if (what == "size") {
        buckets.resize(golden::span(op[1]), now);
      } else {
        REQUIRE(what == "nb");
        GOLDEN_CHECK(good, buckets.buckets() == op[1]);
      }
    }
    group.count(good);
  }
}

TEST_CASE("golden C: decay coefficients, rounding and panic windows") {
  golden::Group group("C coefficients");
  const Json table = golden::load("C_decay");
  for (const auto& [buckets, want] : table.items()) {
    bool good = true;
    GOLDEN_CHECK(good, decay_coefficient(std::stoul(buckets)) == Approx(want.get<double>()).epsilon(1e-12));
    group.count(good);
  }
  bool good = true;
  GOLDEN_CHECK(good, round_to(3.6e-17, 6) == 0);
  GOLDEN_CHECK(good, round_to(1.2345, 3) == 1.235);
  GOLDEN_CHECK(good, round_to(1.2345, 4) == 1.2345);
  group.count(good);
  // C29
  GOLDEN_CHECK(good, panic_window(60s, 10) == 6s);
  GOLDEN_CHECK(good, panic_window(10s, 10) == 1s);
  GOLDEN_CHECK(good, panic_window(6s, 1) == 1s);
  GOLDEN_CHECK(good, panic_window(10min, 10) == 60s);
  GOLDEN_CHECK(good, panic_window(60s, 50) == 30s);
  GOLDEN_CHECK(good, panic_window(60s, 51) == 31s);
  group.count(good);
}

TEST_CASE("golden C22-C27: resizing, adding up, and starting anew") {
  golden::Group group("C22-C25, C27");
  bool good = true;
  TimeBuckets stale(5s, 1s);  // C22
  stale.record(golden::at(0), 9);
  stale.resize(10s, golden::at(60));
  stale.record(golden::at(61), 4);
  GOLDEN_CHECK(good, stale.average(golden::at(61)) == 4);
  GOLDEN_CHECK(good, stale.sum() == 4);
  group.count(good);
  TimeBuckets same(5s, 1s);  // C23
  same.record(golden::at(0), 3);
  same.resize(5s, golden::at(60));
  GOLDEN_CHECK(good, same.sum() == 3);
  group.count(good);
  TimeBuckets stable(6s, 1s);  // C24
  TimeBuckets panic(2s, 1s);
  for (int i = 5; i <= 14; ++i) {
    stable.record(golden::at(i), i);
    panic.record(golden::at(i), i);
  }
  GOLDEN_CHECK(good, stable.average(golden::at(14)) == 11.5);
  GOLDEN_CHECK(good, panic.average(golden::at(14)) == 13.5);
  group.count(good);
  TimeBuckets adding(60s, 1s);  // C25
  for (int i = 0; i < 3; ++i) adding.record(golden::at(0.1 * i), 10);
  GOLDEN_CHECK(good, adding.average(golden::at(0.5)) == 30);
  for (int i = 0; i < 2; ++i) adding.record(golden::at(0.6), 10);
  GOLDEN_CHECK(good, adding.average(golden::at(55)) == 50);
  TimeBuckets two(60s, 1s);
  for (int i = 0; i < 7; ++i) two.record(golden::at(i < 3 ? 0 : 1), 10);
  GOLDEN_CHECK(good, two.average(golden::at(1)) == 35);
  group.count(good);
  TimeBuckets old(60s, 1s);  // C27
  old.record(golden::at(0), 50);
  old.record(golden::at(70), 10);
  GOLDEN_CHECK(good, old.average(golden::at(70)) == 10);
  group.count(good);
}

TEST_CASE("golden G: the capacity of a proxy's breaker") {
  golden::Group group("G");
  for (const Json& item : golden::load("G_breaker")) {
    INFO(item.dump());
    bool good = true;
    const std::size_t tracked = item.at("trackers").is_null() ? 0 : item.at("trackers").get<std::size_t>();
    GOLDEN_CHECK(good, breaker_capacity(item.at("cc"), item.at("backends"), item.at("activators"), item.at("index"),
                                        tracked) == item.at("want"));
    group.count(good);
  }
}

TEST_CASE("golden N: how many proxies a function needs") {
  golden::Group group("N");
  for (const Json& item : golden::load("N_proxies")) {
    INFO(item.dump());
    bool good = true;
    GOLDEN_CHECK(good, proxies_needed(item.at("ready"), item.at("total"), item.at("tbc"), item.at("capacity")) ==
                           item.at("want"));
    group.count(good);
  }
}

TEST_CASE("golden P: which sandboxes belong to which proxy") {
  golden::Group group("P");
  for (const Json& item : golden::load("P_shares")) {
    INFO(item.dump());
    bool good = true;
    const ProxyShare want{item.at("begin"), item.at("end"), item.at("remnant")};
    GOLDEN_CHECK(good, proxy_share(item.at("pods"), item.at("index"), item.at("activators")) == want);
    group.count(good);
  }
  const auto slice = [&](std::vector<int> sandboxes, int index, std::size_t proxies, std::vector<int> want) {
    bool good = true;
    GOLDEN_CHECK(good, proxy_slice(std::span<const int>(sandboxes), index, proxies) == want);
    group.count(good);
  };
  slice({}, 0, 3, {});                 // P13
  slice({1, 2, 3}, 0, 1, {1, 2, 3});   // P14
  slice({1, 2, 3}, -1, 3, {1, 2, 3});  // P15
  slice({1, 2, 3}, 1, 3, {2});         // P16
  slice({1}, 2, 3, {1});               // P17
  slice({1, 2, 3}, 1, 2, {2});         // P18
  slice({1, 2, 3}, 0, 2, {1, 3});
  slice({1, 2, 3, 4, 5, 6}, 0, 4, {1, 5});  // P19
  CHECK(breaker_capacity(42, 6, 4, 0, 6) == 84);
}

// The report of a proxy is what the intake makes of raw samples: one with the first request, one at each tick.
TEST_CASE("golden R: what is recorded of first requests and ticks") {
  golden::Group group("R");
  for (const Json& item : golden::load("R_report")) {
    INFO(item.dump());
    double first_tick = 1;
    for (const Json& event : item.at("events")) {
      if (event[0] == "tick") {
        first_tick = event[1];
        break;
      }
    }
    bool good = true;
    LoadIntake intake(golden::span(first_tick / 1000));
    std::vector<std::pair<double, double>> got;
    double in_flight = 0;
    double integral = 0;
    double since = 0;
    double last = 0;
    LoadSample sample;
    bool quiet = true;
    const auto report = [&](double now) {
      sample.current = static_cast<std::uint32_t>(in_flight);
      sample.interval = golden::span((now - since) / 1000);
      sample.concurrency = now > since ? integral / (now - since) : in_flight;
      const auto amounts = intake.take(golden::at(now / 1000), sample);
      REQUIRE(amounts);
      got.emplace_back(amounts->concurrency, amounts->arrivals);
      quiet = sample.current == 0 && sample.concurrency == 0;
      sample = {};
      integral = 0;
      since = now;
    };
    for (const Json& event : item.at("events")) {
      const double now = event[1];
      integral += in_flight * (now - last);
      last = now;
      if (event[0] == "tick") {
        report(now);
      } else if (event[0] == "out") {
        in_flight -= 1;
      } else {
        in_flight += 1;
        sample.arrivals += 1;
        if (quiet) report(now);
      }
    }
    REQUIRE(got.size() == item.at("want").size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      GOLDEN_CHECK(good, got[i].first == Approx(item.at("want")[i][0].get<double>()).margin(1e-9));
      GOLDEN_CHECK(good, got[i].second == item.at("want")[i][1]);
    }
    group.count(good);
  }
}
