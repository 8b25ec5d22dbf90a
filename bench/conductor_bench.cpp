// SPDX-License-Identifier: MIT
//
// How many sandboxes a second can the conductor decide about, how long does one decision take, and what does it keep in
// memory? One thread, no I/O: what the control plane's network and log cost comes on top (bench/control_plane).
//
//   conductor_bench [FUNCTIONS] [NODES] [DATA_PLANES]      default 10000 5000 2
//
// Each creation is what a cold request causes: a load report, the order, two reports of the worker, the route. Goals of
// the whole control plane: 15,000 creations a second, decisions below 1 ms, 1 KiB a sandbox, 4 KiB a function.
#include <fmt/core.h>
#include <malloc.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/core/conductor.h"
#include "dirigent/model/scaling.h"

using namespace dirigent;
using namespace dirigent::core;

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void give_up(const std::string& why) {
  fmt::print(stderr, "conductor_bench: {}\n", why);
  std::exit(1);
}

std::size_t heap_bytes() { return ::mallinfo2().uordblks; }

class Bench {
 public:
  Bench(std::uint32_t functions, std::uint32_t nodes, std::uint32_t planes) : functions_(functions), planes_(planes) {
    ConductorOptions options;
    options.term = Term{1};
    conductor_ = std::make_unique<Conductor>(options);
    for (std::uint32_t i = 0; i < nodes; ++i) {
      WorkerHello hello;
      hello.node.id = NodeId{fmt::format("node-{}", i)};
      hello.node.capacity = {Millicpu{16'000}, Bytes{std::int64_t{64} << 30}};
      ConductorEffects effects;
      if (!conductor_->worker_joined(SessionId{1 + i}, hello, now_, effects)) give_up("refused");
    }
    for (std::uint32_t i = 0; i < planes; ++i) {
      DataPlaneHello hello;
      hello.id = DataPlaneId{fmt::format("data-{}", i)};
      ConductorEffects effects;
      if (!conductor_->data_plane_joined(plane(i), hello, now_, effects)) give_up("refused");
    }
  }

  void register_functions() {
    const std::size_t before = heap_bytes();
    const auto start = Clock::now();
    for (std::uint32_t i = 0; i < functions_; ++i) {
      RevisionSpec spec;
      spec.image = "builtin:hello";
      spec.resources = {Millicpu{100}, Bytes{64 << 20}};
      spec.concurrency_limit = 1;
      spec.scaling.utilization_percent = 100;
      const auto plan = conductor_->catalog().plan_deploy(name_of(i), spec, true, false, {});
      if (!plan) give_up("refused");
      ConductorEffects effects;
      conductor_->commit(plan->command, now_, effects);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print("bench=register functions={} per_second={:.0f} bytes_per_function={:.0f}\n", functions_, functions_ / seconds,
               static_cast<double>(heap_bytes() - before) / functions_);
  }

  // Every function once, from zero to a routed sandbox. What that takes in memory is the sandbox and what a function needs
  // that has been called: windows of its load, its decisions, its place among the wake-ups.
  void create() {
    const std::size_t before = heap_bytes();
    const auto start = Clock::now();
    for (std::uint32_t i = 0; i < functions_; ++i) create_one(i, 0);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print("bench=create functions={} nodes={} creations_per_second={:.0f} decision_us_p50={:.1f} decision_us_p99={:.1f} "
               "decision_us_max={:.1f} route_us_p50={:.1f} route_us_p99={:.1f} bytes_per_first_sandbox={:.0f}\n",
               functions_, conductor_->fleet().nodes().size(), functions_ / seconds, us(decisions_.quantile(0.5)),
               us(decisions_.quantile(0.99)), us(decisions_.max()), us(routes_.quantile(0.5)), us(routes_.quantile(0.99)),
               static_cast<double>(heap_bytes() - before) / functions_);
  }

  // A second sandbox for each: what a sandbox takes by itself.
  void create_more() {
    const std::size_t before = heap_bytes();
    for (std::uint32_t i = 0; i < functions_; ++i) create_one(i, 1);
    fmt::print("bench=more sandboxes={} bytes_per_further_sandbox={:.0f}\n", conductor_->fleet().sandboxes().size(),
               static_cast<double>(heap_bytes() - before) / functions_);
  }

  // 100 nodes at once; the rest of them take over.
  void lose_nodes(std::uint32_t count) {
    const auto start = Clock::now();
    std::size_t orders = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      ConductorEffects effects;
      conductor_->worker_lost(SessionId{1 + i}, now_, effects);
    }
    now_ += 200ms;
    ConductorEffects effects;
    conductor_->tick(now_, effects);
    orders += effects.worker_orders.size();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print("bench=lose nodes={} ms={:.1f} orders={}\n", count, seconds * 1e3, orders);
  }

  void heartbeats() {
    const auto nodes = static_cast<std::uint32_t>(conductor_->fleet().nodes().size());
    const auto start = Clock::now();
    for (std::uint32_t i = 0; i < nodes; ++i) {
      ConductorEffects effects;
      conductor_->worker_said(SessionId{1 + i}, NodeHeartbeat{}, now_, effects);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print("bench=heartbeats nodes={} ns_each={:.0f}\n", nodes, seconds * 1e9 / nodes);
  }

 private:
  void create_one(std::uint32_t i, std::uint32_t in_flight) {
    now_ += 50us;
    FunctionLoad load;
    load.function = name_of(i);
    load.waiting = 1;
    load.in_flight = in_flight;
    load.arrivals = 1;
    load.interval = 1ms;
    ConductorEffects effects;
    const auto asked = Clock::now();
    conductor_->data_plane_said(plane(i % planes_), load, now_, effects);
    decisions_.record(Clock::now() - asked);
    if (effects.worker_orders.size() != 1)
      give_up(fmt::format("{} orders for {}: {}", effects.worker_orders.size(), load.function, conductor_->control(load.function)->unavailable_detail));
    const auto& [session, order] = effects.worker_orders.front();
    const auto& started = std::get<StartSandbox>(order);
    SandboxStatus status;
    status.id = started.id;
    status.function = started.function;
    status.revision = started.revision;
    status.term = started.term;
    ConductorEffects ignored;
    conductor_->worker_said(session, SandboxChanged{status}, now_, ignored);
    status.state = SandboxState::ready;
    status.address.direct = "198.18.0.6:8080";
    status.address.published = "10.0.0.7:30005";
    status.address.host_id = "0123456789abcdef";
    ConductorEffects ready;
    const auto told = Clock::now();
    conductor_->worker_said(session, SandboxChanged{status}, now_, ready);
    routes_.record(Clock::now() - told);
    if (ready.data_plane_orders.size() != planes_) give_up(fmt::format("{} route updates", ready.data_plane_orders.size()));
    // The role arms its timer after each input.
    while (conductor_->next_wakeup() && *conductor_->next_wakeup() <= now_) {
      ConductorEffects more;
      conductor_->tick(now_, more);
    }
  }

  static double us(std::int64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e3; }
  static FunctionName name_of(std::uint32_t i) { return FunctionName{fmt::format("trace-func-{}-13167500157998781162", i)}; }
  static SessionId plane(std::uint32_t i) { return SessionId{1'000'000 + i}; }

  std::uint32_t functions_;
  std::uint32_t planes_;
  Instant now_{1s};
  std::unique_ptr<Conductor> conductor_;
  Histogram decisions_;
  Histogram routes_;
};

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int place, std::uint32_t otherwise) {
    return argc > place ? static_cast<std::uint32_t>(std::strtoul(argv[place], nullptr, 10)) : otherwise;
  };
  Bench bench(number(1, 10'000), number(2, 5'000), number(3, 2));
  bench.register_functions();
  bench.create();
  bench.create_more();
  bench.heartbeats();
  bench.lose_nodes(number(2, 5'000) / 10);
}
