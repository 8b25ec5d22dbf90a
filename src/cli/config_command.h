// SPDX-License-Identifier: MIT
//
// `dirigent config show` and `dirigent config validate`, and what both share with the roles: reading the file that
// --config or DIRIGENT_CONFIG names.
#pragma once

#include <string>
#include <vector>

#include "cli/settings.h"
#include "cli/terminal.h"

namespace dirigent::cli {

// Merges all sources of `section` for the flags given.
Result<Settings> load_settings(std::string_view section, const Arguments& flags, const Environment& environment);

int run_config(const std::vector<std::string>& words, Terminal terminal, const Environment& environment);

}  // namespace dirigent::cli
