// SPDX-License-Identifier: MIT
//
// What the simulated clients ask for: functions, and invocations with their exact times and run times. Read from a trace
// or made from a short description; the same input and seed give the same workload on every machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/model/ids.h"

namespace dirigent::sim {

struct Arrival {
  Duration at{};  // since the start
  std::uint32_t function = 0;
  Duration run_time{};
};

struct Workload {
  struct Function {
    FunctionName name;
    Bytes memory;
  };
  std::string source;  // what it was made from, for reports
  std::vector<Function> functions;
  std::vector<Arrival> arrivals;  // by time
  Duration length{};
};

// How the invocations of one minute are spread over it: the gaps are drawn and scaled to fill the minute, the first
// invocation is at its start.
enum class Spacing { exponential, equidistant, uniform };
Result<Spacing> parse_spacing(std::string_view word);

struct TraceOptions {
  std::uint32_t minutes = 30;  // at most; 0 = all there are
  Spacing spacing = Spacing::exponential;
  std::uint64_t seed = 1;
};

// A folder with invocations.csv, durations.csv and memory.csv (Azure 2019), or a file of single invocations (Azure 2021).
// Errors: not_found; invalid_argument names file, line and column.
Result<Workload> read_trace(const std::string& path, const TraceOptions& options);

// "poisson:rps=50,duration_ms=100,functions=10", "burst:size=200,every_ms=10000,duration_ms=100,functions=10" or
// "ramp:from=1,to=100,duration_ms=100,functions=10". Run times are constant, or exponential with `spread=exponential`.
Result<Workload> make_load(std::string_view text, Duration length, std::uint64_t seed);

}  // namespace dirigent::sim
