// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "dirigent/base/result.h"

namespace dirigent::cli {

// Replaces the file. Errors: unavailable, with its path.
Status write_file(const std::string& path, const std::string& text);

}  // namespace dirigent::cli
