// SPDX-License-Identifier: MIT
#include "dirigent/base/timer_wheel.h"

#include <algorithm>

namespace dirigent {

namespace {
// 12 hours in ticks, below the 64^4 ticks that the wheel can hold.
constexpr std::int64_t kDistanceMax = std::int64_t{12} * 3600 * 1'000'000'000 >> 22;
}  // namespace

TimerWheel::TimerWheel(Instant now) : current_(now.time_since_epoch().count() >> kTickBits) {
  for (auto& level : slots_) {
    for (auto& head : level) head.previous = head.next = &head;
  }
}

void TimerWheel::unlink(TimerNode& node) {
  node.previous->next = node.next;
  node.next->previous = node.previous;
  node.previous = node.next = nullptr;
}

void TimerWheel::clear(TimerNode& node) {
  if (node.linked()) unlink(node);
}

void TimerWheel::set(TimerNode& node, Instant deadline) {
  node.deadline = deadline;
  // Rounded up, so that the slot passes after the deadline.
  constexpr std::int64_t kTick = std::int64_t{1} << kTickBits;
  const std::int64_t nanoseconds = deadline.time_since_epoch().count();
  std::int64_t tick = nanoseconds > INT64_MAX - kTick ? INT64_MAX : (nanoseconds + kTick - 1) >> kTickBits;
  tick = std::clamp(tick, current_ + 1, current_ + kDistanceMax);
  if (node.linked()) {
    if (node.tick <= tick) return;
    unlink(node);
  }
  int level = 0;
  std::int64_t distance = tick - current_;
  while (distance >= kSlots && level + 1 < kLevels) {
    distance >>= 6;
    ++level;
  }
  node.tick = tick >> (6 * level) << (6 * level);  // a coarser slot passes when its first tick does
  TimerNode& head = slots_[static_cast<std::size_t>(level)][static_cast<std::size_t>((tick >> (6 * level)) & (kSlots - 1))];
  node.previous = head.previous;
  node.next = &head;
  head.previous->next = &node;
  head.previous = &node;
  earliest_ = std::min(earliest_, node.tick);
}

void TimerWheel::expire(Instant now) {
  const std::int64_t now_tick = now.time_since_epoch().count() >> kTickBits;
  if (now_tick <= current_) return;
  TimerNode due;
  due.previous = due.next = &due;
  take_passed(now_tick, due);
  while (due.next != &due) {
    TimerNode& node = *due.next;
    unlink(node);
    if (node.deadline <= now) {
      node.fire(node.owner, now);
    } else {
      set(node, node.deadline);
    }
  }
  find_earliest();
}

void TimerWheel::take_passed(std::int64_t now_tick, TimerNode& due) {
  for (int level = 0; level < kLevels; ++level) {
    const std::int64_t from = current_ >> (6 * level);
    const std::int64_t to = now_tick >> (6 * level);
    for (std::int64_t slot = from + 1; slot <= to && slot <= from + kSlots; ++slot) {
      TimerNode& head = slots_[static_cast<std::size_t>(level)][static_cast<std::size_t>(slot & (kSlots - 1))];
      if (head.next == &head) continue;
      head.next->previous = due.previous;
      due.previous->next = head.next;
      head.previous->next = &due;
      due.previous = head.previous;
      head.previous = head.next = &head;
    }
  }
  current_ = now_tick;
}

void TimerWheel::find_earliest() {
  earliest_ = kNever;
  for (int level = 0; level < kLevels; ++level) {
    const std::int64_t from = current_ >> (6 * level);
    for (std::int64_t slot = from + 1; slot <= from + kSlots; ++slot) {
      const std::int64_t tick = slot << (6 * level);
      if (tick >= earliest_) break;
      const TimerNode& head = slots_[static_cast<std::size_t>(level)][static_cast<std::size_t>(slot & (kSlots - 1))];
      if (head.next != &head) earliest_ = tick;
    }
  }
}

}  // namespace dirigent
