// SPDX-License-Identifier: MIT
//
// Runs a plan: threads with an epoll each, non-blocking sockets that are tried before they are waited for. The caller's
// thread waits and reports progress.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "dirigent/base/result.h"
#include "dirigent/bench/measurement.h"
#include "dirigent/bench/plan.h"

namespace dirigent::bench {

struct Progress {
  Duration elapsed{};
  Duration planned{};   // warm-up and measured part; 0: not known (a number of requests)
  double fraction = 0;  // of the work, 0..1
  bool is_warm_up = false;
  std::uint64_t sent = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;
  std::uint64_t in_flight = 0;
  double rate = 0;   // answers a second, since the last report
  Histogram recent;  // latencies of the answers since the last report
};

struct EngineOptions {
  std::function<void(const Progress&)> progress;  // about twice a second; on the caller's thread
  const std::atomic<bool>* stop = nullptr;        // set by a signal: no more calls, those under way get a second
};

struct RunResult {
  std::unique_ptr<Measurement> measurement;
  WallTime started{};
  double wall_seconds = 0;
  double cpu_seconds = 0;  // of the generator's threads
  std::uint64_t connections_opened = 0;
  std::uint64_t in_flight_max = 0;
  bool was_stopped = false;
};

// Errors: invalid_argument (an endpoint that is no address), not_found (a name that cannot be resolved), unavailable
// (no endpoint can be connected to at the start), exhausted (more connections than descriptors). What fails later is
// counted.
Result<RunResult> run_plan(const Plan& plan, const EngineOptions& options);

}  // namespace dirigent::bench
