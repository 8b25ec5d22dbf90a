// SPDX-License-Identifier: MIT
//
// How many simulated events a second does one core handle, and what latency does the cluster have?
//   sim_bench TRACE_FOLDER|poisson [MINUTES] [PROFILE] [AUTOSCALER]
// 93 ten-core nodes, sandboxes that start as Firecracker snapshots do (about 40 ms). Compares with the original's median
// of per-function mean scheduling latency on the same trace, 210 ms. One line of key=value.
#include <fmt/core.h>

#include <chrono>
#include <string>

#include "dirigent/base/text.h"
#include "dirigent/sim/simulator.h"

using namespace dirigent;

int main(int argc, char** argv) {
  const std::string source = argc > 1 ? argv[1] : "poisson";
  const auto minutes = argc > 2 ? parse_integer(argv[2]) : 30;
  const auto profile = scaling_profile(argc > 3 ? argv[3] : "latency");
  const auto autoscaler = policy::parse_autoscaler(argc > 4 ? argv[4] : "knative");
  if (!minutes || !profile || !autoscaler) return 2;
  workload::TraceOptions trace;
  trace.minutes = static_cast<std::uint32_t>(*minutes);
  const auto workload = source == "poisson" ? workload::make_load("poisson:rps=1000,duration_ms=400,functions=500", *minutes * 60s, 1)
                                            : workload::read_trace(source, trace);
  if (!workload) {
    fmt::print(stderr, "{}\n", workload.error().message);
    return 2;
  }
  sim::SimOptions options;
  options.spec.image = "builtin:hello";
  options.spec.scaling = profile->scaling;
  options.spec.concurrency_limit = profile->concurrency_limit;
  options.autoscaler = *autoscaler;
  options.start_time = *sim::Distribution::parse("lognormal:40ms,60ms");
  const auto began = std::chrono::steady_clock::now();
  const sim::Outcome outcome = sim::simulate(options, *workload);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  fmt::print("source={} minutes={} profile={} autoscaler={} events={} seconds={:.2f} events_per_second={:.0f} invocations={} failed={} "
             "function_latency_p50_ms={:.3f} function_latency_p99_ms={:.3f} original_p50_ms=210 latency_p50_ms={:.3f} latency_p99_ms={:.3f} "
             "function_slowdown_p50={:.3f} function_slowdown_p99={:.3f} cold={} started={} busy_s={:.0f} idle_s={:.0f} violation=\"{}\"\n",
             workload->source, *minutes, profile->name, to_string(*autoscaler), outcome.events, seconds,
             static_cast<double>(outcome.events) / seconds, outcome.invocations, outcome.invocations - outcome.succeeded,
             outcome.function_latency_ms.quantile(0.5), outcome.function_latency_ms.quantile(0.99), outcome.latency_ms.quantile(0.5),
             outcome.latency_ms.quantile(0.99), outcome.function_slowdown.quantile(0.5), outcome.function_slowdown.quantile(0.99),
             outcome.waited_for_start, outcome.creations, outcome.sandbox_seconds_busy, outcome.sandbox_seconds_idle, outcome.violation);
  return outcome.violation.empty() ? 0 : 1;
}
