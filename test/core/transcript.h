// SPDX-License-Identifier: MIT
//
// Transcripts: a scenario is a text file of blocks. A block is some command lines, a line "----", the expected output, and
// an empty line. Lines that start with # are comments. With DIRIGENT_REWRITE=1 in the environment the expected outputs are
// replaced by the real ones; the difference is then reviewed like code.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace dirigent::test {

// Calls `run` for every command line (split at blanks); it appends its output lines.
using CommandRunner = std::function<void(const std::vector<std::string>& words, std::vector<std::string>& output)>;

// Fails the current Catch2 test for every block whose output differs.
void run_transcript(const std::string& path, const CommandRunner& run);

// "name=value" among the words, or `otherwise`.
std::string option(const std::vector<std::string>& words, std::string_view name, std::string_view otherwise);

}  // namespace dirigent::test
