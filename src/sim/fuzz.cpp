// SPDX-License-Identifier: MIT
//
// Short runs with mixed faults: everything that may differ between two clusters is drawn from the seed.
#include "dirigent/base/assert.h"
#include "dirigent/sim/simulator.h"

namespace dirigent::sim {

namespace {

template <class T>
T one_of(Rng& rng, std::initializer_list<T> values) {
  return *(values.begin() + rng.below(values.size()));
}

void draw_policies(SimOptions& options, Rng& rng) {
  using policy::AutoscalerKind;
  using policy::BalancerKind;
  using policy::PlacementKind;
  options.autoscaler = one_of(rng, {AutoscalerKind::knative, AutoscalerKind::knative, AutoscalerKind::predictive, AutoscalerKind::mu});
  options.placement = one_of(rng, {PlacementKind::random, PlacementKind::round_robin, PlacementKind::kubernetes, PlacementKind::best_fit,
                                   PlacementKind::dominant_resource});
  options.balancer = one_of(rng, {BalancerKind::random, BalancerKind::round_robin, BalancerKind::least_processed, BalancerKind::knative,
                                  BalancerKind::least_loaded});
  const auto profile = scaling_profile(one_of<std::string_view>(rng, {"knative", "dirigent", "latency", "cost"}));
  ASSERT(profile.has_value());
  options.spec.scaling = profile->scaling;
  options.spec.scaling.stable_window = one_of<Duration>(rng, {6s, 10s, 20s});
  options.spec.scaling.scale_to_zero_grace = one_of<Duration>(rng, {0s, 0s, 3s});
  options.spec.concurrency_limit = one_of<std::uint32_t>(rng, {0, 1, 1, 2, 3, 10});
  if (options.spec.concurrency_limit != 0) options.spec.scaling.target = options.spec.concurrency_limit;
}

}  // namespace

FuzzCase fuzz_case(std::uint64_t seed) {
  // Another stream than the run's own, which begins with the same seed.
  Rng rng(seed ^ 0x5eed5eed5eed5eedULL);
  FuzzCase made;
  SimOptions& options = made.options;
  options.seed = seed;
  options.check_every_step = true;
  options.nodes = 1 + static_cast<std::uint32_t>(rng.below(6));
  options.data_planes = one_of<std::uint32_t>(rng, {1, 1, 2, 3});
  options.shards = one_of<std::uint32_t>(rng, {1, 2, 3});
  options.spec.image = "builtin:hello";
  draw_policies(options, rng);
  // Room for everything that the load can want, on one node alone: whoever is refused at the end is refused wrongly.
  options.node_capacity = {Millicpu{40'000}, Bytes{256LL << 30}};
  options.start_time = *Distribution::parse(one_of<std::string_view>(rng, {"constant:5ms", "lognormal:40ms,400ms", "uniform:1ms,2s"}));
  options.network_delay = *Distribution::parse(one_of<std::string_view>(rng, {"constant:100us", "uniform:50us,20ms", "lognormal:200us,5ms"}));
  Status added = add_fault(options.faults, "mixed=" + std::to_string(1 + rng.below(8)));
  ASSERT(added.has_value());
  options.faults.start = one_of(rng, {0.0, 0.0, 0.1, 0.5});
  // Some runs have one kind of fault only, so that it is not always hidden behind others.
  if (rng.below(3) == 0) {
    options.faults = {};
    const auto& names = fault_names();
    added = add_fault(options.faults, names[rng.below(names.size() - 1)]);
    ASSERT(added.has_value());
  }
  options.faults_for = 40s;
  const std::string load = one_of<std::string>(rng, {
      "poisson:rps=20,duration_ms=100,functions=4,spread=exponential", "poisson:rps=5,duration_ms=1000,functions=3",
      "burst:size=30,every_ms=9000,duration_ms=300,functions=2,spread=exponential", "ramp:from=0,to=40,duration_ms=50,functions=6",
      "poisson:rps=2,duration_ms=3000,functions=2,spread=exponential"});
  made.workload = *workload::make_load(load, 100s, seed);
  options.starts_max = one_of<std::uint32_t>(rng, {0, 0, 1, 2, 8});
  options.control_members = one_of<std::uint32_t>(rng, {1, 1, 3});
  made.description = fmt::format("{} control planes, {} nodes ({} starts), {} data planes of {} shards, limit {}, {}, {}, {}, {}", options.control_members, options.nodes,
                                 options.starts_max, options.data_planes,
                                 options.shards, options.spec.concurrency_limit, to_string(options.autoscaler),
                                 to_string(options.placement), to_string(options.balancer), load);
  return made;
}

}  // namespace dirigent::sim
