// SPDX-License-Identifier: MIT
#include <cmath>
#include <numbers>
#include <numeric>

#include "catch.h"
#include "dirigent/base/random.h"
#include "dirigent/policy/autoscaler.h"
#include "policy/forecast.h"
#include "policy/mu.h"
#include "policy/rate_bank.h"
#include "policy/smoothing.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

Instant at(double seconds) { return Instant(from_seconds(seconds)); }
using Series = std::vector<std::uint32_t>;
using AllSeries = std::vector<Series>;

}  // namespace

TEST_CASE("extrapolation: a constant stays, a ramp goes on, an oscillation comes again in its own phase") {
  const std::vector<double> constant(60, 5.0);
  for (const double value : extrapolate(constant, 10)) CHECK(value == Approx(5));
  std::vector<double> ramp(60);
  std::iota(ramp.begin(), ramp.end(), 0.0);
  const auto next = extrapolate(ramp, 10);
  for (std::size_t i = 0; i < 60; ++i) CHECK(next[i] == Approx(60.0 + static_cast<double>(i)));
  // The original read its bins newest first: its forecast ran backwards. A saw tooth tells the directions apart.
  std::vector<double> saw(60);
  for (std::size_t i = 0; i < 60; ++i) saw[i] = static_cast<double>(i % 10);
  const auto again = extrapolate(saw, 30);
  double forwards = 0;
  double backwards = 0;
  for (std::size_t i = 0; i < 60; ++i) {
    forwards += std::abs(again[i] - static_cast<double>(i % 10));
    backwards += std::abs(again[i] - static_cast<double>(9 - i % 10));
  }
  CHECK(forwards / 60 < 2);  // the straight line through a saw tooth rises a little
  CHECK(backwards / 60 > 4);
  CHECK(extrapolate({}, 10).empty());
}

TEST_CASE("extrapolation: the original's spike vector, up to the part of the fit it left out") {
  std::vector<double> spikes(60, 0.0);
  for (std::size_t i = 0; i < 60; i += 10) spikes[i] = 20;
  const auto next = extrapolate(spikes, 10);
  CHECK(next[0] == Approx(18.785).margin(0.5));
  CHECK(next[1] == Approx(-1.520).margin(0.5));
  CHECK(next[10] == Approx(18.114).margin(0.5));
  CHECK(next[20] == Approx(18.079).margin(0.5));
}

TEST_CASE("a forecast per minute becomes sandboxes as in the original's table") {
  CHECK(scale_for(0.05, 1) == 0);
  CHECK(scale_for(0.5, 1) == 1);
  CHECK(scale_for(1, 1) == 1);
  CHECK(scale_for(40, 1) == 1);
  CHECK(scale_for(41, 1) == 2);
  CHECK(scale_for(100, 1) == 3);
  CHECK(scale_for(600, 1) == 15);
  CHECK(scale_for(60, 0.5) == 3);
  CHECK(scale_for(60, 0.1) == 15);
  CHECK(scale_for(3, 0.01) == 3);
  CHECK(scale_for(100, 0) == 3);
  CHECK(scale_for(-5, 1) == 0);
  CHECK(scale_for(std::nan(""), 1) == 0);
}

TEST_CASE("the forward maximum is the original's") {
  CHECK(forward_maximum(Series{1, 1, 1, 5, 1, 1, 1}, 3) == Series{1, 5, 5, 5, 1, 1, 1, 1});
  CHECK(forward_maximum(Series{0, 0, 0, 0, 3, 0, 0, 0, 0}, 3) == Series{0, 0, 3, 3, 3, 0, 0, 0, 0, 0});
  CHECK(forward_maximum(Series{1, 2, 3, 4, 5, 6}, 3) == Series{3, 4, 5, 6, 6, 6, 6});
  CHECK(forward_maximum(Series{4, 3, 2, 1, 0, 0}, 3) == Series{4, 3, 2, 1, 0, 0, 0});
  CHECK(forward_maximum(Series{}, 3) == Series{0});
}

TEST_CASE("smoothing moves creations earlier as in the original's vectors") {
  const auto up = [](AllSeries series, std::uint32_t most) {
    smooth_up(series, most);
    return series;
  };
  CHECK(up({{0, 0, 0, 200}}, 80) == AllSeries{{0, 40, 120, 200}});
  CHECK(up({{0, 0, 0, 0, 200, 200}}, 80) == AllSeries{{0, 0, 40, 120, 200, 200}});
  CHECK(up({{10, 10, 250, 250, 0, 0, 0, 0}}, 80) == AllSeries{{90, 170, 250, 250, 0, 0, 0, 0}});
  CHECK(up({{0, 0, 0, 6}, {0, 0, 0, 6}}, 4) == AllSeries{{0, 2, 4, 6}, {0, 2, 4, 6}});
  CHECK(up({}, 4).empty());
}

