// SPDX-License-Identifier: MIT
//
// What a sandbox takes and a node has.
#pragma once

#include "dirigent/base/units.h"

namespace dirigent {

struct Resources {
  Millicpu cpu;
  Bytes memory;

  constexpr Resources& operator+=(const Resources& other) { cpu += other.cpu; memory += other.memory; return *this; }
  constexpr Resources& operator-=(const Resources& other) { cpu -= other.cpu; memory -= other.memory; return *this; }
  // True when every part of this is at most the same part of `other`.
  [[nodiscard]] constexpr bool fits_in(const Resources& other) const { return cpu <= other.cpu && memory <= other.memory; }
  friend constexpr Resources operator+(Resources a, const Resources& b) { return a += b; }
  friend constexpr Resources operator-(Resources a, const Resources& b) { return a -= b; }
  friend constexpr bool operator==(const Resources&, const Resources&) = default;
};

}  // namespace dirigent
