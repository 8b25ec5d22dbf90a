// SPDX-License-Identifier: MIT
//
// The calls of an open-loop plan in order. Every thread walks the whole sequence and takes its share, so that the calls
// of a seed are the same whatever the number of threads. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dirigent/bench/measurement.h"
#include "dirigent/bench/plan.h"

namespace dirigent::bench {

class Schedule {
 public:
  // Calls number `share`, `share` + `shares`, ... REQUIRES: the plan has a load or a workload.
  Schedule(const Plan& plan, Instant begin, unsigned share, unsigned shares);
  // The next call of this share; false at the end.
  bool next(Call& call);

 private:
  bool next_arrival(workload::Arrival& arrival);

  struct Minute {
    std::uint32_t number = 0;
    std::uint32_t calls = 0;
  };
  const Plan& plan_;
  Instant begin_;
  unsigned share_;
  unsigned shares_;
  std::uint64_t index_ = 0;
  std::optional<workload::LoadStream> stream_;
  std::size_t position_ = 0;     // in the workload
  std::vector<Minute> minutes_;  // of each function
};

}  // namespace dirigent::bench
