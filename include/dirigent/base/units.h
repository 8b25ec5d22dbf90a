// SPDX-License-Identifier: MIT
//
// Amounts with their unit in the type.
#pragma once

#include <compare>
#include <cstdint>

namespace dirigent {

struct Bytes {
  std::int64_t value = 0;
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes& operator+=(Bytes other) { value += other.value; return *this; }
  constexpr Bytes& operator-=(Bytes other) { value -= other.value; return *this; }
  friend constexpr Bytes operator+(Bytes a, Bytes b) { return {a.value + b.value}; }
  friend constexpr Bytes operator-(Bytes a, Bytes b) { return {a.value - b.value}; }
};
inline constexpr Bytes operator""_KiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 10}; }
inline constexpr Bytes operator""_MiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 20}; }
inline constexpr Bytes operator""_GiB(unsigned long long n) { return {static_cast<std::int64_t>(n) << 30}; }

// A thousandth of one CPU.
struct Millicpu {
  std::int64_t value = 0;
  constexpr auto operator<=>(const Millicpu&) const = default;
  constexpr Millicpu& operator+=(Millicpu other) { value += other.value; return *this; }
  constexpr Millicpu& operator-=(Millicpu other) { value -= other.value; return *this; }
  friend constexpr Millicpu operator+(Millicpu a, Millicpu b) { return {a.value + b.value}; }
  friend constexpr Millicpu operator-(Millicpu a, Millicpu b) { return {a.value - b.value}; }
};

}  // namespace dirigent
