// SPDX-License-Identifier: MIT
#include "dirigent/io/loop.h"

namespace dirigent::io {

// UNSAFE_IO drops asio's per-descriptor mutexes: one thread runs the loop; posting from other threads stays legal.
Loop::Loop() : context_(ASIO_CONCURRENCY_HINT_UNSAFE_IO), guard_(asio::make_work_guard(context_)) {}

Loop::~Loop() = default;

Instant Loop::now() {
  return Instant(std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

WallTime Loop::wall_now() {
  return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
}

void Loop::run() {
  context_.restart();
  context_.run();
}

void Loop::poll() {
  context_.restart();
  context_.poll();
}

void Loop::stop() { context_.stop(); }

}  // namespace dirigent::io
