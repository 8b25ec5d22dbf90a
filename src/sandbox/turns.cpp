// SPDX-License-Identifier: MIT
#include "sandbox/turns.h"

#include <algorithm>
#include <system_error>

namespace dirigent::sandbox {

io::Task<Turns::Turn> Turns::wait(Instant deadline) {
  if (going_ < at_a_time_ && waiting_.empty()) co_return Turn(*this);
  const auto waiter = std::make_shared<Waiter>(loop_);
  waiting_.push_back(waiter);
  const Instant came = io::Loop::now();
  Status called;
  do {
    try {
      called = co_await waiter->called.wait(std::min(deadline, patient_until(came)));
    } catch (const std::system_error&) {
      called = failure(ErrorCode::cancelled, "cancelled");
    }
    if (called) co_return std::move(*waiter->turn);
  } while (called.error().code == ErrorCode::timed_out && io::Loop::now() < std::min(deadline, patient_until(came)));
  std::erase(waiting_, waiter);
  if (called.error().code == ErrorCode::timed_out && io::Loop::now() < deadline) co_return Turn(*this);
  co_return failure(called.error().within("while others were started"));
}

Instant Turns::patient_until(Instant came) const {
  return patience_ ? std::max(came, last_end_) + *patience_ : Instant::max();
}

void Turns::next() {
  --going_;
  last_end_ = io::Loop::now();
  if (going_ >= at_a_time_ || waiting_.empty()) return;
  const auto waiter = waiting_.front();
  waiting_.pop_front();
  waiter->turn.emplace(Turn(*this));
  waiter->called.set();
}

}  // namespace dirigent::sandbox
