// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <functional>

#include "catch.h"
#include "dirigent/base/random.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/scripted.h"
#include "policy/kpa.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

constexpr AutoscalerKind kAll[] = {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu,
                                   AutoscalerKind::scripted};

Instant at(double seconds) { return Instant(from_seconds(seconds)); }

ScalingSettings native() {
  ScalingSettings settings = scaling_profile("dirigent").value().scaling;
  return settings;
}

// One function under one autoscaler: sandboxes are ready as soon as they are wanted, unless a test says otherwise.
struct Rig {
  Rig(AutoscalerKind kind, ScalingSettings with, std::uint32_t concurrency_limit, std::uint32_t there = 0,
      double start = 0)
      : settings(with), limit(concurrency_limit), ready(there), now(start) {
    family = make_autoscaler_family(kind);
    scaler = family->make({"f"}, settings, limit, ready, at(now));
  }
  void sample(double concurrency, std::uint32_t current, double interval, std::uint64_t arrivals = 0,
              double busy_each = 0) {
    LoadSample load;
    load.concurrency = concurrency;
    load.current = current;
    load.waiting = current > ready ? current - ready : 0;
    load.arrivals = arrivals;
    load.completions = arrivals;
    load.busy = from_seconds(busy_each * static_cast<double>(arrivals));
    load.interval = from_seconds(interval);
    scaler->observe(at(now), load);
  }
  ScalingDecision look(bool urgent = false, bool reachable = true) {
    return scaler->decide(
        {.now = at(now), .ready = ready, .starting = starting, .reachable = reachable, .urgent = urgent});
  }
  // Steady load for some seconds, with a sample every second and a look every other; `seen` gets each decision.
  void run(double seconds, double load, const std::function<void(const ScalingDecision&)>& seen = {},
           std::uint64_t arrivals = 0, double busy_each = 0) {
    for (int i = 0; i < static_cast<int>(seconds); ++i) {
      now += 1;
      if (load > 0 || was_loaded) sample(load, static_cast<std::uint32_t>(std::ceil(load)), 1, arrivals, busy_each);
      was_loaded = load > 0;
      if (i % 2 == 0) continue;
      const ScalingDecision decision = look();
      if (decision.desired) ready = *decision.desired;
      if (seen) seen(decision);
    }
  }

  ScalingSettings settings;
  std::uint32_t limit;
  std::uint32_t ready;
  std::uint32_t starting = 0;
  double now;
  bool was_loaded = false;
  std::unique_ptr<AutoscalerFamily> family;
  std::unique_ptr<Autoscaler> scaler;
};

}  // namespace

TEST_CASE("autoscaler: names and aliases are read, and a slip of the pen gets a suggestion") {
  for (const auto kind : kAll) {
    CHECK(parse_autoscaler(to_string(kind)).value() == kind);
    CHECK(make_autoscaler_family(kind)->kind() == kind);
  }
  CHECK(parse_autoscaler("default").value() == AutoscalerKind::knative);
  CHECK(parse_autoscaler("escargot").value() == AutoscalerKind::predictive);
  const auto error = parse_autoscaler("knativ");
  REQUIRE_FALSE(error);
  CHECK(error.error().code == ErrorCode::invalid_argument);
  CHECK(error.error().message.find("did you mean \"knative\"?") != std::string::npos);
}

TEST_CASE("a burst of n requests from zero starts ceil(n / target) sandboxes at once, and never more") {
  for (const double utilization : {100.0, 70.0}) {
    for (const std::uint32_t limit : {1U, 4U, 0U}) {
      for (const std::uint32_t burst : {1U, 2U, 7U, 50U, 690U}) {
        ScalingSettings settings = native();
        settings.utilization_percent = utilization;
        const double target = resolve_target(settings.metric, limit, settings.target, utilization).target;
        const auto want = static_cast<std::uint32_t>(std::ceil(burst / target));
        INFO("limit " << limit << " utilisation " << utilization << " burst " << burst);
        Rig rig(AutoscalerKind::knative, settings, limit, 0, 100);
        rig.sample(burst, burst, 0.0002, burst);
        CHECK(rig.look(true).desired == want);
        // The same demand reported again while the sandboxes start changes nothing.
        rig.starting = want;
        for (int i = 0; i < 5; ++i) {
          rig.now += 0.01;
          rig.sample(burst, burst, 0.01);
          CHECK(rig.look(true).desired == want);
        }
        rig.starting = 0;
        rig.ready = want;
        rig.was_loaded = true;
        rig.run(40, burst, [&](const ScalingDecision& decision) { CHECK(decision.desired == want); });
      }
    }
  }
}

