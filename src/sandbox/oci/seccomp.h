// SPDX-License-Identifier: MIT
//
// The system call filter of containers, in the words of the OCI runtime specification. It refuses what the process
// runtime's own filter (cell/confine.cpp) refuses.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace dirigent::sandbox {

nlohmann::json seccomp_profile();

}  // namespace dirigent::sandbox
