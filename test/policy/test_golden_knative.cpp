// SPDX-License-Identifier: MIT
#include <cmath>
#include <functional>

#include "dirigent/policy/autoscaler.h"
#include "golden.h"
#include "policy/kpa.h"
#include "policy/scale_rules.h"

using namespace dirigent;
using namespace dirigent::policy;
using golden::Json;

namespace {

KpaSpec spec_of(const Json& json) {
  const double target = json.at("T");
  return {.target = target,
          .total = json.value("total", target / 0.75),
          .burst = json.at("tbc"),
          .up_rate = json.value("msur", 10.0),
          .down_rate = json.value("msdr", 10.0),
          .panic_threshold = json.value("thr", 2.0),
          .stable_window = golden::span(json.value("stable", 60.0)),
          .scale_down_delay = golden::span(json.value("delay", 0.0)),
          .activation_scale = json.value("act", 1U),
          .reachable = json.value("reach", true)};
}

}  // namespace

TEST_CASE("golden A: the Knative rule gives the published desired scale, burst capacity and panic flag") {
  golden::Group group("A");
  for (const Json& item : golden::load("A_autoscaler")) {
    INFO(item.dump());
    bool good = true;
    KpaSpec spec = spec_of(item.at("spec"));
    KpaState state = kpa_start(item.at("ready_at_start"), golden::at(0));
    if (!item.at("preset").is_null()) {
      state.panic_since = golden::at(item.at("preset")[0]);
      state.panic_max = item.at("preset")[1];
    }
    for (const Json& step : item.at("steps")) {
      if (step.contains("spec_update")) {
        Json merged = item.at("spec");
        merged.update(step.at("spec_update"));
        spec = spec_of(merged);
      }
      const KpaResult result =
          kpa_decide(spec, state, golden::at(step.at("t")), step.at("ready"), step.at("stable"), step.at("panic"));
      GOLDEN_CHECK(good, result.desired == step.at("desired"));
      GOLDEN_CHECK(good, result.excess_burst == step.at("ebc"));
      GOLDEN_CHECK(good, result.panicking == step.at("in_panic"));
    }
    group.count(good);
  }
}

TEST_CASE("golden A41-A48: a scaler starts in panic above one sandbox, and a new spec keeps the panic") {
  golden::Group group("A41-A44, A47, A48");
  bool good = true;
  for (const std::uint32_t ready : {0U, 1U, 2U}) {  // A41, A42
    const KpaState state = kpa_start(ready, golden::at(0));
    GOLDEN_CHECK(good, state.panic_since.has_value() == (ready > 1));
    GOLDEN_CHECK(good, state.panic_max == ready);
    group.count(good);
  }
  KpaSpec spec;
  spec.target = 1;
  spec.total = 25;
  spec.burst = 42;
  GOLDEN_CHECK(good, excess_burst_before_first_look(spec, 2) == 8);  // A43
  group.count(good);
  spec.burst = -1;
  GOLDEN_CHECK(good, excess_burst_before_first_look(spec, 2) == -1);  // A44
  spec.burst = 0;
  GOLDEN_CHECK(good, excess_burst_before_first_look(spec, 2) == 0);
  group.count(good);
  // A47; A45 follows: a watcher is told when desired changes or the sign does.
  GOLDEN_CHECK(good, same_sign(1982, 1984));
  GOLDEN_CHECK(good, same_sign(-1984, -1988));
  GOLDEN_CHECK(good, !same_sign(-1988, 2006));
  GOLDEN_CHECK(good, same_sign(0, 1));
  GOLDEN_CHECK(good, !same_sign(0, -42));
  group.count(good);
  KpaState state = kpa_start(1, golden::at(0));  // A48
  kpa_decide(spec, state, golden::at(0), 1, 10, 10);
  const auto since = state.panic_since;
  REQUIRE(since);
  spec.target = 10;
  const KpaResult result = kpa_decide(spec, state, golden::at(2), 10, 10, 10);
  GOLDEN_CHECK(good, result.stable_wish == 1);
  GOLDEN_CHECK(good, result.desired == 10);
  GOLDEN_CHECK(good, state.panic_since == since);
  group.count(good);
}

