// SPDX-License-Identifier: MIT
//
// What clients ask for: functions, and invocations with their exact times and run times. Read from a trace or made from
// a short description; the same input and seed give the same workload on every machine. The simulator and the load
// generator share it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/model/ids.h"

namespace dirigent::workload {

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

// How the invocations of one minute are spread over it: the gaps are drawn and scaled to fill the minute. The first
// invocation is at the minute's start; with a shift, the minute is turned by a random part of itself.
enum class Spacing { exponential, equidistant, uniform, exponential_shift, uniform_shift };
Result<Spacing> parse_spacing(std::string_view word);
const std::vector<std::string>& spacing_names();

struct TraceOptions {
  std::uint32_t minutes = 30;  // at most; 0 = all there are
  Spacing spacing = Spacing::exponential;
  std::uint64_t seed = 1;
};

// A folder with invocations.csv, durations.csv and memory.csv (Azure 2019), or a file of single invocations (Azure
// 2021). Errors: not_found; invalid_argument names file, line and column.
Result<Workload> read_trace(const std::string& path, const TraceOptions& options);

// What a load generator wrote: a row an invocation, with the columns instance, startTime and requestedDuration
// (microseconds). The functions are the distinct instances, under their recorded names.
// Errors: as read_trace; instances that are no function names are invalid_argument.
Result<Workload> read_recording(const std::string& path);

// A kind of load with its numbers.
struct Load {
  enum class Kind { constant, poisson, ramp, burst };
  Kind kind = Kind::poisson;
  double rate = 10;      // a second; of a ramp, at its start
  double rate_end = 10;  // of a ramp
  double burst_size = 100;
  Duration burst_every = 10s;
  std::uint32_t functions = 1;
  Duration run_time = 100ms;
  bool exponential = false;  // run times; else constant

  // "constant:rps=50", "poisson:rps=50,duration_ms=100,functions=10", "burst:size=200,every_ms=10000" or
  // "ramp:from=1,to=100". Run times are constant, or exponential with `spread=exponential`.
  static Result<Load> parse(std::string_view text);
  [[nodiscard]] double arrivals(Duration length) const;  // how many to expect
};

// The arrivals of a load one after the other, so that no list of millions has to be kept.
class LoadStream {
 public:
  LoadStream(const Load& load, Duration length, std::uint64_t seed);
  // The next arrival; false at the end.
  bool next(Arrival& arrival);

 private:
  bool next_burst(Arrival& arrival);
  bool next_drawn(Arrival& arrival);
  void fill(Arrival& arrival, double at);

  Load load_;
  double seconds_;
  Rng rng_;
  double at_ = 0;
  std::uint64_t count_ = 0;  // handed out; of a burst, since it began
};

// All arrivals of a load. Errors: as Load::parse; exhausted when they are too many to keep.
Result<Workload> make_load(std::string_view text, Duration length, std::uint64_t seed);

}  // namespace dirigent::workload
