// SPDX-License-Identifier: MIT
//
// How long does one decision of the deciding tower take? Nanoseconds per decision, single thread, no I/O: autoscalers
// (goal: knative at most 1 us), placements over 5,000 nodes (goal: kubernetes at most 20 us), balancers over 100
// sandboxes. The floor to compare with, in the same run: a virtual call that does nothing, and a scan of all 5,000 nodes.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/balancer.h"
#include "dirigent/policy/placement.h"

using namespace dirigent;
using namespace dirigent::policy;

namespace {

using Clock = std::chrono::steady_clock;

// Batches, so that reading the clock does not count, but shorter than a turn of the scheduler; the median of them, so that
// other work on the machine does not count either.
constexpr int kBatches = 1001;

template <class Work>
void measure(const std::string& name, int each, double goal_ns, const Work& work) {
  std::vector<double> batches;
  int step = 0;
  for (int batch = 0; batch < kBatches; ++batch) {
    const auto start = Clock::now();
    for (int i = 0; i < each; ++i) work(step++);
    batches.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count() / each);
  }
  std::sort(batches.begin(), batches.end());
  fmt::print("bench={} ns_per_decision_min={:.0f} ns_per_decision_p50={:.0f} ns_per_decision_p95={:.0f} batches={} each={}", name,
             batches.front(), batches[kBatches / 2], batches[kBatches * 95 / 100], kBatches, each);
  if (goal_ns > 0) fmt::print(" goal_ns={:.0f} met={}", goal_ns, batches[kBatches / 2] <= goal_ns ? "yes" : "no");
  fmt::print("\n");
}

Instant at(double seconds) { return Instant(from_seconds(seconds)); }

// A decision and the sample before it, as the conductor has them once a second per function.
void measure_autoscaler(AutoscalerKind kind, Aggregation aggregation, double goal_ns, const std::string& name) {
  const auto family = make_autoscaler_family(kind);
  ScalingSettings settings;
  settings.aggregation = aggregation;
  const auto scaler = family->make({"f"}, settings, 1, 0, at(0));
  Rng rng(1);
  LoadSample sample;
  sample.interval = 1s;
  std::uint32_t ready = 0;
  measure(name, 100, goal_ns, [&](int step) {
    sample.current = static_cast<std::uint32_t>(rng.below(100));
    sample.concurrency = sample.current;
    sample.arrivals = sample.completions = sample.current;
    sample.busy = sample.current * Duration(1s);
    scaler->observe(at(step), sample);
    const ScalingDecision decision = scaler->decide({.now = at(step), .ready = ready});
    ready = decision.desired.value_or(ready);
  });
}

