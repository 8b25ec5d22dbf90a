// SPDX-License-Identifier: MIT
//
// From the options of `dirigent bench` to the functions to deploy and the targets to call. Pure: the seed is given.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_options.h"

namespace dirigent::cli {

// With names that no other run has: "cold-function-3-5102..."; the digits at the end are what plotting scripts cut off.
std::vector<bench::NewFunction> functions_to_deploy(const BenchOptions& options, std::uint64_t seed);

// Fills in the plan's endpoints and targets. `functions` and `endpoints` (of each: "HOST:PORT;HOST:PORT") are empty
// when nothing was deployed. Of several endpoints each function gets one by chance, for the whole run.
void put_targets(BenchOptions& options, const std::vector<bench::NewFunction>& functions,
                 const std::vector<std::string>& endpoints);

// The calls of one step of a sweep: function i of ceil(rate x cooldown) is called at i / rate, and again after each
// cooldown.
workload::Workload sweep_step(double rate, Duration cooldown, Duration length, Duration run_time);

}  // namespace dirigent::cli
