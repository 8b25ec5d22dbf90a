// SPDX-License-Identifier: MIT
//
// So many at a time, the others in the order in which they came. For work that shares a CPU: hundreds at once would all
// be done at the end, a few at a time are done one after the other, and the last one is no later.
//
// When nobody has come to the end for as long as the patience, all go: it is something else they are waiting for, as a disk.
#pragma once

#include <deque>
#include <memory>

#include "sandbox/helpers.h"

namespace dirigent::sandbox {

// Owned by a runtime, used on its loop's thread; outlives its turns.
class Turns {
 public:
  Turns(io::Loop& loop, std::size_t at_a_time, Duration patience) : loop_(loop), at_a_time_(at_a_time), patience_(patience) {}

  // A turn that has been had; it ends with this object.
  class Turn {
   public:
    explicit Turn(Turns& turns) : turns_(&turns) { ++turns.going_; }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { turns_->next(); }

   private:
    Turns* turns_;
  };

  // Until there may be a Turn. Never fails; ends at once when the waiting task is cancelled.
  io::Task<void> wait();

 private:
  void next();

  io::Loop& loop_;
  const std::size_t at_a_time_;
  const Duration patience_;
  std::size_t going_ = 0;
  Instant last_end_{};
  std::deque<std::shared_ptr<Signal>> waiting_;
};

}  // namespace dirigent::sandbox
