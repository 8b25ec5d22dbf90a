// SPDX-License-Identifier: MIT
//
// Counts what happens to requests and sandboxes, and makes the Outcome of it.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "dirigent/sim/simulator.h"

namespace dirigent::sim {

class Measure {
 public:
  Measure(Instant from, std::size_t functions);

  // One call per request, with its answer.
  void succeeded(std::uint32_t function, Instant arrived, Duration response, Duration run_time, bool waited_for_start);
  void failed(Instant arrived, std::string_view reason);
  void became_ready(Instant now);
  // A sandbox was there from `from` to `to`, with at least one request in it for `busy`.
  void sandbox_ended(Instant from, Instant to, Duration busy);
  void sandboxes(std::size_t now) { outcome_.sandboxes_max = std::max(outcome_.sandboxes_max, static_cast<std::uint32_t>(now)); }
  Outcome& outcome() { return outcome_; }
  Outcome finish();

 private:
  struct OfFunction {
    std::uint64_t count = 0;
    double latency_ms = 0;       // summed
    double log_slowdown = 0;     // summed
  };
  Instant from_;
  Outcome outcome_;
  std::vector<OfFunction> functions_;
  std::int64_t second_ = -1;     // the last one in which a sandbox became ready, and how many did
  std::uint64_t in_second_ = 0;
};

}  // namespace dirigent::sim