std::vector<NodeView> make_nodes(std::size_t count, Rng& rng) {
  std::vector<NodeView> nodes(count);
  for (std::size_t i = 0; i < count; ++i) {
    nodes[i].id = {fmt::format("node-{:04}", i)};
    nodes[i].capacity = {Millicpu{10'000}, 64_GiB};
    nodes[i].reserved = {Millicpu{static_cast<std::int64_t>(rng.below(9'000))}, Bytes{static_cast<std::int64_t>(rng.below(56)) << 30}};
    nodes[i].labels["zone"] = i % 3 == 0 ? "a" : "b";
    if (i % 2 == 0) nodes[i].images = {"app:1"};
  }
  return nodes;
}

// A placement, the reservation that follows it, and the end of the oldest sandbox, so that the cluster stays as full.
void measure_placement(PlacementKind kind, std::size_t count, const std::vector<std::string>& constraints, double goal_ns,
                       const std::string& name) {
  Rng rng(1);
  std::vector<NodeView> nodes = make_nodes(count, rng);
  const auto index = make_node_index(kind);
  for (const auto& node : nodes) index->upsert(node);
  PlacementRequest request;
  request.resources = {Millicpu{100}, 128_MiB};
  request.image = "app:1";
  request.constraints = constraints;
  std::vector<std::size_t> placed;
  std::size_t oldest = 0;
  const auto load = [&](std::size_t i) { index->set_load(nodes[i].id, nodes[i].reserved, nodes[i].sandboxes, nodes[i].pending); };
  measure(name, 20, goal_ns, [&](int) {
    const auto decision = index->choose(request, rng);
    if (!decision) return;
    const std::size_t at = std::stoul(decision->node.value.substr(5));
    nodes[at].reserved += request.resources;
    ++nodes[at].sandboxes;
    load(at);
    placed.push_back(at);
    if (placed.size() - oldest < 2000) return;
    const std::size_t ended = placed[oldest++];
    nodes[ended].reserved -= request.resources;
    --nodes[ended].sandboxes;
    load(ended);
  });
}

// What an index replaces: the same score on every node.
void measure_scan(std::size_t count) {
  Rng rng(1);
  const std::vector<NodeView> nodes = make_nodes(count, rng);
  std::size_t sink = 0;
  measure(fmt::format("scan_of_{}_nodes", count), 5, 0, [&](int) {
    double best = -1;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const Resources used = nodes[i].reserved + Resources{Millicpu{100}, 128_MiB};
      if (!used.fits_in(nodes[i].capacity)) continue;
      const double cpu = static_cast<double>(used.cpu.value) / static_cast<double>(nodes[i].capacity.cpu.value);
      const double memory = static_cast<double>(used.memory.value) / static_cast<double>(nodes[i].capacity.memory.value);
      const double score = 2 - cpu - memory - (cpu > memory ? cpu - memory : memory - cpu) / 2;
      if (score > best) {
        best = score;
        sink += i;
      }
    }
  });
  if (sink == 1) fmt::print("\n");
}

class Slots final : public CandidateView {
 public:
  explicit Slots(std::size_t count) : in_use_(count) {}
  [[nodiscard]] std::size_t size() const override { return in_use_.size(); }
  [[nodiscard]] std::uint32_t in_use(std::size_t i) const override { return in_use_[i]; }
  [[nodiscard]] std::uint32_t limit(std::size_t) const override { return 10; }
  [[nodiscard]] bool usable(std::size_t) const override { return true; }
  [[nodiscard]] std::uint64_t identity(std::size_t i) const override { return 1000 + i; }
  void take(std::size_t i) { ++in_use_[i]; }
  void give(std::size_t i) { --in_use_[i]; }

 private:
  std::vector<std::uint32_t> in_use_;
};

void measure_balancer(BalancerKind kind) {
  Rng rng(1);
  Slots slots(100);
  BalancerState state;
  std::vector<std::size_t> taken(500, slots.size());  // half of all slots are in use
  measure(fmt::format("balancer_{}_100_sandboxes", to_string(kind)), 500, 0, [&](int step) {
    std::size_t& oldest = taken[static_cast<std::size_t>(step) % taken.size()];
    if (oldest != slots.size()) slots.give(oldest);
    const auto chosen = choose_among(kind, slots, state, rng);
    oldest = chosen.value_or(slots.size());
    if (chosen) slots.take(*chosen);
  });
}

}  // namespace

int main() {
  Slots floor(1);
  const CandidateView* volatile view = &floor;  // volatile: the compiler must not see which class it is
  std::uint64_t sink = 0;
  measure("floor_virtual_call", 10'000, 0, [&](int) { sink += view->identity(0); });
  measure_autoscaler(AutoscalerKind::knative, Aggregation::linear, 1000, "autoscaler_knative");
  measure_autoscaler(AutoscalerKind::knative, Aggregation::weighted_exponential, 1000, "autoscaler_knative_weighted");
  measure_autoscaler(AutoscalerKind::predictive, Aggregation::linear, 0, "autoscaler_predictive");
  measure_autoscaler(AutoscalerKind::mu, Aggregation::linear, 0, "autoscaler_mu");
  for (const auto kind : {PlacementKind::kubernetes, PlacementKind::random, PlacementKind::round_robin, PlacementKind::best_fit,
                          PlacementKind::dominant_resource}) {
    measure_placement(kind, 5000, {}, 20'000, fmt::format("placement_{}_5000_nodes", to_string(kind)));
  }
  measure_placement(PlacementKind::kubernetes, 5000, {"zone=a"}, 20'000, "placement_kubernetes_5000_nodes_with_constraint");
  measure_placement(PlacementKind::kubernetes, 93, {}, 20'000, "placement_kubernetes_93_nodes");
  measure_scan(5000);
  for (const auto kind : {BalancerKind::random, BalancerKind::round_robin, BalancerKind::least_processed, BalancerKind::knative,
                          BalancerKind::least_loaded}) {
    measure_balancer(kind);
  }
  return sink == 0 ? 1 : 0;
}
