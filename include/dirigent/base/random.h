// SPDX-License-Identifier: MIT
//
// A seeded random source, the same on every machine (xoshiro256** of Blackman and Vigna, seeded by splitmix64).
// Passed by reference to whatever needs chance, so that a seed reproduces a run.
#pragma once

#include <array>
#include <cstdint>

namespace dirigent {

class Rng {
 public:
  using result_type = std::uint64_t;

  explicit Rng(std::uint64_t seed);

  std::uint64_t operator()();
  static constexpr std::uint64_t min() { return 0; }
  static constexpr std::uint64_t max() { return ~std::uint64_t{0}; }

  // Uniform in [0, bound). REQUIRES: bound > 0.
  std::uint64_t below(std::uint64_t bound);
  // Uniform in [0, 1).
  double unit();
  // Exponential with the given mean.
  double exponential(double mean);

 private:
  std::array<std::uint64_t, 4> state_;
};

// A seed from the operating system. For the doing tower and command lines only.
std::uint64_t entropy_seed();

}  // namespace dirigent
