// SPDX-License-Identifier: MIT
//
// Runs one role until it is told to stop: by SIGTERM or SIGINT (a second one ends the process at once), or by the end
// of stdin. The same frame for every role: start, print the addresses, wait, drain, stop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/terminal.h"
#include "dirigent/cli/run.h"

namespace dirigent::cli {

using BoundStarter = std::function<io::Task<std::unique_ptr<RunningRole>>(io::Loop&)>;

// The exit status.
int run_role(std::string_view name, const ProcessOptions& options, const BoundStarter& start, Terminal& terminal);

// {"role":"dev","pid":7,"addresses":{"invoke":"127.0.0.1:8080"}} and a newline.
std::string addresses_json(std::string_view role, const RunningRole& running);

}  // namespace dirigent::cli