TEST_CASE("golden E: targets follow from limit, target, utilisation and metric") {
  golden::Group group("E");
  for (const Json& item : golden::load("E_target")) {
    INFO(item.dump());
    bool good = true;
    const Json& in = item.at("input");
    const double utilization = in.contains("tuann") ? in.at("tuann").get<double>() : in.value("tu", 1.0) * 100;
    const bool rps = in.value("metric", "concurrency") == "rps";
    const std::optional<double> target = in.contains("ann") ? std::optional(in.at("ann").get<double>()) : std::nullopt;
    // The cases of the rps metric were taken with Knative's default utilisation of 70 %.
    const ScalingTarget result =
        resolve_target(rps ? ScalingMetric::rps : ScalingMetric::concurrency, in.value("cc", 0U), target,
                       rps && !in.contains("tuann") && !in.contains("tu") ? 70 : utilization, in.value("ccdef", 100.0));
    GOLDEN_CHECK(good, result.target == Approx(item.at("target").get<double>()).epsilon(1e-12));
    GOLDEN_CHECK(good, result.total == item.at("total"));
    group.count(good);
  }
}

TEST_CASE("golden E20, E21: bounds and initial scale") {
  golden::Group group("E20, E21");
  bool good = true;
  ScaleRules rules;
  rules.initial_reached = true;
  rules.min_scale = 1;
  rules.max_scale = 100;
  GOLDEN_CHECK(good, scale_bounds(rules).min == 1);
  GOLDEN_CHECK(good, scale_bounds(rules).max == 100);
  rules.reachability = Reachability::unreachable;
  GOLDEN_CHECK(good, scale_bounds(rules).min == 0);
  GOLDEN_CHECK(good, scale_bounds(rules).max == 100);
  group.count(good);
  ScaleRules initial;
  GOLDEN_CHECK(good, initial.initial_scale == 1);
  initial.initial_scale = 2;
  GOLDEN_CHECK(good, ready_needed(initial) == 2);
  initial.initial_scale = 0;
  GOLDEN_CHECK(good, ready_needed(initial) == 0);
  group.count(good);
}

namespace {

ScaleRules rules_of(const Json& in) {
  ScaleRules rules;
  rules.min_scale = in.value("minS", 0U);
  rules.max_scale = in.value("maxS", 0U);
  rules.initial_scale = in.value("init", 1U);
  rules.initial_reached = in.value("initialized", false);
  const std::string reach = in.value("reach", "");
  rules.reachability = reach == "unreachable" ? Reachability::unreachable
                       : reach == "reachable" ? Reachability::reachable
                                              : Reachability::unknown;
  rules.scale_to_zero = in.value("enable", true);
  rules.stable_window = golden::span(in.value("window", 300.0));
  rules.grace = 60s;
  rules.retention = golden::span(in.value("retention_ann", in.value("retention_cfg", 0.0)));
  rules.activation_max = golden::span(in.value("progress", 121.0) + 30);
  return rules;
}

ScaleSituation situation_of(const Json& in) {
  ScaleSituation situation;
  if (in.at("to").get<int>() >= 0) situation.wanted = in.at("to").get<std::uint32_t>();
  situation.present = in.at("start");
  const std::string state = in.value("state", "active");
  situation.activity = state == "inactive"     ? Activity::inactive
                       : state == "activating" ? Activity::activating
                                               : Activity::active;
  situation.in_activity = golden::span(in.value("since", 0.0));
  situation.proxied = golden::span(in.value("proxy_for", 0.0));
  // With an unlimited burst capacity the proxy never leaves the path and needs no probe.
  situation.proxy_ready = in.value("tbc", 200.0) == -1 || in.value("probe", true);
  return situation;
}

}  // namespace

TEST_CASE("golden K: scale to zero, bounds and initial scale decide what is applied") {
  golden::Group group("K");
  for (const Json& item : golden::load("K_scale_rules")) {
    INFO(item.dump());
    bool good = true;
    const ScaleOutcome outcome = apply_scale_rules(rules_of(item.at("input")), situation_of(item.at("input")));
    const int desired = outcome.desired ? static_cast<int>(*outcome.desired) : -1;
    GOLDEN_CHECK(good, desired == item.at("desired"));
    GOLDEN_CHECK(good, outcome.apply == item.at("patched"));
    group.count(good);
  }
}

