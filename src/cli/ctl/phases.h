// SPDX-License-Identifier: MIT
//
// The Server-Timing header of an invocation as phases, and their picture. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dirigent::cli {

struct Phase {
  std::string name;         // "queue"
  double ms = 0;            // 0 when the header gives no duration
  std::string description;  // may be empty
};

// What cannot be read is skipped: a function may send a header of its own.
std::vector<Phase> parse_server_timing(std::string_view header);

// One line a phase, in the order of time, each bar beginning where the one before ends; "" when there is no phase.
std::string draw_phases(const std::vector<Phase>& phases);

}  // namespace dirigent::cli
