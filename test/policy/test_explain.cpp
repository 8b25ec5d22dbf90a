// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/policy/explain.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

Instant at(double seconds) { return Instant(from_seconds(seconds)); }

bool contains(const std::vector<std::string>& lines, const std::string& line) {
  for (const auto& one : lines) {
    if (one == line) return true;
  }
  for (const auto& one : lines) UNSCOPED_INFO(one);
  return false;
}

// 200 requests at once after a quiet minute: the situation of the example in the documentation.
ScalingDecision panicking() {
  ScalingDecision decision;
  decision.kind = AutoscalerKind::knative;
  decision.at = at(100);
  decision.input = {.now = at(100), .ready = 3};
  decision.desired = 3;
  decision.stable_average = 88.1;
  decision.panic_average = 200.3;
  decision.target = 70;
  decision.stable_wish = 2;
  decision.panic_wish = 3;
  decision.panicking = true;
  decision.panicking_since = at(94);
  decision.rate_floor = 1;
  decision.rate_ceiling = 3000;
  decision.raw = 3;
  decision.note = "panic";
  return decision;
}

}  // namespace

TEST_CASE("explain: a panic is told with its formula, its end, and what would change it") {
  const auto lines = describe(panicking(), ScalingSettings{}, 0, at(100));
  CHECK(lines[0] == "why 3 sandboxes");
  CHECK(contains(lines, "  metric     concurrency, average 88.1 over 60 s and 200.3 over 6 s"));
  CHECK(contains(lines, "  target     70 per sandbox (100 x 70%)"));
  CHECK(contains(lines, "  wish       ceil(88.1/70) = 2 stable, ceil(200.3/70) = 3 panic"));
  CHECK(contains(lines, "  panic      yes, since 6 s ago; ends in 54 s unless it happens again"));
  CHECK(contains(lines, "  bounds     min 0, max none, up x1000, down /2"));
  CHECK(contains(lines, "  result     3 (panic)"));
  CHECK(lines.back() ==
        "what would change it: utilisation 100% gives 3 as well; target 200 gives 2; hard limit 50 gives 6");
}

TEST_CASE("explain: alternatives are what the deciding function gives") {
  const auto all = what_if(panicking(), ScalingSettings{}, 0);
  REQUIRE(all.size() == 3);
  CHECK(all[0].desired == 3);
  CHECK(all[1].desired == 2);
  CHECK(all[2].desired == 6);
  ScalingSettings bounded;
  bounded.max_scale = 4;
  CHECK(what_if(panicking(), bounded, 0)[2].desired == 4);
  ScalingSettings full;
  full.utilization_percent = 100;
  CHECK(what_if(panicking(), full, 1).size() == 1);
}

TEST_CASE("explain: what the autoscaler really decided can be told, for every kind") {
  for (const auto kind :
       {AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu, AutoscalerKind::scripted}) {
    INFO(to_string(kind));
    const auto family = make_autoscaler_family(kind);
    const ScalingSettings settings;
    const auto scaler = family->make({"f"}, settings, 1, 0, at(0));
    const auto before = describe(scaler->decide({.now = at(1)}), settings, 1, at(1));
    CHECK(before[0] == "why 0 sandboxes and no decision");
    CHECK(before.back().find("kept as it is") != std::string::npos);
    LoadSample sample;
    sample.concurrency = 5;
    sample.current = 5;
    sample.interval = 1s;
    scaler->observe(at(2), sample);
    const auto decision = scaler->decide({.now = at(2), .urgent = true});
    const auto lines = describe(decision, settings, 1, at(2));
    CHECK(contains(lines, "  policy     " + std::string(to_string(kind))));
    CHECK(contains(lines, "  present    0 ready, 0 starting; asked because a request waits"));
    if (kind == AutoscalerKind::knative) {
      CHECK(lines[0] == "why 8 sandboxes");
      CHECK(contains(lines, "  panic      yes: wish 8 with 0 ready (>= 200%); ends in 60 s unless it happens again"));
      CHECK(lines.back() == "what would change it: utilisation 100% gives 5; hard limit 2 gives 4");
    }
  }
}

TEST_CASE("explain: a placement is told with the node after it and where the other policies would have gone") {
  std::vector<NodeView> nodes(3);
  const auto set = [&](std::size_t i, const std::string& name, std::int64_t cpu, std::int64_t mib) {
    nodes[i].id = {name};
    nodes[i].capacity = {Millicpu{1000}, 1024_MiB};
    nodes[i].reserved = {Millicpu{cpu}, Bytes{mib << 20}};
  };
  set(0, "a", 800, 800);
  set(1, "b", 100, 100);
  set(2, "c", 400, 400);
  PlacementRequest request;
  request.resources = {Millicpu{100}, 128_MiB};
  const auto index = make_node_index(PlacementKind::kubernetes);
  for (const auto& node : nodes) index->upsert(node);
  Rng rng(1);
  const auto decision = index->choose(request, rng).value();
  const auto lines = describe(decision, request, nodes);
  CHECK(lines[0] == "why b");
  CHECK(contains(lines, "  policy     kubernetes"));
  CHECK(contains(lines, "  asked      cpu 100m, memory 128 MiB"));
  CHECK(contains(lines, "  looked at  1 of 3 nodes"));
  CHECK(contains(lines, "  after it   cpu 200m of 1000m, memory 228 MiB of 1.0 GiB, 1 of 1 sandboxes starting"));
  CHECK(lines.back() == "what would change it: best-fit gives a; dominant-resource gives b as well");
}
