// SPDX-License-Identifier: MIT
#include "dirigent/io/task.h"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <exception>
#include <system_error>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"

namespace dirigent::io {

namespace {

using Executor = asio::io_context::executor_type;
constexpr asio::use_awaitable_t<Executor> use_task{};

std::chrono::steady_clock::time_point on_steady_clock(Instant instant) {
  return std::chrono::steady_clock::time_point(
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(instant.time_since_epoch()));
}

Action run_task(Task<void> task, std::string_view group) {
  Status status = co_await std::move(task);
  if (!status && status.error().code != ErrorCode::cancelled) log_error(group, "{}", status.error().message);
}

}  // namespace

Task<void> sleep_until(Loop& loop, Instant deadline) {
  asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor> timer(
      loop.context().get_executor());
  timer.expires_at(on_steady_clock(deadline));
  std::error_code error;
  co_await timer.async_wait(asio::redirect_error(use_task, error));
  if (error) co_return failure(ErrorCode::cancelled, "cancelled");
  co_return Status{};
}

TaskGroup::TaskGroup(Loop& loop, std::string_view name) : loop_(loop), name_(name), empty_timer_(loop.context()) {
  empty_timer_.expires_at(std::chrono::steady_clock::time_point::max());
}

TaskGroup::~TaskGroup() { ASSERT(children_.empty(), "group {} has {} children", name_, children_.size()); }

void TaskGroup::spawn(Action action) {
  children_.emplace_front();
  auto child = children_.begin();
  auto done = [this, child](std::exception_ptr error) {
    if (error) {
      try {
        std::rethrow_exception(error);
      } catch (const std::system_error& cancelled) {
        if (cancelled.code() != asio::error::operation_aborted) log_error(name_, "a task failed: {}", cancelled.what());
      } catch (const std::exception& exception) {
        log_error(name_, "a task failed: {}", exception.what());
      }
    }
    ended(child);
  };
  asio::co_spawn(loop_.context().get_executor(), std::move(action),
                 asio::bind_cancellation_slot(child->signal.slot(), std::move(done)));
  // The signal has a handler only once the coroutine has been started by the loop: emit behind it in the queue.
  if (cancelled_) {
    loop_.post([this] { cancel(); });
  }
}

void TaskGroup::spawn(Task<void> task) { spawn(run_task(std::move(task), name_)); }

void TaskGroup::cancel() {
  cancelled_ = true;
  // A handler may end its child at once, so step before emitting.
  for (auto child = children_.begin(); child != children_.end();) {
    auto current = child++;
    current->signal.emit(asio::cancellation_type::terminal);
  }
}

void TaskGroup::ended(std::list<Child>::iterator child) {
  children_.erase(child);
  if (children_.empty()) empty_timer_.cancel();
}

Action TaskGroup::wait() {
  while (!children_.empty()) {
    std::error_code error;
    co_await empty_timer_.async_wait(asio::redirect_error(use_task, error));
  }
}

void TaskGroup::drain_now() {
  cancel();
  while (!children_.empty()) {
    loop_.context().restart();
    loop_.context().run_one();
    // A child that was spawned but not yet started, or that waits again after a cancellation, needs another one.
    cancel();
  }
}

struct WakeupTimer::State : std::enable_shared_from_this<State> {
  State(Loop& loop, std::function<void()> on_wake) : timer(loop.context()), callback(std::move(on_wake)) {}

  void wait() {
    waiting = true;
    timer.expires_at(on_steady_clock(armed));
    timer.async_wait([self = shared_from_this()](std::error_code) {
      self->waiting = false;
      if (!self->wanted) return;
      // A timer is moved to a later instant by letting it fire and looking again: no cancel on the hot path.
      if (*self->wanted > Loop::now()) {
        self->armed = *self->wanted;
        self->wait();
        return;
      }
      self->wanted.reset();
      self->callback();
    });
  }

  asio::steady_timer timer;
  std::function<void()> callback;
  std::optional<Instant> wanted;
  Instant armed{};
  bool waiting = false;
};

WakeupTimer::WakeupTimer(Loop& loop, std::function<void()> callback, int)
    : state_(std::make_shared<State>(loop, std::move(callback))) {}

WakeupTimer::~WakeupTimer() {
  state_->wanted.reset();
  state_->timer.cancel();
}

void WakeupTimer::arm(std::optional<Instant> when) {
  state_->wanted = when;
  if (!when) return;
  if (!state_->waiting) {
    state_->armed = *when;
    state_->wait();
  } else if (*when < state_->armed) {
    state_->armed = *when;
    // Moving the expiry cancels the pending wait, whose handler looks at `wanted` and waits again.
    state_->timer.cancel();
  }
}

}  // namespace dirigent::io