TEST_CASE("a burst on top of running sandboxes is served at once") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  rig.run(100, 8);  // long enough for the panic of the start to be over
  REQUIRE(rig.ready == 8);
  rig.now += 0.3;
  rig.sample(8, 11, 0.3);
  const ScalingDecision decision = rig.look(true);
  CHECK(decision.desired == 11U);
  CHECK_FALSE(decision.panicking);
  CHECK(decision.note == "requests waiting");
  // The averages have hardly moved, but what was needed a moment ago is not removed.
  rig.ready = 11;
  rig.now += 0.7;
  rig.sample(8, 8, 0.7);
  CHECK(rig.look().desired == 11U);
  rig.run(8, 8);
  CHECK(rig.ready <= 9);
}

TEST_CASE("a function that reacts only from zero looks at averages, as Knative does") {
  ScalingSettings settings = native();
  settings.reaction = Reaction::from_zero;
  Rig rig(AutoscalerKind::knative, settings, 1, 0);
  rig.run(100, 8);  // long enough for the panic of the start to be over
  REQUIRE(rig.ready == 8);
  rig.now += 0.3;
  rig.sample(8, 11, 0.3);
  CHECK(rig.look(true).desired == 8U);
}

TEST_CASE("scale to zero comes when the window is over, and not before") {
  for (const auto kind : {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu}) {
    INFO(to_string(kind));
    Rig rig(kind, native(), 1, 0);
    rig.sample(1, 1, 0.001, 1);
    rig.ready = *rig.look(true).desired;
    REQUIRE(rig.ready == 1);
    rig.was_loaded = true;
    rig.run(58, 0, [&](const ScalingDecision& decision) { CHECK(decision.desired == 1U); });
    rig.run(6, 0);
    CHECK(rig.ready == 0);
  }
}

TEST_CASE("after a long idle time the window starts anew") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  rig.run(20, 3);
  rig.run(90, 0);
  REQUIRE(rig.ready == 0);
  rig.now += 3600;
  rig.sample(0.0001, 5, 3600, 5);
  const ScalingDecision decision = rig.look(true);
  CHECK(decision.stable_average == 5);
  CHECK(decision.desired == 5U);
}

TEST_CASE("grace and retention keep the last sandbox, and one only") {
  ScalingSettings settings = native();
  settings.scale_to_zero_grace = 30s;
  Rig grace(AutoscalerKind::knative, settings, 1, 0);
  grace.run(4, 4);
  std::string last;
  double zero_at = 0;
  grace.run(200, 0, [&](const ScalingDecision& decision) {
    if (decision.desired == 1U) last = decision.note;
    if (decision.desired == 0U && zero_at == 0) zero_at = grace.now;
  });
  CHECK(last == "kept for the grace period");
  CHECK(zero_at >= 4 + 60 + 30);
  CHECK(zero_at <= 4 + 60 + 30 + 14);
  settings.scale_to_zero_grace = 0s;
  settings.last_sandbox_retention = 100s;
  Rig retention(AutoscalerKind::knative, settings, 1, 0);
  retention.run(4, 4);
  zero_at = 0;
  retention.run(300, 0, [&](const ScalingDecision& decision) {
    if (decision.desired == 1U) last = decision.note;
    if (decision.desired == 0U && zero_at == 0) zero_at = retention.now;
  });
  CHECK(last == "last sandbox retained");
  CHECK(zero_at >= 4 + 60 + 100);
  CHECK(zero_at <= 4 + 60 + 100 + 14);
}

TEST_CASE("a function with scale to zero off keeps one") {
  ScalingSettings settings = native();
  settings.scale_to_zero = false;
  for (const auto kind : {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu}) {
    Rig rig(kind, settings, 1, 0);
    rig.run(4, 4);
    rig.run(300, 0);
    CHECK(rig.ready == 1);
  }
}

TEST_CASE("bounds hold with and without load, for every policy") {
  const std::uint64_t seed = 5;
  INFO("seed " << seed);
  for (const auto kind : {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu}) {
    INFO(to_string(kind));
    ScalingSettings settings = native();
    settings.min_scale = 2;
    settings.max_scale = 9;
    Rig rig(kind, settings, 1, 0);
    const ScalingDecision first = rig.look();
    CHECK(first.desired == 2U);
    CHECK(first.note == "min scale 2");
    Rng rng(seed);
    for (int i = 0; i < 200; ++i) {
      rig.run(2 + static_cast<double>(rng.below(20)), static_cast<double>(rng.below(30)),
              [](const ScalingDecision& decision) {
                REQUIRE(decision.desired);
                REQUIRE(*decision.desired >= 2);
                REQUIRE(*decision.desired <= 9);
              });
    }
    rig.run(300, 0);
    CHECK(rig.ready == 2);
    rig.settings.min_scale = 0;
    rig.scaler->reconfigure(rig.settings, rig.limit);
    rig.run(300, 0);
    CHECK(rig.ready == 0);
  }
}

