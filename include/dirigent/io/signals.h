// SPDX-License-Identifier: MIT
//
// How a process is asked to stop: the first SIGTERM or SIGINT calls back on a loop, the second ends the process at once
// with status 130, even when the loop hangs. One watcher per process, made by main() before other threads are started.
#pragma once

#include <functional>
#include <memory>

#include "dirigent/base/result.h"
#include "dirigent/io/loop.h"

namespace dirigent::io {

// A peer that goes away must be an error of write(2), not the end of the process. Children inherit an ignored signal
// across execve: whoever starts programs resets SIGPIPE in the child.
void ignore_sigpipe();

class SignalWatcher {
 public:
  // Also ignores SIGPIPE. `callback` gets the signal's number, once, on the loop's thread.
  // REQUIRES: no other watcher exists.
  static Result<std::unique_ptr<SignalWatcher>> open(Loop& loop, std::function<void(int)> callback);
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;
  // Restores what the signals did before (except SIGPIPE, which stays ignored). On the loop's thread.
  ~SignalWatcher();

 private:
  struct State;
  explicit SignalWatcher(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace dirigent::io
