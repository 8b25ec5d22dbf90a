// SPDX-License-Identifier: MIT
#include "dirigent/base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace dirigent {

void assertion_failed(const char* condition, const char* file, int line, const std::string& detail) {
  std::fprintf(stderr, "dirigent: bug: %s is false at %s:%d%s%s\n", condition, file, line, detail.empty() ? "" : ": ",
               detail.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace dirigent