TEST_CASE("smoothing moves removals later, the first step included, which the original left out") {
  const auto down = [](AllSeries series, std::uint32_t most) {
    smooth_down(series, most);
    return series;
  };
  CHECK(down({{300, 200, 100, 0, 0}}, 80) == AllSeries{{300, 220, 140, 60, 0}});
  CHECK(down({{200, 0, 0, 0, 0}}, 80) == AllSeries{{200, 120, 40, 0, 0}});
  CHECK(down({{6, 0, 0, 0}, {6, 0, 0, 0}}, 4) == AllSeries{{6, 4, 2, 0}, {6, 4, 2, 0}});
}

TEST_CASE("smoothed series keep every need, and no step but the first is too large") {
  const std::uint64_t seed = 8;
  INFO("seed " << seed);
  Rng rng(seed);
  for (int round = 0; round < 200; ++round) {
    AllSeries series(1 + rng.below(5), Series(40));
    for (auto& values : series) {
      for (auto& value : values) value = static_cast<std::uint32_t>(rng.below(8) == 0 ? rng.below(60) : rng.below(4));
    }
    AllSeries smoothed = series;
    smooth_up(smoothed, 20);
    for (std::size_t i = 1; i < 40; ++i) {
      std::uint32_t created = 0;
      for (std::size_t f = 0; f < series.size(); ++f) {
        REQUIRE(smoothed[f][i] >= series[f][i]);
        if (smoothed[f][i] > smoothed[f][i - 1]) created += smoothed[f][i] - smoothed[f][i - 1];
      }
      REQUIRE(created <= 20);
    }
  }
}

TEST_CASE("service time follows the load as an average of about a minute, in fractions of a second") {
  ServiceTime time;
  LoadSample sample;
  sample.interval = 60s;
  time.observe(sample);
  CHECK(time.seconds() == 0);
  sample.completions = 4;
  sample.busy = 1s;
  time.observe(sample);
  CHECK(time.seconds() == 0.25);
  // The original's own test: 0.8 of the new value and 0.2 of the old one, after one of its periods.
  sample.busy = 5s;
  time.observe(sample);
  CHECK(time.seconds() == Approx(0.8 * 1.25 + 0.2 * 0.25));
}

TEST_CASE("the formula of mu is the paper's, and the original's table but for its zero") {
  const auto mu = [](double rate, double concurrency, double ready, double seconds) {
    return mu_scale(rate, concurrency - ready, 1 / seconds, 9 * seconds);
  };
  CHECK(mu(0, 0, 1, 1) == 0);  // the original: 1, so it never scaled to zero
  CHECK(mu(10, 10, 1, 1) == 11);
  CHECK(mu(10, 28, 1, 1) == 13);
  CHECK(mu(10, 10, 10, 1) == 10);
  CHECK(mu(10, 10, 30, 1) == 8);
  CHECK(mu(2.5, 40, 5, 2) == 9);
}

