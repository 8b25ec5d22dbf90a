// SPDX-License-Identifier: MIT
//
// Task<T>: a coroutine of the doing tower that ends with a Result<T>. TaskGroup: the parent every coroutine has.
//
//   TaskGroup group(loop);
//   group.spawn(serve(connection));     // Task<void> or asio::awaitable<void>
//   group.cancel();                     // every child gets a cancellation at its next suspension
//   co_await group.wait();              // until the last child has ended
//
// Rules that keep g++ 12 honest are in docs/style.md: name lambdas and aggregates before `co_await`.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/steady_timer.hpp>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/io/loop.h"

namespace dirigent::io {

template <class T>
using Task = asio::awaitable<Result<T>, asio::io_context::executor_type>;
using Action = asio::awaitable<void, asio::io_context::executor_type>;  // a coroutine without a result

// Returns at `deadline`, or earlier with ErrorCode::cancelled when the surrounding task is cancelled.
Task<void> sleep_until(Loop& loop, Instant deadline);
inline Task<void> sleep_for(Loop& loop, Duration duration) { return sleep_until(loop, Loop::now() + duration); }

// Owned by the object whose work the children do; lives on the loop's thread. Its destructor asserts that it is empty,
// so cancel() and wait() (or drain_now()) come first.
class TaskGroup {
 public:
  // `name` appears in logs when a child ends with an exception (which is a bug, or out of memory).
  TaskGroup(Loop& loop, std::string_view name);
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup();

  // Starts `action` on the loop (it runs at the loop's next turn). A child of a cancelled group is cancelled at once.
  // An error in a Task's Result is the child's own to handle before it ends; what is left is logged.
  void spawn(Action action);
  void spawn(Task<void> task);

  void cancel();
  [[nodiscard]] bool cancelled() const { return cancelled_; }
  [[nodiscard]] bool empty() const { return children_.empty(); }
  // Ends when the group is empty. At most one waiter.
  Action wait();
  // cancel(), then turns of the loop until the group is empty. Only from outside the loop (a role's stop, a test).
  void drain_now();

 private:
  struct Child {
    asio::cancellation_signal signal;
  };
  void ended(std::list<Child>::iterator child);

  Loop& loop_;
  std::string_view name_;
  std::list<Child> children_;
  bool cancelled_ = false;
  asio::steady_timer empty_timer_;
};

// A timer that a core's next_wakeup() drives: arm() moves it, `callback` runs on the loop. Cheap to re-arm with the same
// or a later instant.
class WakeupTimer {
 public:
  template <class Callback>
  WakeupTimer(Loop& loop, Callback callback) : WakeupTimer(loop, std::function<void()>(std::move(callback)), 0) {}
  ~WakeupTimer();
  // nullopt disarms.
  void arm(std::optional<Instant> when);

 private:
  WakeupTimer(Loop& loop, std::function<void()> callback, int);
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace dirigent::io
