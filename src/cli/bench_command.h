// SPDX-License-Identifier: MIT
//
// `dirigent bench`: the load generator on the command line. Returns the exit status (docs/bench.md).
#pragma once

#include <string>
#include <vector>

namespace dirigent::cli {

int run_bench(std::vector<std::string> arguments);

}  // namespace dirigent::cli
