// SPDX-License-Identifier: MIT
//
// The long slice of the simulation: `simulate --seeds FROM-TO [--seconds VIRTUAL]`, or one seed with `--seeds N`.
// Prints one line of totals, or the first seeds that fail, and exits with 1 then.
#include <fmt/core.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "dirigent/base/log.h"
#include "simulation.h"

using namespace dirigent;
using namespace dirigent::consensus::test;

int main(int count, char** words) {
  std::uint64_t from = 1;
  std::uint64_t to = 1000;
  Duration duration = 10s;
  for (int i = 1; i + 1 < count; i += 2) {
    char* end = nullptr;
    if (std::strcmp(words[i], "--seeds") == 0) {
      from = to = std::strtoull(words[i + 1], &end, 10);
      if (*end == '-') to = std::strtoull(end + 1, &end, 10);
    } else if (std::strcmp(words[i], "--seconds") == 0) {
      duration = from_seconds(std::strtod(words[i + 1], &end));
    } else {
      fmt::print(stderr, "usage: {} [--seeds FROM-TO] [--seconds VIRTUAL_SECONDS]\n", words[0]);
      return 2;
    }
  }
  consensus::Statistics total;
  int failed = 0;
  for (std::uint64_t seed = from; seed <= to && failed < 5; ++seed) {
    const std::string wrong = torture(options_of(seed), duration, &total);
    if (wrong.empty()) continue;
    ++failed;
    fmt::print("{}\n  again: {} --seeds {} --seconds {}\n", wrong, words[0], seed, to_seconds(duration));
  }
  fmt::print("seeds={}-{} failed={} steps={} messages={} faults={} crashes={} elections={} proposals={} acknowledged={} snapshots={}\n", from, to, failed,
             total.steps, total.messages, total.faults, total.crashes, total.elections, total.proposals, total.acknowledged, total.snapshots);
  return failed == 0 ? 0 : 1;
}
