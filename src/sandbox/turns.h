// SPDX-License-Identifier: MIT
//
// So many at a time, the others in the order in which they came. For work that shares a CPU: hundreds at once would all
// be done at the end, a few at a time are done one after the other, and the last one is no later.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "sandbox/helpers.h"

namespace dirigent::sandbox {

// Owned by a runtime, used on its loop's thread; outlives its turns.
class Turns {
 public:
  // When nobody has come to the end for as long as `patience`, all who wait go: it is something else they are waiting
  // for, as a disk. Without one they wait on.
  Turns(io::Loop& loop, std::size_t at_a_time, std::optional<Duration> patience = std::nullopt)
      : loop_(loop), at_a_time_(at_a_time), patience_(patience) {}

  // One's turn; ends with this object.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : turns_(std::exchange(other.turns_, nullptr)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->next();
    }

   private:
    friend class Turns;
    explicit Turn(Turns& turns) : turns_(&turns) { ++turns.going_; }

    Turns* turns_;
  };

  // Until it is the caller's turn. Errors: timed_out at the deadline, cancelled.
  io::Task<Turn> wait(Instant deadline);

 private:
  // The turn is handed over before the waiting coroutine runs again, so that nobody gets in between.
  struct Waiter {
    explicit Waiter(io::Loop& loop) : called(loop) {}
    Signal called;
    std::optional<Turn> turn;
  };

  void next();
  [[nodiscard]] Instant patient_until(Instant came) const;

  io::Loop& loop_;
  const std::size_t at_a_time_;
  const std::optional<Duration> patience_;
  std::size_t going_ = 0;
  Instant last_end_{};
  std::deque<std::shared_ptr<Waiter>> waiting_;
};

}  // namespace dirigent::sandbox
