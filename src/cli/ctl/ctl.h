// SPDX-License-Identifier: MIT
//
// `dirigent ctl`: finds the verb, parses its flags, runs it. The exit status is that of docs/operations.md.
#pragma once

#include <string>
#include <vector>

#include "cli/terminal.h"

namespace dirigent::cli {

int run_ctl(const std::vector<std::string>& words, Terminal terminal);

// Candidates for the word at `current` of a command line that starts with the program's name, one a line. Asks the
// control plane for names, for at most one second.
std::string complete(const std::vector<std::string>& line, std::size_t current);
// The script that `dirigent ctl completion bash` prints.
std::string bash_completion();

}  // namespace dirigent::cli
