// SPDX-License-Identifier: MIT
//
// Error codes of RFC 9113 that the tests name.
#pragma once

#include <cstdint>

namespace dirigent::test {
inline constexpr std::uint32_t kProtocolError = 1;
inline constexpr std::uint32_t kInternalError = 2;
inline constexpr std::uint32_t kRefusedStream = 7;
inline constexpr std::uint32_t kCancel = 8;
inline constexpr std::uint32_t kEnhanceYourCalm = 11;
}  // namespace dirigent::test
