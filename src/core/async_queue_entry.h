// SPDX-License-Identifier: MIT
//
// What AsyncQueue keeps of a call and of a function, for its own files: async_queue.cpp (accepting and running),
// async_queue_start.cpp (what a start finds), async_queue_keeping.cpp (time, what is done by hand, looking).
#pragma once

#include <algorithm>
#include <limits>

#include "dirigent/core/async_queue.h"

namespace dirigent::core {

inline std::uint32_t microseconds(Duration duration) {
  const auto count = std::max<std::int64_t>(0, duration.count() / 1000);
  return static_cast<std::uint32_t>(std::min<std::int64_t>(count, std::numeric_limits<std::uint32_t>::max()));
}
inline WallTime later(WallTime time, Duration by) { return time + std::chrono::duration_cast<std::chrono::microseconds>(by); }

// 88 bytes: there may be a million.
struct AsyncQueue::Entry {
  std::uint64_t sequence = 0;
  WallTime accepted_at{};
  WallTime born_at{};
  WallTime due_at{};
  WallTime ended_at{};
  WallTime timer{};             // {} = none
  std::uint32_t line = 0;
  std::uint32_t waited_us = 0;
  std::uint32_t ran_us = 0;
  std::uint32_t request_bytes = 0;
  std::uint32_t result_bytes = 0;
  std::uint16_t status = 0;
  std::uint16_t callback_status = 0;
  Reason reason = Reason::none;
  CallPhase phase = CallPhase::queued;
  CallEnd end = CallEnd::none;
  CallbackPhase callback = CallbackPhase::none;
  std::uint8_t attempts = 0;
  std::uint8_t attempts_max = 0;
  std::uint8_t callback_attempts = 0;
  std::uint8_t holds = 0;
  bool truncated = false;
  bool storing = false;         // accepted, its record is on its way to the disk
  std::uint8_t saving = 0;      // writes of its state on their way
  bool in_queue = false;
  bool is_ending = false;       // its attempt is over, its state on its way to the disk
};

// The calls of one function.
struct AsyncQueue::Line {
  explicit Line(FunctionName name) : function(std::move(name)) {}
  FunctionName function;
  std::deque<CallId> again;     // retries that are due: before the others
  std::deque<CallId> fresh;     // those that have left the phase meanwhile are skipped
  std::uint64_t queued = 0;
  std::uint64_t waiting = 0;
  std::uint32_t in_flight = 0;
  std::uint32_t ending = 0;     // attempts that are over, whose states are not saved: as many may run again after a crash
  bool is_ready = false;        // in ready_
  std::optional<RetryPolicy> retry;
};

}  // namespace dirigent::core
