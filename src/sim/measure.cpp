// SPDX-License-Identifier: MIT
#include "sim/measure.h"

#include <algorithm>
#include <cmath>

namespace dirigent::sim {

Measure::Measure(Instant from, std::size_t functions) : from_(from), functions_(functions) {}

void Measure::succeeded(std::uint32_t function, Instant arrived, Duration response, Duration run_time, bool waited_for_start) {
  if (arrived < from_) return;
  ++outcome_.invocations;
  ++outcome_.succeeded;
  if (waited_for_start) ++outcome_.waited_for_start;
  const double latency = to_milliseconds(response - run_time);
  const double slowdown = to_seconds(response) / to_seconds(run_time);
  outcome_.latency_ms.values.push_back(latency);
  outcome_.slowdown.values.push_back(slowdown);
  OfFunction& of = functions_[function];
  ++of.count;
  of.latency_ms += latency;
  of.log_slowdown += std::log(slowdown);
}

void Measure::failed(Instant arrived, std::string_view reason) {
  if (arrived < from_) return;
  ++outcome_.invocations;
  ++outcome_.failures[std::string(reason)];
}

void Measure::became_ready(Instant now) {
  ++outcome_.creations;
  const auto second = now.time_since_epoch() / 1s;
  if (second != second_) {
    second_ = second;
    in_second_ = 0;
  }
  outcome_.creations_per_second_max = std::max(outcome_.creations_per_second_max, ++in_second_);
}

void Measure::sandbox_ended(Instant from, Instant to, Duration busy) {
  outcome_.sandbox_seconds_busy += to_seconds(busy);
  outcome_.sandbox_seconds_idle += to_seconds(to - from - busy);
}

Outcome Measure::finish() {
  for (const OfFunction& of : functions_) {
    if (of.count == 0) continue;
    outcome_.function_latency_ms.values.push_back(of.latency_ms / static_cast<double>(of.count));
    outcome_.function_slowdown.values.push_back(std::exp(of.log_slowdown / static_cast<double>(of.count)));
  }
  for (Sample* sample : {&outcome_.latency_ms, &outcome_.slowdown, &outcome_.function_latency_ms, &outcome_.function_slowdown}) {
    sample->sort();
  }
  return std::move(outcome_);
}

}  // namespace dirigent::sim
