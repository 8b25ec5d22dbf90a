// SPDX-License-Identifier: MIT
//
// A coarse hierarchical timer wheel: four levels of 64 slots, the finest 2^22 ns (4.2 ms) wide, so 19 hours in all. One
// per loop instead of a timer per request or connection. Deadlines fire up to one slot late and never early.
//
// Moving a deadline to a later instant is free: the node stays where it is and is looked at again when its slot passes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "dirigent/base/time.h"

namespace dirigent {

struct TimerNode {
  TimerNode() = default;
  TimerNode(const TimerNode&) = delete;
  TimerNode& operator=(const TimerNode&) = delete;

  TimerNode* previous = nullptr;
  TimerNode* next = nullptr;
  void* owner = nullptr;
  void (*fire)(void* owner, Instant now) = nullptr;
  Instant deadline{};
  std::int64_t tick = 0;  // when its slot passes; meaningful while linked
  [[nodiscard]] bool linked() const { return next != nullptr; }
};

class TimerWheel {
 public:
  explicit TimerWheel(Instant now);

  // Instants beyond 12 hours are looked at after 12 hours. A deadline that has passed fires at the next tick.
  void set(TimerNode& node, Instant deadline);
  void clear(TimerNode& node);

  // Calls `fire` of every node whose deadline has passed; the node is no longer linked then. It may set and clear any node.
  void expire(Instant now);

  // When expire() has to be called next; may be early, when the node that asked for it has been cleared.
  [[nodiscard]] std::optional<Instant> next_wakeup() const {
    if (earliest_ == kNever) return std::nullopt;
    return Instant(Duration(earliest_ << kTickBits));
  }

 private:
  static constexpr int kTickBits = 22;
  static constexpr int kLevels = 4;
  static constexpr std::int64_t kSlots = 64;
  static constexpr std::int64_t kNever = INT64_MAX;

  static void unlink(TimerNode& node);
  void take_passed(std::int64_t now_tick, TimerNode& due);
  void find_earliest();

  std::array<std::array<TimerNode, kSlots>, kLevels> slots_;
  std::int64_t current_;
  std::int64_t earliest_ = kNever;
};

}  // namespace dirigent
