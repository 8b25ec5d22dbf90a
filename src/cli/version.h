// SPDX-License-Identifier: MIT
#pragma once

#include <string>

namespace dirigent::cli {

// "dirigent 0.1.0 (a1b2c3d, release)  runtimes: process simulated".
std::string version_line();
// "0.1.0".
std::string version_number();

}  // namespace dirigent::cli
