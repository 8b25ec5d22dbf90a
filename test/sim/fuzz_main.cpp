// SPDX-License-Identifier: MIT
//
// Seeds of short runs with mixed faults and every checker on: sim_fuzz [COUNT] [FIRST]. Prints each failing seed with the
// command that repeats it, then "N passed, N failed".
#include <fmt/core.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include "dirigent/base/text.h"
#include "dirigent/sim/simulator.h"

using namespace dirigent;

namespace {

char reproduce[128];

void on_abort(int) {
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, reproduce, std::strlen(reproduce));
  std::_Exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  const auto count = argc > 1 ? parse_integer(argv[1]) : 500;
  const auto first = argc > 2 ? parse_integer(argv[2]) : 1;
  if (!count || !first || *count < 1) return 2;
  std::signal(SIGABRT, on_abort);
  std::int64_t failed = 0;
  for (std::int64_t seed = *first; seed < *first + *count; ++seed) {
    const std::string text = fmt::format("reproduce: dirigent sim --fuzz 1 --seed {}\n", seed);
    std::memcpy(reproduce, text.c_str(), text.size() + 1);
    const sim::FuzzCase made = sim::fuzz_case(static_cast<std::uint64_t>(seed));
    const sim::Outcome outcome = sim::simulate(made.options, made.workload);
    if (outcome.violation.empty()) continue;
    ++failed;
    fmt::print("seed {} ({}): {}\n{}", seed, made.description, outcome.violation, reproduce);
    std::fflush(stdout);
  }
  fmt::print("{} passed, {} failed\n", *count - failed, failed);
  return failed == 0 ? 0 : 1;
}
