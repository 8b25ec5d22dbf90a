// SPDX-License-Identifier: MIT
//
// Says how each role is started and hands the words over.
#include <cstdio>
#include <exception>

#include "dirigent/cli/run.h"

int main(int argc, char** argv) {
  try {
    const dirigent::cli::Commands commands;
    return dirigent::cli::run({argv + 1, argv + argc}, commands);
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "error: dirigent ended by an exception, which is a bug: %s\n", exception.what());
    return 1;
  }
}
