// SPDX-License-Identifier: MIT
//
// What came of the calls of a run: histograms in nanoseconds, counts, and a record of each call when wanted. One per
// thread while it runs, merged at the end; not synchronised.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/base/time.h"

namespace dirigent::bench {

// The parts of the platform's Server-Timing header, in the order in which a cold request meets them.
enum class Phase { queue, schedule, create, network, start, probe, route, proxy, function };
constexpr std::size_t kPhases = 9;
std::string_view to_string(Phase phase);  // "fn" for function, as in the header

struct Timing {
  bool is_present = false;
  bool is_cold = false;
  std::array<double, kPhases> ms{};  // 0: not named
};

// One call that the schedule asks for.
struct Call {
  Instant intended{};   // when it should start
  Instant sent{};       // when its first byte was handed to the kernel
  Duration run_time{};  // asked of the function; 0: nothing asked
  std::uint32_t target = 0;
  std::uint32_t minute = 0;   // of the run
  std::uint32_t ordinal = 0;  // among the calls of its function in that minute
  bool is_measured = true;
};

// Why there is no answer.
enum class Fault : std::uint8_t { none, connect_failed, connection_ended, stream_reset, timed_out, bad_response };
std::string_view to_string(Fault fault);

struct Answer {
  Fault fault = Fault::none;
  int status = 0;
  Instant head_at{};
  Instant end_at{};
  Timing timing;
  std::string_view reason;  // X-Dirigent-Reason
  std::string_view body;    // its beginning
  std::uint64_t body_bytes = 0;
};

// A call as it is written to a file: times in microseconds.
struct Record {
  std::int64_t start_us = 0;     // since 1970: the intended start
  std::int64_t head_us = 0;      // from it to the response's head
  std::int64_t response_us = 0;  // from it to the response's end
  std::int64_t requested_us = 0;
  std::int64_t actual_us = 0;  // inside the function
  std::uint32_t target = 0;
  std::uint32_t minute = 0;
  std::uint32_t ordinal = 0;
  bool is_warm_up = false;
  bool connection_timeout = false;  // no answer
  bool function_timeout = false;    // an answer that is none
  bool memory_failure = false;
};

// Of one function, over its successful measured calls.
struct FunctionTotals {
  std::uint64_t calls = 0;
  double latency_ms = 0;        // sum of response time less time inside the function
  std::uint64_t slowdowns = 0;  // calls with a known run time that took at least as long
  double log_slowdown = 0;
};

class Measurement {
 public:
  // `needs_body`: a 200 without a body is a failure (as for the Invitro loader).
  Measurement(std::size_t targets, bool needs_body, bool keep_records);

  void record(const Call& call, const Answer& answer, WallTime intended_wall);
  void merge(const Measurement& other);

  std::uint64_t measured = 0;  // calls that ended
  std::uint64_t succeeded = 0;
  std::uint64_t cold = 0;      // of these, by Server-Timing
  std::uint64_t timed = 0;     // of these, with Server-Timing
  std::uint64_t not_sent = 0;  // the run was stopped before their time, or while they were under way
  std::uint64_t body_bytes = 0;
  std::map<std::string, std::uint64_t, std::less<>> errors;  // by reason
  std::map<int, std::uint64_t> statuses;

  FineHistogram latency;   // from the intended start to the end, successful calls
  FineHistogram service;   // from the real start
  FineHistogram late;      // real less intended start, all measured calls
  FineHistogram overhead;  // latency less the time inside the function
  FineHistogram function;  // inside the function
  FineHistogram cold_latency;
  std::array<Histogram, kPhases> cold_phases;
  std::array<double, kPhases> phase_ms{};  // sums over all timed calls
  std::vector<FunctionTotals> functions;
  std::vector<Record> records;

  Instant first{Instant::max()};  // intended start of the first measured call
  Instant last{Instant::min()};   // end of the last one

 private:
  [[nodiscard]] bool is_good(const Answer& answer) const;
  void count_error(const Answer& answer);
  void record_good(const Call& call, const Answer& answer, Duration inside);
  void keep(const Call& call, const Answer& answer, Duration inside, WallTime intended_wall);

  bool needs_body_;
  bool keep_records_;
};

// "ExecutionTime" of the answer of a trace function, else what Server-Timing says; 0 when neither does.
Duration time_inside(const Answer& answer);
// "Function" of the answer of a trace function; "" when it is no such answer.
std::string_view answering_function(std::string_view body);

}  // namespace dirigent::bench
