// SPDX-License-Identifier: MIT
//
// The event loop: one per thread, one owner per object on it. A Loop is an asio::io_context with our clock and an
// explicit way in from other threads. Roles of one process share a loop; data-plane shards have one each.
#pragma once

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>

#include <utility>

#include "dirigent/base/time.h"

namespace dirigent::io {

class Loop {
 public:
  Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop();

  // The monotonic clock, read now. Any thread.
  static Instant now();
  static WallTime wall_now();

  // Runs until stop(), in the calling thread. A stopped loop may be run again.
  void run();
  // Runs what is ready and returns; for orderly shutdown and tests.
  void poll();
  // Any thread.
  void stop();

  // Runs `work` on the loop's thread, later. Any thread; `work` is moved there and destroyed there.
  template <class Work>
  void post(Work&& work) {
    asio::post(context_, std::forward<Work>(work));
  }

  asio::io_context& context() { return context_; }

 private:
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
};

}  // namespace dirigent::io
