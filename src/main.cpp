// SPDX-License-Identifier: MIT
//
// Says how each role is started and hands the words over.
#include <cstdio>
#include <exception>

#include "dirigent/base/fault_point.h"
#include "dirigent/cli/starters.h"

int main(int argc, char** argv) {
#if DIRIGENT_HAS_FAULT_POINTS
  if (const auto problem = dirigent::fault::arm_from_environment()) {
    std::fprintf(stderr, "error: %s\n", problem->c_str());
    return 2;
  }
#endif
  try {
    return dirigent::cli::run({argv + 1, argv + argc}, dirigent::cli::all_commands());
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "error: dirigent ended by an exception, which is a bug: %s\n", exception.what());
    return 1;
  }
}
