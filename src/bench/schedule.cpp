// SPDX-License-Identifier: MIT
#include "bench/schedule.h"

#include "dirigent/base/assert.h"

namespace dirigent::bench {

Schedule::Schedule(const Plan& plan, Instant begin, unsigned share, unsigned shares)
    : plan_(plan), begin_(begin), share_(share), shares_(shares), minutes_(plan.targets.size()) {
  ASSERT(plan.load || plan.workload, "an open-loop plan without arrivals");
  if (plan.load) {
    workload::Load load = *plan.load;
    load.functions = static_cast<std::uint32_t>(plan.targets.size());
    stream_.emplace(load, plan.warm_up + plan.length, plan.seed);
  }
}

bool Schedule::next_arrival(workload::Arrival& arrival) {
  if (stream_) {
    if (!stream_->next(arrival)) return false;
    arrival.run_time = plan_.run_time;
    return true;
  }
  const auto& arrivals = plan_.workload->arrivals;
  if (position_ == arrivals.size()) return false;
  arrival = arrivals[position_++];
  if (plan_.speed != 1) arrival.at = from_seconds(to_seconds(arrival.at) / plan_.speed);
  return true;
}

bool Schedule::next(Call& call) {
  workload::Arrival arrival;
  while (next_arrival(arrival)) {
    ASSERT(arrival.function < minutes_.size(), "function {} of {}", arrival.function, minutes_.size());
    Minute& minute = minutes_[arrival.function];
    const auto number = static_cast<std::uint32_t>(arrival.at / 60s);
    if (minute.number != number) minute = {number, 0};
    const std::uint32_t ordinal = minute.calls++;
    if (index_++ % shares_ != share_) continue;
    call = {};
    call.intended = begin_ + arrival.at;
    call.run_time = arrival.run_time;
    call.target = arrival.function;
    call.minute = number;
    call.ordinal = ordinal;
    call.is_measured = arrival.at >= plan_.warm_up;
    return true;
  }
  return false;
}

}  // namespace dirigent::bench