TEST_CASE("golden K41-K46: activity follows wish and readiness") {
  golden::Group group("K41-K46");
  const auto check = [&](Activity before, std::optional<std::uint32_t> wanted, std::uint32_t ready,
                         std::uint32_t needed, Activity after) {
    bool good = true;
    GOLDEN_CHECK(good, next_activity(before, wanted, ready, needed) == after);
    group.count(good);
  };
  check(Activity::activating, 0, 0, 1, Activity::inactive);           // K41
  check(Activity::active, 3, 1, 2, Activity::activating);             // K42
  check(Activity::activating, 3, 2, 2, Activity::active);             // K43
  check(Activity::inactive, std::nullopt, 0, 1, Activity::inactive);  // K44
  check(Activity::activating, std::nullopt, 0, 1, Activity::activating);
  check(Activity::active, std::nullopt, 0, 1, Activity::activating);
  check(Activity::inactive, std::nullopt, 1, 1, Activity::inactive);  // K45
  check(Activity::activating, std::nullopt, 1, 1, Activity::active);
  check(Activity::active, std::nullopt, 1, 0, Activity::inactive);  // K46
}

// --- Scenarios: samples once a second, a look every two, sandboxes ready two seconds after they are wanted -----------

namespace {

struct Scenario {
  ScalingSettings settings;
  std::uint32_t limit = 0;
  std::uint32_t ready_at_start = 0;
};

// Feeds the production autoscaler through its public interface and compares each look with the table.
void run_scenario(const std::string& file, golden::Group& group, const Scenario& scenario, double first_sample,
                  double last, const std::function<std::uint32_t(double)>& load) {
  const Json table = golden::load(file);
  const auto family = make_autoscaler_family(AutoscalerKind::knative);
  const double first = table.front().at("t");
  const auto scaler =
      family->make({"f"}, scenario.settings, scenario.limit, scenario.ready_at_start, golden::at(first));
  std::size_t row = 0;
  for (double t = first; t <= last; t += 1) {
    if (t >= first_sample) {
      LoadSample sample;
      sample.current = load(t);
      // From zero the first sample comes with the first request, before anything has lasted.
      const bool is_first_request = t == first_sample && scenario.ready_at_start == 0;
      sample.concurrency = sample.current;
      sample.interval = is_first_request ? 0s : 1s;
      scaler->observe(golden::at(t), sample);
    }
    if (row == table.size() || table[row].at("t") != t) continue;
    const Json& want = table[row++];
    INFO(file << " " << want.dump());
    bool good = true;
    const ScalingDecision decision = scaler->decide(
        {.now = golden::at(t), .ready = want.at("ready"), .reachable = true, .urgent = t == first_sample});
    GOLDEN_CHECK(good, decision.stable_average == want.at("stable"));
    GOLDEN_CHECK(good, decision.panic_average == want.at("panic"));
    GOLDEN_CHECK(good, decision.raw == want.at("desired"));
    GOLDEN_CHECK(good, decision.excess_burst_capacity == want.at("ebc"));
    GOLDEN_CHECK(good, decision.panicking == want.at("in_panic"));
    group.count(good);
  }
  CHECK(row == table.size());
}

ScalingSettings knative_settings() { return scaling_profile("knative").value().scaling; }

}  // namespace

TEST_CASE("golden S1: a burst from zero through the whole autoscaler") {
  golden::Group group("S1");
  run_scenario("S1_burst_from_zero", group, {.settings = knative_settings(), .limit = 1}, 10, 94, [](double t) {
    return t == 10 ? 1U : t <= 30 ? 50U : 0U;
  });
}

TEST_CASE("golden S2: a ramp through the whole autoscaler") {
  golden::Group group("S2");
  run_scenario("S2_ramp", group, {.settings = knative_settings(), .limit = 0, .ready_at_start = 1}, 0, 120,
               [](double t) { return static_cast<std::uint32_t>(std::min(10 + 5 * t, 400.0)); });
}

TEST_CASE("golden S3: a step down through the whole autoscaler") {
  golden::Group group("S3");
  ScalingSettings settings = knative_settings();
  settings.target_burst_capacity = 0;
  run_scenario("S3_step_down", group, {.settings = settings, .limit = 10, .ready_at_start = 10}, 0, 150,
               [](double t) { return t < 60 ? 70U : 0U; });
}
