// SPDX-License-Identifier: MIT
//
// Signal: something a coroutine waits for and a callback says, once. Helpers: a few threads for system calls that
// block, whose results come back to the loop.
#pragma once

#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <vector>

#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"

namespace dirigent::sandbox {

inline constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};

inline std::chrono::steady_clock::time_point on_steady_clock(Instant instant) {
  return std::chrono::steady_clock::time_point(
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(instant.time_since_epoch()));
}

// Lives on the loop's thread; must outlive its waiters (keep it in a shared_ptr, or in the owner of the waiting group).
class Signal {
 public:
  explicit Signal(io::Loop& loop) : loop_(loop) {}

  void set() {
    set_ = true;
    for (Timer* timer : waiters_) timer->cancel();
  }
  [[nodiscard]] bool is_set() const { return set_; }

  // Ends when set (at once if it is), at the deadline (timed_out), or when the waiting task is cancelled.
  io::Task<void> wait(Instant deadline);

 private:
  using Timer = asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>,
                                           asio::io_context::executor_type>;
  struct Entry {
    Entry(std::vector<Timer*>& list, Timer* timer) : waiters(list), mine(timer) { waiters.push_back(mine); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    ~Entry() { std::erase(waiters, mine); }
    std::vector<Timer*>& waiters;
    Timer* mine;
  };

  io::Loop& loop_;
  std::vector<Timer*> waiters_;
  bool set_ = false;
};

class Helpers {
 public:
  Helpers(io::Loop& loop, std::size_t threads) : loop_(loop) {
    for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;
  // Finishes what was submitted.
  ~Helpers() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  void submit(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

  // Runs `job` on a helper thread and gives its Result on the loop. If the waiting task is cancelled the job is still
  // finished and its result dropped.
  template <class Job>
  auto run(Job job) -> io::Task<typename std::invoke_result_t<Job>::value_type> {
    using Answer = std::invoke_result_t<Job>;
    struct State {
      explicit State(io::Loop& loop) : done(loop) {}
      Signal done;
      std::optional<Answer> answer;
    };
    auto state = std::make_shared<State>(loop_);
    io::Loop& loop = loop_;
    submit([state, job = std::move(job), &loop]() mutable {
      auto answer = std::make_shared<Answer>(job());
      loop.post([state = std::move(state), answer = std::move(answer)] {
        state->answer.emplace(std::move(*answer));
        state->done.set();
      });
    });
    Status waited = co_await state->done.wait(Instant::max());
    if (!waited) co_return failure(waited.error());
    co_return std::move(*state->answer);
  }

 private:
  void work() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job();
    }
  }

  io::Loop& loop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace dirigent::sandbox
