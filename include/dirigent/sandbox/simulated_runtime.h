// SPDX-License-Identifier: MIT
//
// The simulated runtime: sandboxes that are entries in a table and take as long to start as a distribution says. For
// experiments with thousands of nodes or sandboxes on one machine, and for tests of everything above a runtime.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "dirigent/sandbox/runtime.h"

namespace dirigent::sandbox {

// How long a start takes.
struct ConstantTime {
  Duration value{};
};
struct UniformTime {
  Duration least{};
  Duration most{};
};
struct LognormalTime {
  Duration p50{};
  Duration p99{};
};
struct SampledTime {
  std::vector<Duration> samples;  // drawn evenly, with replacement
};
using StartTime = std::variant<ConstantTime, UniformTime, LognormalTime, SampledTime>;

// "constant:5ms", "uniform:2ms,8ms", "lognormal:5ms,40ms" (p50, p99) or "file:PATH" (a duration a line; a bare number
// is milliseconds; # begins a comment). The error says what is wrong with which part.
Result<StartTime> parse_start_time(std::string_view text);

struct SimulatedRuntimeOptions {
  std::string host_id;
  StartTime start_time = ConstantTime{5ms};
  double failure_rate = 0;              // of launches, 0..1
  std::uint64_t seed = 1;
  std::uint32_t sandboxes_max = 100'000;
  bool serve = true;                    // one real responder on 127.0.0.1 answers for all; else addresses are made up
  std::string publish_host;             // told as the published address of the responder; "" = none
};

// The loop must outlive the runtime; the runtime must be closed (or never opened) before it is destroyed.
std::unique_ptr<Runtime> make_simulated_runtime(io::Loop& loop, SimulatedRuntimeOptions options);

}  // namespace dirigent::sandbox