TEST_CASE("an unreachable function has no minimum") {
  ScalingSettings settings = native();
  settings.min_scale = 3;
  Rig rig(AutoscalerKind::knative, settings, 1, 3);
  for (int i = 0; i < 100; ++i) {
    rig.now += 2;
    const auto decision = rig.look(false, false);
    if (decision.desired) rig.ready = *decision.desired;
  }
  CHECK(rig.ready == 0);
}

TEST_CASE("the initial scale is kept until it is reached, and not after") {
  ScalingSettings settings = native();
  settings.initial_scale = 3;
  Rig rig(AutoscalerKind::knative, settings, 1, 0);
  CHECK(rig.look().desired == 3U);
  rig.sample(1, 1, 0.001, 1);
  rig.starting = 3;
  CHECK(rig.look(true).desired == 3U);
  rig.starting = 0;
  rig.ready = 3;
  rig.was_loaded = true;
  rig.run(200, 1);
  CHECK(rig.ready == 1);
}

TEST_CASE("no data changes nothing") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  const ScalingDecision decision = rig.look();
  CHECK_FALSE(decision.desired);
  CHECK(decision.note == "no data");
  CHECK(decision.raw == 0);
  // A49: what is wanted stays when nothing is known.
  Rig two(AutoscalerKind::knative, native(), 1, 2);
  CHECK_FALSE(two.look().desired);
}

// A leader that has just taken over finds sandboxes of functions that nobody calls, of which nobody will ever report.
TEST_CASE("sandboxes of a function that never reports go when the window is over") {
  for (const auto kind : {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu}) {
    INFO(to_string(kind));
    Rig rig(kind, native(), 1, 7);
    for (int i = 0; i < 28; ++i) {
      rig.now += 2;
      const auto decision = rig.look();
      if (decision.desired) {
        CHECK(*decision.desired >= 1);
        rig.ready = *decision.desired;
      }
    }
    for (int i = 0; i < 60; ++i) {
      rig.now += 2;
      const auto decision = rig.look();
      if (decision.desired) rig.ready = *decision.desired;
    }
    CHECK(rig.ready == 0);
  }
}

TEST_CASE("a load whose data plane is gone ends, but not within a few lost reports") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  rig.run(60, 10);
  REQUIRE(rig.ready == 10);
  rig.now += 6;
  CHECK(rig.look().stable_average == 10);
  for (int i = 0; i < 100; ++i) {
    rig.now += 2;
    const auto decision = rig.look();
    if (decision.desired) rig.ready = *decision.desired;
  }
  CHECK(rig.ready == 0);
}

TEST_CASE("samples of any length add up to the same load") {
  Rig seconds(AutoscalerKind::knative, native(), 1, 0);
  Rig tenths(AutoscalerKind::knative, native(), 1, 0);
  Rig threes(AutoscalerKind::knative, native(), 1, 0);
  for (Rig* rig : {&seconds, &tenths, &threes}) rig->sample(12, 12, 0, 12);
  for (int i = 1; i <= 600; ++i) {
    tenths.now = i * 0.1;
    tenths.sample(12, 12, 0.1);
    if (i % 10 == 0) {
      seconds.now = i * 0.1;
      seconds.sample(12, 12, 1);
    }
    if (i % 30 == 0) {
      threes.now = i * 0.1;
      threes.sample(12, 12, 3);
    }
  }
  for (Rig* rig : {&seconds, &tenths, &threes}) {
    const auto decision = rig->look();
    CHECK(decision.stable_average == Approx(12).epsilon(0.03));
    CHECK(decision.panic_average == Approx(12).epsilon(0.2));
    CHECK(decision.panic_average <= 12.0001);
    CHECK(decision.desired == 12U);
  }
}

// Each request that has to wait brings a sample of its own; they must not look like more load.
TEST_CASE("many short samples between the regular ones do not raise the averages") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  rig.run(100, 8);
  REQUIRE(rig.ready == 8);
  for (int i = 0; i < 500; ++i) {
    rig.now += 0.1;
    rig.sample(8, 8, 0.1);
    const auto decision = rig.look(true);
    REQUIRE(decision.stable_average == Approx(8).epsilon(0.03));
    REQUIRE(decision.panic_average == Approx(8).epsilon(0.2));
    REQUIRE(decision.desired == 8U);
  }
}