TEST_CASE("the bank of predictors learns a level, a swing, and stays sane whatever the scale") {
  for (const double scale : {0.01, 1.0, 10'000.0}) {
    INFO("scale " << scale);
    RateBank level;
    for (int i = 0; i < 300; ++i) level.record(7 * scale);
    CHECK(level.predict() == Approx(7 * scale).epsilon(0.05));
    RateBank swing;
    double naive = 0;
    double learned = 0;
    double last = 0;
    for (int i = 0; i < 2000; ++i) {
      const double value = scale * (10 + 8 * std::sin(2 * std::numbers::pi * i / 12));
      if (i > 1500) {
        learned += std::abs(swing.predict() - value);
        naive += std::abs(last - value);
      }
      swing.record(value);
      last = value;
    }
    CHECK(learned < naive / 2);
    CHECK(std::isfinite(swing.error()));
  }
  RateBank empty;
  CHECK(empty.predict() == 0);
}

// --- Through the public interface -----------------------------------------------------------------------------------

namespace {

ScalingSettings native() { return scaling_profile("dirigent").value().scaling; }

struct Function {
  std::unique_ptr<Autoscaler> scaler;
  std::uint32_t ready = 0;
};

void feed(Function& function, double t, double load, std::uint64_t arrivals, double seconds_each) {
  LoadSample sample;
  sample.concurrency = load;
  sample.current = static_cast<std::uint32_t>(std::ceil(load));
  sample.arrivals = sample.completions = arrivals;
  sample.busy = from_seconds(seconds_each * static_cast<double>(arrivals));
  sample.interval = 1s;
  function.scaler->observe(at(t), sample);
}

ScalingDecision look(Function& function, double t) {
  const auto decision = function.scaler->decide({.now = at(t), .ready = function.ready});
  if (decision.desired) function.ready = *decision.desired;
  return decision;
}

}  // namespace

TEST_CASE("predictive has sandboxes ready before a load that comes every ten minutes comes again") {
  const auto family = make_autoscaler_family(AutoscalerKind::predictive);
  Function function{family->make({"f"}, native(), 1, 0, at(0))};
  std::uint32_t ready_before = 0;
  std::uint32_t ready_before_reactive = 0;
  bool forecast_spoke = false;
  for (int t = 1; t < 3 * 3600; ++t) {
    const int phase = t % 600;
    const bool loaded = phase < 60;
    if (phase == 0 && t > 3700) ready_before = function.ready;
    if (phase == 0 && t < 3600) ready_before_reactive = function.ready;
    if (loaded || phase == 60) feed(function, t, loaded ? 20 : 0, loaded ? 20 : 0, 1.0);
    if (t % 2 == 0) {
      const auto decision = look(function, t);
      forecast_spoke = forecast_spoke || decision.note == "forecast";
    }
  }
  CHECK(ready_before_reactive == 0);
  CHECK(ready_before >= 15);
  CHECK(ready_before <= 60);
  CHECK(forecast_spoke);
}

TEST_CASE("predictive spreads the creations of all functions over epochs") {
  const auto family = make_autoscaler_family(AutoscalerKind::predictive);
  std::vector<Function> functions;
  for (int i = 0; i < 10; ++i) functions.push_back({family->make({"f" + std::to_string(i)}, native(), 1, 0, at(0))});
  std::uint32_t created_most = 0;
  for (int t = 1; t < 3 * 3600; ++t) {
    const int phase = t % 600;
    const bool loaded = phase < 60;
    std::uint32_t created = 0;
    for (auto& function : functions) {
      if (loaded || phase == 60) feed(function, t, loaded ? 50 : 0, loaded ? 50 : 0, 1.0);
      if (t % 2 != 0) continue;
      const std::uint32_t before = function.ready;
      const auto decision = look(function, t);
      if (decision.note == "forecast" && function.ready > before) created += function.ready - before;
    }
    // The two epochs of a look that fall into one smoothing are at most 80 each.
    if (t > 2 * 3600) created_most = std::max(created_most, created);
  }
  CHECK(created_most > 20);
  CHECK(created_most <= 160);
}

TEST_CASE("a predictive function that goes away leaves the others alone") {
  const auto family = make_autoscaler_family(AutoscalerKind::predictive);
  Function stays{family->make({"a"}, native(), 1, 0, at(0))};
  {
    Function goes{family->make({"b"}, native(), 1, 0, at(0))};
    look(goes, 1);
  }
  for (int t = 2; t < 4000; t += 2) {
    feed(stays, t, 1, 2, 0.5);
    look(stays, t);
  }
  CHECK(stays.ready >= 1);
}

TEST_CASE("mu has what its predicted rate needs, and goes to zero") {
  const auto family = make_autoscaler_family(AutoscalerKind::mu);
  Function function{family->make({"f"}, native(), 1, 0, at(0))};
  ScalingDecision decision;
  for (int t = 1; t <= 600; ++t) {
    feed(function, t, 10, 20, 0.5);
    if (t % 2 == 0) decision = look(function, t);
  }
  CHECK(decision.predicted == Approx(20).epsilon(0.1));
  CHECK(function.ready >= 10);
  CHECK(function.ready <= 12);
  feed(function, 601, 0, 0, 0);
  for (int t = 602; t <= 800; t += 2) look(function, t);
  CHECK(function.ready == 0);
}

TEST_CASE("mu adds sandboxes for what waits, by the slack of the objective") {
  const auto family = make_autoscaler_family(AutoscalerKind::mu);
  Function function{family->make({"f"}, native(), 1, 0, at(0))};
  for (int t = 1; t <= 600; ++t) {
    feed(function, t, 10, 10, 1.0);
    if (t % 2 == 0) look(function, t);
  }
  const std::uint32_t before = function.ready;
  LoadSample sample;
  sample.concurrency = 100;
  sample.current = 100;
  sample.waiting = 90;
  sample.arrivals = sample.completions = 10;
  sample.busy = 10s;
  sample.interval = 1s;
  function.scaler->observe(at(601), sample);
  look(function, 601);
  CHECK(function.ready >= before + 9);
  CHECK(function.ready <= before + 13);
}
