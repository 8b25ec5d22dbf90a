// SPDX-License-Identifier: MIT
//
// A whole cluster in virtual time: the production cores (conductor, switchboard, dispatchers, keepers) joined by a
// modelled network, with modelled sandboxes and seeded faults. Everything random comes from one seed, so that the same
// options and workload give the same outcome, bit by bit. One thread, no files, no clock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/model/function.h"
#include "dirigent/model/messages.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/balancer.h"
#include "dirigent/policy/placement.h"
#include "dirigent/sim/distribution.h"
#include "dirigent/workload/sample.h"
#include "dirigent/workload/workload.h"

namespace dirigent::sim {

using workload::Arrival;
using workload::Sample;
using workload::Workload;

// How often each fault happens, per minute over the whole cluster; `start` is the share of launches that fail.
struct Faults {
  double crash = 0;      // a worker and its sandboxes are gone, and it is back within 5 s
  double partition = 0;  // a link passes nothing for up to 8 s
  double cut = 0;        // a connection breaks; both ends notice it in their own time
  double slow = 0;       // a link or the launches of a worker are slow for up to 10 s
  double sandbox = 0;    // a sandbox ends by itself
  double control = 0;    // the control plane is gone, and back with the same catalog within 3 s; in a group also pauses, cuts,
                         // lost connections, disks that hang, and all at once
  double data = 0;       // a data plane is gone with its requests, and back within 3 s
  double change = 0;     // a function gets a new revision, or another scale
  double start = 0;

  [[nodiscard]] bool any() const;
  [[nodiscard]] double per_minute() const;
};
// "crash", "partition=6", ..., "mixed": adds to `faults`. Errors: an unknown name, a rate that is none.
Status add_fault(Faults& faults, std::string_view text);
const std::vector<std::string>& fault_names();

struct SimOptions {
  std::uint64_t seed = 1;
  std::uint32_t nodes = 93;
  Resources node_capacity{Millicpu{10'000}, 64_GiB};
  std::uint32_t starts_max = 0;  // of a node at a time; 0 = no limit
  std::uint32_t control_members = 1;  // more than one: a group with one log
  std::uint32_t data_planes = 1;
  std::uint32_t shards = 1;  // of each data plane
  policy::AutoscalerKind autoscaler = policy::AutoscalerKind::knative;
  policy::PlacementKind placement = policy::PlacementKind::kubernetes;
  policy::BalancerKind balancer = policy::BalancerKind::knative;
  RevisionSpec spec;              // of every function; its memory is the workload's
  Distribution start_time = Distribution::constant(40ms);
  Distribution network_delay = Distribution::constant(100us);  // one way
  Faults faults;
  Duration faults_for{};          // since the start; 0 = as long as the workload lasts
  Duration healed_after = 30s;    // after the last fault; from then on every request has to succeed (0 = not checked)
  Duration warm_up{};             // requests that arrive earlier are not measured
  bool check_every_step = false;  // the expensive checkers after every step, and the clean-up at the end

  std::function<void(double fraction)> progress;    // now and then
  // For tests of the checkers: may spoil what a data plane is told; a change is acknowledged before it is committed.
  std::function<void(RouteUpdate& update)> spoil_routes;
  bool acknowledge_too_early = false;
};

struct Outcome {
  std::string violation;           // of an invariant: what and when; empty = none. The run ended there.
  std::uint64_t events = 0;        // handled
  Duration simulated{};
  std::uint64_t invocations = 0;   // measured
  std::uint64_t succeeded = 0;
  std::uint64_t waited_for_start = 0;        // of these, for the start of the very sandbox that served them
  std::map<std::string, std::uint64_t> failures;  // by reason
  std::map<std::string, std::uint64_t> faults;    // that were injected, by name
  Sample latency_ms;               // scheduling latency per invocation: response time less run time
  Sample slowdown;                 // response time over run time, per invocation
  Sample function_latency_ms;      // mean of each function
  Sample function_slowdown;        // geometric mean of each function
  std::uint64_t creations = 0;     // sandboxes that became ready
  std::uint64_t start_failures = 0;
  std::uint64_t creations_per_second_max = 0;
  double sandbox_seconds_busy = 0; // with a request in it
  double sandbox_seconds_idle = 0;
  std::uint32_t sandboxes_max = 0;
};

Outcome simulate(const SimOptions& options, const Workload& workload);

// The options and the workload of a short run with mixed faults, made from a seed: the cluster's size, the policies, the
// limits and the faults all differ.
struct FuzzCase {
  SimOptions options;
  Workload workload;
  std::string description;
};
FuzzCase fuzz_case(std::uint64_t seed);

}  // namespace dirigent::sim
