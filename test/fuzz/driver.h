// SPDX-License-Identifier: MIT
//
// A small fuzzing driver: takes seeds, mutates them, hands each input to a target that knows invariants, and keeps the
// inputs that made the target behave in a way not seen before. It needs no instrumented compiler, so every build can
// run it; the targets' invariants, not only crashes, are what it looks for. docs/testing.md has the reasons and the
// commands.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dirigent/base/random.h"

namespace dirigent::fuzz {

// What one execution gets: byte strings (say, what a client and what a sandbox sends), and a number from which the
// target draws whatever else it has to choose, such as where to cut and who hangs up.
struct Input {
  std::vector<std::string> parts;
  std::uint64_t choices = 0;
};
std::string to_text(const Input& input);
std::optional<Input> parse_input(const std::string& text);

struct Outcome {
  std::optional<std::string> finding;  // what is wrong, in words
  std::uint64_t behaviour = 0;         // inputs with different numbers were treated differently
};

struct Target {
  std::string name;
  std::vector<Input> seeds;
  std::function<Outcome(const Input&)> run;
  // Changes one part of an input a little; `other` is a part of another input to take pieces from.
  std::function<void(std::string& part, const std::string& other, Rng& rng)> mutate;
};

// A stream of numbers drawn from Input::choices.
class Choices {
 public:
  explicit Choices(std::uint64_t seed) : rng_(seed) {}
  std::uint64_t below(std::uint64_t bound) { return rng_.below(bound); }
  bool one_in(std::uint64_t n) { return rng_.below(n) == 0; }

 private:
  Rng rng_;
};

// Runs `target` as the command line says. The exit status: 0, 1 after a finding, 2 for a command line not understood.
int run_fuzzer(int argc, char** argv, const Target& target);

}  // namespace dirigent::fuzz
