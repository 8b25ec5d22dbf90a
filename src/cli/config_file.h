// SPDX-License-Identifier: MIT
//
// Configuration files: the part of TOML (and of INI) that settings need. Sections, `key = value`, strings in either
// quotes, bare words, arrays of these over several lines, comments after # or ;. Every entry knows its line. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::cli {

struct ConfigEntry {
  std::string section;  // "" before the first [section]
  std::string key;
  std::vector<std::string> values;  // one, or those of an array
  int line = 0;
};

// Errors start with "file_name:line: ".
Result<std::vector<ConfigEntry>> parse_config(std::string_view text, std::string_view file_name);

// Quotes `value` when a file needs it to.
std::string config_value(std::string_view value);

}  // namespace dirigent::cli
