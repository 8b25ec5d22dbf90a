// SPDX-License-Identifier: MIT
//
// Outcomes as text: a table for people, JSON for programs, an SVG with the distributions. Nothing in them depends on the
// machine or on the time of day.
#pragma once

#include <string>
#include <vector>

#include "dirigent/sim/simulator.h"

namespace dirigent::sim {

struct NamedOutcome {
  std::string name;  // "knative"
  Outcome outcome;
};

std::string format_outcomes(const std::vector<NamedOutcome>& outcomes);
std::string to_json(const std::vector<NamedOutcome>& outcomes, const SimOptions& options, const Workload& workload);
// Two plots beside each other: per-function mean scheduling latency and per-function slowdown, on logarithmic axes.
std::string to_svg(const std::vector<NamedOutcome>& outcomes, const std::string& title);

}  // namespace dirigent::sim
