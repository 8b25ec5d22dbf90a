// SPDX-License-Identifier: MIT
//
// How long a test is: numbers from the environment, for the long forms of docs/testing.md.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "dirigent/base/text.h"

namespace dirigent::test {

// `otherwise` where the variable is not there, or is no number.
inline std::int64_t setting(const char* name, std::int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : parse_integer(text).value_or(otherwise);
}

}  // namespace dirigent::test
