// SPDX-License-Identifier: MIT
//
// Whole runs of a simulated group with random faults, each from a seed.
#pragma once

#include "consensus/simulated_group.h"

namespace dirigent::consensus::test {

// A whole run: faults and proposals for `duration`, then healing, then everybody has to agree. Empty, or what is wrong.
std::string torture(SimulationOptions options, Duration duration, Statistics* statistics = nullptr);
// The options that belong to a seed.
SimulationOptions options_of(std::uint64_t seed);

}  // namespace dirigent::consensus::test
