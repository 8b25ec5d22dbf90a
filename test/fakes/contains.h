// SPDX-License-Identifier: MIT
//
// A matcher's work without a matcher, because their names differ between Catch2 version 2 and 3.
#pragma once

#include <string_view>

namespace dirigent::fakes {

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace dirigent::fakes

// Fails with the whole text.
#define CHECK_CONTAINS(text, part)                           \
  do {                                                       \
    const std::string contains_text(text);                   \
    const std::string contains_part(part);                   \
    CAPTURE(contains_text, contains_part);                   \
    CHECK(::dirigent::fakes::contains(contains_text, contains_part)); \
  } while (false)
