// SPDX-License-Identifier: MIT
#include <map>
#include <set>

#include "catch.h"
#include "dirigent/policy/placement.h"
#include "policy/scores.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

constexpr PlacementKind kAll[] = {PlacementKind::random, PlacementKind::round_robin, PlacementKind::kubernetes,
                                  PlacementKind::best_fit, PlacementKind::dominant_resource};

Resources resources(std::int64_t millicpu, std::int64_t mib) { return {Millicpu{millicpu}, Bytes{mib << 20}}; }

NodeView node(const std::string& name, Resources capacity = resources(10'000, 10'000), Resources reserved = {}) {
  NodeView view;
  view.id = {name};
  view.capacity = capacity;
  view.reserved = reserved;
  return view;
}

PlacementRequest ask(std::int64_t millicpu = 100, std::int64_t mib = 128) {
  PlacementRequest request;
  request.resources = resources(millicpu, mib);
  return request;
}

// A cluster as the fleet keeps it: what is placed is reserved before the next choice.
struct Cluster {
  explicit Cluster(PlacementKind kind) : index(make_node_index(kind)) {}
  void add(const NodeView& view) {
    nodes[view.id.value] = view;
    index->upsert(view);
  }
  Result<PlacementDecision> place(const PlacementRequest& request, Rng& rng) {
    auto decision = index->choose(request, rng);
    if (!decision) return decision;
    NodeView& view = nodes.at(decision->node.value);
    view.reserved += request.resources;
    ++view.sandboxes;
    ++view.pending;
    index->set_load(view.id, view.reserved, view.sandboxes, view.pending);
    return decision;
  }
  std::unique_ptr<NodeIndex> index;
  std::map<std::string, NodeView> nodes;
};

}  // namespace

TEST_CASE("placement: names are read and printed, and a slip of the pen gets a suggestion") {
  for (const auto kind : kAll) CHECK(parse_placement(to_string(kind)).value() == kind);
  CHECK(placement_names().size() == 5);
  const auto error = parse_placement("best-fitt");
  REQUIRE_FALSE(error);
  CHECK(error.error().code == ErrorCode::invalid_argument);
  CHECK(error.error().message.find("did you mean \"best-fit\"?") != std::string::npos);
}

TEST_CASE("golden scores: least allocated, balanced allocation and nodes to score") {
  const auto millis = [](std::int64_t cpu, std::int64_t memory) {
    return Resources{Millicpu{cpu}, Bytes{memory}};
  };
  const Resources request = millis(1000, 2000);
  CHECK(least_allocated(millis(4000, 10000), millis(2000, 4000) + request) == 32);
  CHECK(least_allocated(millis(6000, 10000), millis(1000, 2000) + request) == 63);
  const Resources larger = millis(3000, 5000);
  CHECK(balanced_allocation(millis(10000, 20000), millis(3000, 0) + larger) == 82);
  CHECK(balanced_allocation(millis(10000, 50000), millis(3000, 5000) + larger) == 80);
  const std::map<std::size_t, std::size_t> scored{{50, 50},    {100, 100},  {150, 100},  {250, 120},
                                                  {1000, 420}, {2500, 750}, {10000, 500}};
  for (const auto& [nodes, want] : scored) CHECK(nodes_to_score(nodes) == want);
  CHECK(least_allocated(millis(0, 0), millis(1, 1)) == 0);
  CHECK(image_locality(false, 5, 10) == 0);
  CHECK(image_locality(true, 1, 100) == 0);   // 5 MiB of weight: below the lower bound
  CHECK(image_locality(true, 10, 10) == 47);  // 100 x (500 - 50) / 950
}

TEST_CASE("no node at all is unavailable, and the message says to start a worker") {
  Rng rng(1);
  for (const auto kind : kAll) {
    const auto error = make_node_index(kind)->choose(ask(), rng);
    REQUIRE_FALSE(error);
    CHECK(error.error().code == ErrorCode::unavailable);
    CHECK(error.error().message.find("start a worker") != std::string::npos);
  }
}

