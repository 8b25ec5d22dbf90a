// SPDX-License-Identifier: MIT
//
// A fixed number of helper threads for system calls that block (mount, clone, fsync, netlink, file trees), so that a
// loop never waits for the kernel. A coroutine asks, a helper runs the call, and the answer is delivered on the
// coroutine's own loop. Owned by a role; closed before its loops are destroyed.
//
//   auto remove_tree = [path] { return remove_directory(path); };    // name it first (docs/style.md)
//   Status removed = co_await pool.run(std::move(remove_tree));
#pragma once

#include <asio/async_result.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "dirigent/io/task.h"

namespace dirigent::io {

class BlockingPool {
 public:
  // REQUIRES: threads > 0. `name` (at most 15 bytes) is what `top -H` shows.
  BlockingPool(std::size_t threads, std::string_view name);
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;
  // close().
  ~BlockingPool();

  // Runs `work` on a helper, first come first served; an exception of `work` is rethrown in the coroutine. `work` may
  // refer to the coroutine's variables: a cancellation does not abandon a call that has been queued, it is noticed at
  // the coroutine's next suspension. The queue is as long as the number of coroutines that wait, which their owners
  // bound. REQUIRES: not closed.
  template <class Work>
  asio::awaitable<std::invoke_result_t<Work&>, asio::io_context::executor_type> run(Work work);

  // Calls queued or running. Any thread.
  [[nodiscard]] std::size_t pending() const;

  // Lets the queued calls finish, then ends the threads; blocks. The answers are still delivered if the loops run on.
  void close();

 private:
  struct Job {
    virtual ~Job() = default;
    // On a helper. Hands the job to the loop that asked, which destroys it.
    virtual void perform(std::unique_ptr<Job> self) = 0;
  };
  template <class Work, class Value, class Handler>
  struct TypedJob;
  struct State;

  void submit(std::unique_ptr<Job> job);
  static void work_off(State& state);

  std::unique_ptr<State> state_;
};

template <class Work, class Value, class Handler>
struct BlockingPool::TypedJob final : BlockingPool::Job {
  TypedJob(Work* w, std::optional<Value>* v, std::exception_ptr* e, asio::io_context::executor_type x, Handler h)
      : work(w), value(v), error(e), executor(x), handler(std::move(h)) {}

  void perform(std::unique_ptr<Job> self) override {
    try {
      if constexpr (std::is_void_v<std::invoke_result_t<Work&>>) {
        (*work)();
        value->emplace();
      } else {
        value->emplace((*work)());
      }
    } catch (...) {
      *error = std::current_exception();
    }
    // The loop may destroy the job before post() returns, so nothing of *this is touched from here on.
    const auto target = executor;
    auto* const raw = static_cast<TypedJob*>(self.release());
    asio::post(target, [owned = std::unique_ptr<TypedJob>(raw)]() mutable {
      Handler done = std::move(owned->handler);
      owned.reset();
      std::move(done)();
    });
  }

  // All three live in the frame of run(), which waits.
  Work* work;
  std::optional<Value>* value;
  std::exception_ptr* error;
  asio::io_context::executor_type executor;
  Handler handler;
};

template <class Work>
asio::awaitable<std::invoke_result_t<Work&>, asio::io_context::executor_type> BlockingPool::run(Work work) {
  using Executor = asio::io_context::executor_type;
  using Plain = std::invoke_result_t<Work&>;
  using Value = std::conditional_t<std::is_void_v<Plain>, std::monostate, Plain>;
  static constexpr asio::use_awaitable_t<Executor> token{};

  const Executor executor = co_await asio::this_coro::executor;
  std::optional<Value> value;
  std::exception_ptr error;
  // Captures plain pointers only: g++ 12 destroys owning captures of such lambdas twice.
  auto initiate = [pool = this, w = &work, v = &value, e = &error, x = &executor](auto handler) {
    using Handler = decltype(handler);
    pool->submit(std::make_unique<TypedJob<Work, Value, Handler>>(w, v, e, *x, std::move(handler)));
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<Executor>&, void()>(initiate, token);
  if (error) std::rethrow_exception(error);
  if constexpr (!std::is_void_v<Plain>) co_return std::move(*value);
}

}  // namespace dirigent::io
