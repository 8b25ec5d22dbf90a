// SPDX-License-Identifier: MIT
//
// Asks one address whether it answers: a TCP connect, then an optional GET.
#pragma once

#include <string>

#include "dirigent/io/task.h"

namespace dirigent::sandbox {

// `address` is "a.b.c.d:port". The first SYN through a fresh link may be lost, which TCP would repeat after a second:
// each try is a new socket with a short patience (3 ms, doubled each time), until `timeout`. Refused = false at once.
io::Task<bool> probe_address(io::Loop& loop, std::string address, std::string ready_path, Duration timeout);

}  // namespace dirigent::sandbox
