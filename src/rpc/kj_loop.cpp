// SPDX-License-Identifier: MIT
#include "rpc/kj_loop.h"

#include <asio/post.hpp>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"

namespace dirigent::rpc {

namespace {

// A long chain of ready promises must not keep sockets and timers waiting: after so many events the loop gets its turn.
// Fewer cost a post each; corking everything to the end of a long run makes two peers wait for each other in turns.
constexpr unsigned kEventsPerTurn = 256;
// Events left when the loop is destroyed only release memory; the bound keeps a cycle of them from hanging the exit.
constexpr unsigned kEventsAtShutdown = 1'000'000;
constexpr std::size_t kScratchBytes = 64 * 1024;

}  // namespace

std::string words(const kj::Exception& exception) {
  std::string text = exception.getDescription().cStr();
  // Calls that failed at the peer arrive with this in front; the log already says whose words they are.
  constexpr std::string_view kRemote = "remote exception: ";
  while (text.starts_with(kRemote)) text.erase(0, kRemote.size());
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

asio::execution_context::id KjLoop::id;

KjLoop& KjLoop::of(io::Loop& loop) { return asio::use_service<KjLoop>(loop.context()); }

KjLoop::KjLoop(asio::io_context& context)
    : asio::execution_context::service(context), context_(context), events_(static_cast<kj::EventPort&>(*this)), scratch_(kScratchBytes), timer_(context) {}

KjLoop::~KjLoop() noexcept = default;

void KjLoop::enter() {
  if (depth_++ == 0) wait_scope_.emplace(events_);
}

void KjLoop::leave() {
  if (--depth_ == 0) wait_scope_.reset();
}

void KjLoop::schedule() {
  if (scheduled_ || shut_down_) return;
  scheduled_ = true;
  asio::post(context_, [this] {
    scheduled_ = false;
    pump();
  });
}

void KjLoop::pump() {
  // kj::EventLoop::run() does not notice that it runs already and would corrupt its queue.
  if (pumping_) return;
  Scope scope(*this);
  pumping_ = true;
  if (auto exception = catch_exception([this] { events_.run(kEventsPerTurn); })) log_exception("events", *exception);
  pumping_ = false;
  // The port is told about changes only, and nothing changes when run() ends at its limit.
  if (events_.isRunnable()) schedule();
}

void KjLoop::wake(TimerNode& node, Instant due) {
  wheel_.set(node, due);
  arm_timer();
}

void KjLoop::arm_timer() {
  const auto due = wheel_.next_wakeup();
  if (!due || *due >= armed_ || shut_down_) return;
  armed_ = *due;
  timer_.expires_at(std::chrono::steady_clock::time_point(due->time_since_epoch()));
  timer_.async_wait([this](std::error_code error) {
    if (error) return;
    armed_ = Instant::max();
    wheel_.expire(io::Loop::now());
    arm_timer();
  });
}

void KjLoop::log_exception(const char* what, const kj::Exception& exception) {
  log_error("rpc", "{} failed inside the RPC library: {} ({}:{})", what, words(exception), exception.getFile(), exception.getLine());
}

void KjLoop::shutdown() {
  shut_down_ = true;
  timer_.cancel();
  inside("shutdown", [this] { events_.run(kEventsAtShutdown); });
}

// Nested waiting would run the loop inside itself, so nobody may do it here.
bool KjLoop::wait() { ASSERT(false, "a KJ promise was waited for on an io::Loop"); }
bool KjLoop::poll() { return false; }

void KjLoop::setRunnable(bool runnable) {
  if (runnable && !pumping_) schedule();
}

}  // namespace dirigent::rpc
