// SPDX-License-Identifier: MIT
#include "sandbox/process/turns.h"

#include <algorithm>
#include <system_error>

namespace dirigent::sandbox {

io::Task<void> Turns::wait() {
  if (going_ < at_a_time_ && waiting_.empty()) co_return Status{};
  const auto called = std::make_shared<Signal>(loop_);
  waiting_.push_back(called);
  const Instant came = io::Loop::now();
  Status status;
  do {
    try {
      status = co_await called->wait(std::max(came, last_end_) + patience_);
    } catch (const std::system_error&) {
      status = failure(ErrorCode::cancelled, "cancelled");
    }
  } while (!status && status.error().code == ErrorCode::timed_out && io::Loop::now() < last_end_ + patience_);
  std::erase(waiting_, called);
  co_return Status{};
}

void Turns::next() {
  --going_;
  last_end_ = io::Loop::now();
  if (going_ >= at_a_time_ || waiting_.empty()) return;
  waiting_.front()->set();
  waiting_.pop_front();
}

}  // namespace dirigent::sandbox
