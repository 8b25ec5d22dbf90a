// SPDX-License-Identifier: MIT
//
// What will happen, by time; events of one instant in the order in which they were added.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dirigent/base/time.h"

namespace dirigent::sim {

enum class EventKind : std::uint32_t {
  message_up, message_down, client_lost, server_lost, connect, heartbeat,        // a: connection or link
  control_timer, control_start, durable,                                         // a: control plane
  group_heal,
  plane_timer, plane_mail, plane_start,                                          // a: plane, b: shard or mailbox
  worker_timer, worker_start, launched, launch_failed, probed, removed, crashed, // a: worker, b: sandbox
  finished, refused, broken,                                                     // b: request
  fault, calm,
};

struct Event {
  Instant at;
  std::uint64_t sequence = 0;
  EventKind kind{};
  std::uint32_t a = 0;
  std::uint64_t b = 0;
  std::uint32_t life = 0;  // of the process it is for: events for an earlier life are void
};

class EventQueue {
 public:
  void add(Instant at, EventKind kind, std::uint32_t a = 0, std::uint64_t b = 0, std::uint32_t life = 0) {
    heap_.push_back({at, ++sequence_, kind, a, b, life});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  [[nodiscard]] bool empty() const { return heap_.empty(); }
  [[nodiscard]] Instant next_at() const { return heap_.front().at; }
  Event take() {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Event event = heap_.back();
    heap_.pop_back();
    return event;
  }

 private:
  static bool later(const Event& a, const Event& b) { return a.at != b.at ? a.at > b.at : a.sequence > b.sequence; }

  std::vector<Event> heap_;
  std::uint64_t sequence_ = 0;
};

}  // namespace dirigent::sim
