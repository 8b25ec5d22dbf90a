// SPDX-License-Identifier: MIT
//
// Durations and instants. An Instant is a point on the monotonic clock of one process (or of the simulator); it never
// crosses a process boundary. Wall-clock time appears at the edges only (logs, ids), as WallTime.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dirigent {

using Duration = std::chrono::nanoseconds;
using namespace std::chrono_literals;

// A tag clock: it has no now(), because only the doing tower may read a clock (io::Loop::now) and the deciding tower
// gets `now` as an argument.
struct MonotonicClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = Duration;
  using time_point = std::chrono::time_point<MonotonicClock, Duration>;
  static constexpr bool is_steady = true;
};
using Instant = MonotonicClock::time_point;

// Microseconds since 1970-01-01 UTC.
using WallTime = std::chrono::time_point<std::chrono::system_clock, std::chrono::microseconds>;

inline constexpr double to_seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline constexpr double to_milliseconds(Duration d) { return std::chrono::duration<double, std::milli>(d).count(); }
// Rounds to the nearest nanosecond; saturates at about +-292 years.
Duration from_seconds(double seconds);

// "8.21 ms", "3.2 s", "4m", "2h": three significant digits below a minute, one unit above.
std::string format_duration(Duration d);

}  // namespace dirigent
