// SPDX-License-Identifier: MIT
//
// ASSERT: a bug of ours, always checked, in every build. It prints the condition, the place and the values given, and
// aborts. Nothing that a peer, user, file or clock can influence may be asserted: that is what Result is for.
#pragma once

#include <fmt/core.h>

#include <string>

namespace dirigent {

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line, const std::string& detail);

}  // namespace dirigent

#define ASSERT(condition, ...)                                                                                 \
  do {                                                                                                         \
    if (!(condition)) [[unlikely]] {                                                                           \
      ::dirigent::assertion_failed(#condition, __FILE__, __LINE__, ::fmt::format("" __VA_ARGS__));             \
    }                                                                                                          \
  } while (false)
