// SPDX-License-Identifier: MIT
#include "dirigent/io/signals.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <asio/posix/stream_descriptor.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <utility>

#include "dirigent/base/assert.h"

namespace dirigent::io {

namespace {

constexpr std::array<int, 2> kStopSignals = {SIGTERM, SIGINT};

// A signal handler can only reach globals. Lock-free atomics are async-signal-safe.
std::atomic<int> signal_event{-1};
std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_stop_signal(int number) {
  const int saved_errno = errno;
  int none = 0;
  if (!first_signal.compare_exchange_strong(none, number)) ::_exit(130);
  const std::uint64_t one = 1;
  // Cannot fail: the counter of an eventfd takes 2^64 - 2 such writes, and only the first signal comes here.
  [[maybe_unused]] const ssize_t written = ::write(signal_event.load(), &one, sizeof one);
  errno = saved_errno;
}

}  // namespace

struct SignalWatcher::State {
  State(Loop& loop, int fd, std::function<void(int)> on_signal)
      : event(loop.context(), fd), callback(std::move(on_signal)) {}

  asio::posix::stream_descriptor event;
  std::function<void(int)> callback;
  std::array<struct sigaction, kStopSignals.size()> before{};
};

void ignore_sigpipe() {
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, nullptr);
}

Result<std::unique_ptr<SignalWatcher>> SignalWatcher::open(Loop& loop, std::function<void(int)> callback) {
  ASSERT(signal_event.load() < 0, "a process has one SignalWatcher");
  ignore_sigpipe();
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return errno_failure(errno, "cannot make an eventfd for signals");
  auto state = std::make_shared<State>(loop, fd, std::move(callback));
  first_signal.store(0);
  signal_event.store(fd);
  state->event.async_wait(asio::posix::stream_descriptor::wait_read,
                          [weak = std::weak_ptr<State>(state)](std::error_code error) {
                            const auto self = weak.lock();
                            if (!error && self) self->callback(first_signal.load());
                          });
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigfillset(&action.sa_mask);
  for (std::size_t i = 0; i < kStopSignals.size(); ++i) ::sigaction(kStopSignals[i], &action, &state->before[i]);
  return std::unique_ptr<SignalWatcher>(new SignalWatcher(std::move(state)));
}

SignalWatcher::SignalWatcher(std::shared_ptr<State> state) : state_(std::move(state)) {}

SignalWatcher::~SignalWatcher() {
  for (std::size_t i = 0; i < kStopSignals.size(); ++i) ::sigaction(kStopSignals[i], &state_->before[i], nullptr);
  signal_event.store(-1);
}

}  // namespace dirigent::io