TEST_CASE("requests per second scale by arrivals, and a queue without a limit needs one sandbox only") {
  ScalingSettings settings = native();
  settings.metric = ScalingMetric::rps;
  settings.target = 50;
  Rig rig(AutoscalerKind::knative, settings, 0, 0);
  rig.sample(30, 30, 0.001, 30);
  CHECK(rig.look(true).desired == 1U);
  rig.ready = 1;
  rig.was_loaded = true;
  for (int i = 0; i < 30; ++i) rig.run(2, 3, {}, 400);
  CHECK(rig.ready == 8);
  // With a limit the queue itself says how many it needs.
  Rig limited(AutoscalerKind::knative, settings, 10, 0);
  limited.sample(35, 35, 0.001, 35);
  CHECK(limited.look(true).desired == 4U);
}

TEST_CASE("new settings keep the history, another metric does not") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  rig.run(30, 10);
  rig.settings.stable_window = 20s;
  rig.scaler->reconfigure(rig.settings, 2);
  const auto decision = rig.look();
  CHECK(decision.stable_average == 10);
  CHECK(decision.target == 2);
  rig.settings.metric = ScalingMetric::rps;
  rig.scaler->reconfigure(rig.settings, 2);
  CHECK(rig.look().stable_average == 0);
}

TEST_CASE("a start that nobody waits for any more is given up") {
  Rig rig(AutoscalerKind::knative, native(), 1, 0);
  rig.sample(1, 1, 0.001, 1);
  CHECK(rig.look(true).desired == 1U);
  rig.starting = 1;
  rig.now += 1;
  rig.sample(0, 0, 1);
  std::optional<double> zero_at;
  for (int i = 0; i < 100 && !zero_at; ++i) {
    rig.now += 2;
    if (rig.look().desired == 0U) zero_at = rig.now;
  }
  REQUIRE(zero_at);
  CHECK(*zero_at > 59);
  CHECK(*zero_at < 70);
}

TEST_CASE("the scale-down delay holds the largest wish of its time") {
  ScalingSettings settings = native();
  settings.reaction = Reaction::from_zero;
  settings.stable_window = 6s;
  settings.scale_down_delay = 120s;
  Rig rig(AutoscalerKind::knative, settings, 1, 0);
  rig.run(20, 10);
  rig.run(100, 2, [](const ScalingDecision& decision) {
    CHECK(decision.desired == 10U);
    CHECK(decision.excess_burst_capacity < 0);
  });
  // The rate lets it halve only, and that wish is held for the same time.
  rig.run(40, 2);
  CHECK(rig.ready == 5);
  rig.run(120, 2);
  CHECK(rig.ready == 2);
}

TEST_CASE("scripted replays its schedule within the bounds") {
  ScalingSchedule schedule;
  schedule.otherwise = {{60s, 5}, {10s, 2}, {60s, 4}, {120s, 0}};
  schedule.functions[{"other"}] = {{0s, 1}};
  const auto family = make_scripted_family(schedule);
  ScalingSettings settings = native();
  settings.max_scale = 3;
  const auto scaler = family->make({"f"}, settings, 1, 0, at(1000));
  const auto other = family->make({"other"}, settings, 1, 0, at(1050));
  const auto decide = [&](double t) {
    return scaler->decide({.now = at(1000 + t), .ready = 0});
  };
  CHECK_FALSE(decide(9.9).desired);
  CHECK(decide(9.9).note == "before the first step of the schedule");
  CHECK(decide(10).desired == 2U);
  CHECK(decide(59).note == "schedule at 10.0 s");
  CHECK(decide(60).desired == 3U);
  CHECK(decide(60).raw == 4);
  CHECK(decide(60).note == "max scale 3");
  CHECK(decide(500).desired == 0U);
  CHECK(other->decide({.now = at(1051)}).desired == 1U);
  const auto empty = make_autoscaler_family(AutoscalerKind::scripted);
  CHECK_FALSE(empty->make({"f"}, settings, 1, 0, at(0))->decide({.now = at(1)}).desired);
}

TEST_CASE("the same samples give the same decisions, for every policy") {
  const std::uint64_t seed = 77;
  INFO("seed " << seed);
  for (const auto kind : kAll) {
    std::vector<std::uint32_t> first;
    for (int pass = 0; pass < 2; ++pass) {
      Rng rng(seed);
      Rig rig(kind, native(), 1, 0);
      std::vector<std::uint32_t> wishes;
      for (int i = 0; i < 300; ++i) {
        const auto arrivals = rng.below(40);
        rig.run(
            2 + static_cast<double>(rng.below(30)), static_cast<double>(rng.below(20)),
            [&](const ScalingDecision& decision) { wishes.push_back(decision.desired.value_or(99999)); }, arrivals,
            rng.unit());
      }
      if (pass == 0) first = wishes;
      CHECK(wishes == first);
    }
  }
}
