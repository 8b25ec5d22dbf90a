// SPDX-License-Identifier: MIT
//
// `dirigent sim`: the command line of the simulator.
#pragma once

#include <string>
#include <vector>

namespace dirigent::cli {

// `arguments` follow the command's name. Returns the exit status: 0, 1 = an invariant was violated, 2 = bad usage or input.
int run_sim(std::vector<std::string> arguments);

}  // namespace dirigent::cli
