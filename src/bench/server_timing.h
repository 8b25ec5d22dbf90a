// SPDX-License-Identifier: MIT
//
// Reads the platform's Server-Timing header without allocating: it is on every answer. Pure.
#pragma once

#include <string_view>

#include "dirigent/bench/measurement.h"

namespace dirigent::bench {

// Adds what the header says to `timing`. Entries of others (a function may send its own) and what cannot be read are
// skipped; the header counts as present only if it has one of the platform's phases.
void read_server_timing(std::string_view header, Timing& timing);

}  // namespace dirigent::bench
