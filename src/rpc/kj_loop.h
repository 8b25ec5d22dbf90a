// SPDX-License-Identifier: MIT
//
// KJ on an io::Loop: the EventPort that lets KJ's promises run as turns of the loop.
//
// It is a service of the loop's io_context: made on first use, shared by everything on that loop, destroyed with it;
// io::Loop knows nothing of KJ. KJ's event loop is current only inside `inside()` and `pump()`, so any number of loops
// may take turns in one thread. Objects that hold KJ promises or capabilities must be gone before the loop is.
//
// KJ code runs in two ways only: `inside(work)` builds or destroys things, `pump()` lets events fire. Callbacks to other
// floors run outside of both.
#pragma once

#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <kj/async.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/timer_wheel.h"
#include "dirigent/io/loop.h"

namespace dirigent::rpc {

// What a kj::Exception says, in one line: the description without file names and stack traces.
std::string words(const kj::Exception& exception);

class KjLoop final : public asio::execution_context::service, private kj::EventPort {
 public:
  static asio::execution_context::id id;

  static KjLoop& of(io::Loop& loop);

  explicit KjLoop(asio::io_context& context);
  KjLoop(const KjLoop&) = delete;
  KjLoop& operator=(const KjLoop&) = delete;
  ~KjLoop() noexcept override;

  // Runs `work` with the KJ event loop current. Events that it arms fire in a later turn of the loop. A kj::Exception
  // that leaves `work` is logged with `what`, because no caller could do more about it.
  template <class Work>
  void inside(const char* what, Work&& work) {
    Scope scope(*this);
    if (auto exception = catch_exception(std::forward<Work>(work))) log_exception(what, *exception);
  }

  // Fires events: at the end of every handler that fulfilled a KJ promise. Does nothing inside an event.
  void pump();

  // A timer that costs little however many there are: fires within 5 ms after `due`, outside KJ events. Moving it to later
  // is free.
  void wake(TimerNode& node, Instant due);
  void forget(TimerNode& node) { wheel_.clear(node); }

  // For received bytes on their way into messages: one buffer serves all connections of the loop.
  std::vector<char>& scratch() { return scratch_; }
  asio::io_context& context() { return context_; }

 private:
  struct Scope {
    explicit Scope(KjLoop& owner) : kj(owner) { kj.enter(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { kj.leave(); }
    KjLoop& kj;
  };

  template <class Work>
  static std::optional<kj::Exception> catch_exception(Work&& work) {
    KJ_IF_MAYBE (exception, kj::runCatchingExceptions(std::forward<Work>(work))) return std::move(*exception);
    return std::nullopt;
  }
  static void log_exception(const char* what, const kj::Exception& exception);

  void enter();
  void leave();
  void schedule();
  void arm_timer();

  // asio::execution_context::service
  void shutdown() override;

  // kj::EventPort
  bool wait() override;
  bool poll() override;
  void setRunnable(bool runnable) override;

  asio::io_context& context_;
  kj::EventLoop events_;
  std::optional<kj::WaitScope> wait_scope_;
  int depth_ = 0;
  bool scheduled_ = false;
  bool pumping_ = false;
  bool shut_down_ = false;
  std::vector<char> scratch_;
  TimerWheel wheel_{io::Loop::now()};
  asio::steady_timer timer_;
  Instant armed_ = Instant::max();
};

}  // namespace dirigent::rpc