TEST_CASE("a cluster without room says what is missing most") {
  Rng rng(1);
  for (const auto kind : kAll) {
    const auto message = [&](const std::vector<NodeView>& nodes, const PlacementRequest& request) {
      const auto index = make_node_index(kind);
      for (const auto& view : nodes) index->upsert(view);
      const auto error = index->choose(request, rng);
      REQUIRE_FALSE(error);
      CHECK(error.error().code == ErrorCode::exhausted);
      return error.error().message;
    };
    std::vector<NodeView> full;
    for (int i = 0; i < 12; ++i)
      full.push_back(node("n" + std::to_string(i), resources(10'000, 1024), resources(0, 960)));
    CHECK(message(full, ask(100, 128)) ==
          "no node has room for a sandbox: memory: 128 MiB asked, at most 64 MiB free on any of 12 nodes; add a node "
          "or ask for less memory");
    CHECK(message({full[0]}, ask(100, 128)) ==
          "no node has room for a sandbox: memory: 128 MiB asked, 64 MiB free on the only node; add a node or ask for "
          "less memory");
    CHECK(message({full[0], full[1]}, ask(20'000, 32)) ==
          "no node has room for a sandbox: cpu: 20000m asked, at most 10000m free on any of 2 nodes; add a node or ask "
          "for less cpu");
    NodeView busy = node("busy");
    busy.sandboxes = busy.sandboxes_max = 3;
    CHECK(message({busy}, ask()).find("sandboxes: 1 node at the limit of sandboxes") != std::string::npos);
    NodeView cordoned = node("cordoned");
    cordoned.schedulable = false;
    CHECK(message({cordoned}, ask()).find("unschedulable: 1 node cordoned, draining or silent") != std::string::npos);
    const std::vector<std::string> constraints{"zone=a", "gpu!=none"};
    PlacementRequest labelled = ask();
    labelled.constraints = constraints;
    CHECK(message({node("plain")}, labelled).find("labels: 1 node do not satisfy zone=a, gpu!=none") !=
          std::string::npos);
    const std::vector<NodeId> excluded{{"only"}};
    PlacementRequest refused = ask();
    refused.excluded = excluded;
    CHECK(message({node("only")}, refused).find("refused: 1 node just failed to start this sandbox") !=
          std::string::npos);
  }
}

TEST_CASE("a constraint that is none is refused and named") {
  Rng rng(1);
  for (const std::string bad : {"zone", "=a", "!=a"}) {
    const auto index = make_node_index(PlacementKind::kubernetes);
    index->upsert(node("n"));
    const std::vector<std::string> constraints{bad};
    PlacementRequest request = ask();
    request.constraints = constraints;
    const auto error = index->choose(request, rng);
    REQUIRE_FALSE(error);
    CHECK(error.error().code == ErrorCode::invalid_argument);
    CHECK(error.error().message.find("\"" + bad + "\"") != std::string::npos);
  }
}

TEST_CASE(
    "every policy keeps to room, labels, exclusions, cordons and limits, and fills the cluster to the last place") {
  const std::uint64_t seed = 11;
  INFO("seed " << seed);
  for (const auto kind : kAll) {
    INFO(to_string(kind));
    Rng rng(seed);
    Cluster cluster(kind);
    std::size_t places = 0;
    for (int i = 0; i < 60; ++i) {
      const auto cpu = static_cast<std::int64_t>(100 + 100 * rng.below(20));
      const auto mib = static_cast<std::int64_t>(128 + 128 * rng.below(20));
      NodeView view = node("n" + std::to_string(i), resources(cpu, mib));
      view.labels["zone"] = i % 2 == 0 ? "a" : "b";
      view.schedulable = i % 10 != 0;
      view.sandboxes_max = i % 7 == 0 ? 2 : 0;
      cluster.add(view);
      if (i % 2 != 0 || !view.schedulable || i == 4) continue;
      const auto room = static_cast<std::size_t>(std::min(cpu / 100, mib / 128));
      places += view.sandboxes_max == 0 ? room : std::min<std::size_t>(room, view.sandboxes_max);
    }
    const std::vector<std::string> constraints{"zone=a", "other!=x"};
    const std::vector<NodeId> excluded{{"n4"}, {"unknown"}};
    PlacementRequest request = ask();
    request.constraints = constraints;
    request.excluded = excluded;
    std::size_t placed = 0;
    while (true) {
      const auto decision = cluster.place(request, rng);
      if (!decision) break;
      ++placed;
      CHECK(decision->kind == kind);
      CHECK(decision->considered > 0);
      CHECK_FALSE(decision->note.empty());
      const NodeView& view = cluster.nodes.at(decision->node.value);
      REQUIRE(view.schedulable);
      REQUIRE(view.labels.at("zone") == "a");
      REQUIRE(view.id.value != "n4");
      REQUIRE(view.reserved.fits_in(view.capacity));
      REQUIRE((view.sandboxes_max == 0 || view.sandboxes <= view.sandboxes_max));
    }
    CHECK(placed == places);
  }
}

TEST_CASE("a node that left is not chosen, and one that takes its place is") {
  Rng rng(1);
  for (const auto kind : kAll) {
    const auto index = make_node_index(kind);
    index->upsert(node("a"));
    index->upsert(node("b"));
    index->remove({"a"});
    index->remove({"a"});
    index->set_load({"a"}, resources(1, 1), 1, 1);
    CHECK(index->size() == 1);
    for (int i = 0; i < 20; ++i) CHECK(index->choose(ask(), rng)->node.value == "b");
    index->upsert(node("c"));
    index->remove({"b"});
    CHECK(index->choose(ask(), rng)->node.value == "c");
    CHECK(index->size() == 1);
  }
}

TEST_CASE("round robin goes through the nodes in the order of their names, whatever comes and goes") {
  Rng rng(1);
  const auto index = make_node_index(PlacementKind::round_robin);
  for (const std::string name : {"c", "a", "d", "b"}) index->upsert(node(name));
  std::string order;
  for (int i = 0; i < 6; ++i) order += index->choose(ask(), rng)->node.value;
  CHECK(order == "abcdab");
  index->remove({"c"});
  index->upsert(node("bb"));
  order.clear();
  for (int i = 0; i < 4; ++i) order += index->choose(ask(), rng)->node.value + " ";
  CHECK(order == "bb d a b ");
}

TEST_CASE("random spreads evenly over the nodes that fit") {
  Rng rng(5);
  const auto index = make_node_index(PlacementKind::random);
  for (int i = 0; i < 40; ++i) index->upsert(node("n" + std::to_string(i), resources(10'000, i < 4 ? 1000 : 64)));
  std::map<std::string, int> hits;
  for (int i = 0; i < 4000; ++i) ++hits[index->choose(ask(), rng)->node.value];
  CHECK(hits.size() == 4);
  for (const auto& [name, count] : hits) CHECK(count == Approx(1000).margin(120));
}

TEST_CASE("kubernetes takes the emptiest and best balanced node, and says how it scored") {
  Rng rng(1);
  const auto index = make_node_index(PlacementKind::kubernetes);
  index->upsert(node("full", resources(1000, 1000), resources(800, 800)));
  index->upsert(node("tilted", resources(1000, 1000), resources(0, 600)));
  index->upsert(node("even", resources(1000, 1000), resources(300, 300)));
  const auto decision = index->choose(ask(100, 100), rng).value();
  CHECK(decision.node.value == "even");
  CHECK(decision.note == "least allocated 60 + balanced 100 + image 0");
  CHECK(decision.score == 160);
  CHECK(decision.considered == 2);  // no node as full as the third can score as high
}

TEST_CASE("kubernetes prefers nodes that have the image when enough of them do") {
  Rng rng(1);
  const auto index = make_node_index(PlacementKind::kubernetes);
  for (int i = 0; i < 10; ++i) {
    NodeView view = node("n" + std::to_string(i), resources(1000, 1000), resources(i < 5 ? 150 : 0, i < 5 ? 150 : 0));
    if (i < 5) view.images = {"app:1"};
    index->upsert(view);
  }
  PlacementRequest request = ask(100, 100);
  CHECK(index->choose(request, rng)->node.value >= "n5");
  request.image = "app:1";
  const auto decision = index->choose(request, rng).value();
  CHECK(decision.node.value < "n5");
  CHECK(decision.note.find("image 21") != std::string::npos);  // 100 x (250 - 50) / 950
}

TEST_CASE("kubernetes breaks ties by fewer sandboxes starting, then by chance") {
  Rng rng(1);
  const auto index = make_node_index(PlacementKind::kubernetes);
  for (const std::string name : {"a", "b", "c"}) {
    NodeView view = node(name);
    view.pending = name == "a" ? 1 : 0;
    index->upsert(view);
  }
  std::map<std::string, int> hits;
  for (int i = 0; i < 2000; ++i) ++hits[index->choose(ask(), rng)->node.value];
  CHECK(hits.count("a") == 0);
  CHECK(hits["b"] == Approx(1000).margin(120));
  CHECK(hits["c"] == Approx(1000).margin(120));
}

TEST_CASE("kubernetes finds the same score by its buckets as by looking at every node") {
  const std::uint64_t seed = 23;
  INFO("seed " << seed);
  Rng rng(seed);
  const auto index = make_node_index(PlacementKind::kubernetes);
  std::vector<NodeView> nodes;
  for (int i = 0; i < 90; ++i) {
    nodes.push_back(
        node("n" + std::to_string(i), resources(8000, 16'000),
             resources(static_cast<std::int64_t>(rng.below(8001)), static_cast<std::int64_t>(rng.below(16'001)))));
    index->upsert(nodes.back());
  }
  for (int round = 0; round < 200; ++round) {
    const Resources asked =
        resources(static_cast<std::int64_t>(rng.below(2000)), static_cast<std::int64_t>(rng.below(4000)));
    PlacementRequest request;
    request.resources = asked;
    std::int64_t best = -1;
    for (const auto& view : nodes) {
      if (!(view.reserved + asked).fits_in(view.capacity)) continue;
      best = std::max(best, least_allocated(view.capacity, view.reserved + asked) +
                                balanced_allocation(view.capacity, view.reserved + asked));
    }
    const auto decision = index->choose(request, rng);
    REQUIRE(decision.has_value() == (best >= 0));
    if (decision) REQUIRE(decision->score == static_cast<double>(best));
  }
}

TEST_CASE("a burst over 5,000 nodes spreads when what is placed is reserved") {
  Rng rng(1);
  Cluster cluster(PlacementKind::kubernetes);
  for (int i = 0; i < 5000; ++i) cluster.add(node("n" + std::to_string(i)));
  std::set<std::string> used;
  std::uint32_t considered = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto decision = cluster.place(ask(), rng).value();
    used.insert(decision.node.value);
    considered = std::max(considered, decision.considered);
  }
  CHECK(used.size() == 1000);
  CHECK(considered <= 500);
}

TEST_CASE("best fit takes the fullest node that still fits") {
  Rng rng(1);
  const auto index = make_node_index(PlacementKind::best_fit);
  index->upsert(node("empty", resources(1000, 1000)));
  index->upsert(node("half", resources(1000, 1000), resources(500, 500)));
  index->upsert(node("tight", resources(1000, 1000), resources(880, 880)));
  index->upsert(node("full", resources(1000, 1000), resources(950, 950)));
  CHECK(index->choose(ask(100, 100), rng)->node.value == "tight");
  CHECK(index->choose(ask(200, 200), rng)->node.value == "half");
  CHECK(index->choose(ask(600, 600), rng)->node.value == "empty");
}

TEST_CASE("dominant resource keeps the larger of both shares smallest") {
  Rng rng(1);
  const auto index = make_node_index(PlacementKind::dominant_resource);
  index->upsert(node("cpu-heavy", resources(1000, 1000), resources(700, 100)));
  index->upsert(node("even", resources(1000, 1000), resources(500, 500)));
  const auto decision = index->choose(ask(100, 100), rng).value();
  CHECK(decision.node.value == "even");
  CHECK(decision.note == "least dominant share: 60 % after it");
  // Mean shares would say the opposite: 40 % against 50 %.
  const auto by_mean = make_node_index(PlacementKind::best_fit);
  by_mean->upsert(node("cpu-heavy", resources(1000, 1000), resources(700, 100)));
  by_mean->upsert(node("even", resources(1000, 1000), resources(500, 500)));
  CHECK(by_mean->choose(ask(100, 100), rng)->node.value == "even");
}

TEST_CASE("the same nodes, request and seed give the same choices") {
  for (const auto kind : kAll) {
    std::string first;
    for (int run = 0; run < 2; ++run) {
      Rng rng(99);
      Cluster cluster(kind);
      for (int i = 0; i < 200; ++i) cluster.add(node("n" + std::to_string(i)));
      std::string order;
      for (int i = 0; i < 300; ++i) order += cluster.place(ask(), rng)->node.value + " ";
      if (run == 0) first = order;
      CHECK(order == first);
    }
  }
}
