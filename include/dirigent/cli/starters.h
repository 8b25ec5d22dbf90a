// SPDX-License-Identifier: MIT
//
// How each role is started from its settings: the table that main() hands to run().
#pragma once

#include "dirigent/cli/run.h"

namespace dirigent::cli {

Commands all_commands();

}  // namespace dirigent::cli
