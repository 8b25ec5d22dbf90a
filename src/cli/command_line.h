// SPDX-License-Identifier: MIT
//
// The grammar of every command: long and short flags with or without a value, positional words, `--`. Tables of flags are
// plain values, so help texts, suggestions and shell completion come from what is parsed. CLI11 does the parsing, in one
// file. Pure.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::cli {

struct Flag {
  std::string name;        // without dashes: "wait-timeout"
  char letter = 0;         // 'o' for -o; 0 = none
  std::string value_name;  // "FORMAT"; "" = a switch without a value
  std::string help;
  bool repeatable = false;
  std::vector<std::string> words{};  // the values there are, for completion; "" names none
};

class Arguments {
 public:
  [[nodiscard]] bool has(std::string_view flag) const { return values_.find(flag) != values_.end(); }
  // The last value given; nullopt when the flag is absent. A switch has the value "true" or "false".
  [[nodiscard]] std::optional<std::string> value(std::string_view flag) const;
  [[nodiscard]] std::vector<std::string> values(std::string_view flag) const;
  [[nodiscard]] bool is_on(std::string_view flag) const { return value(flag) == "true"; }
  [[nodiscard]] const std::vector<std::string>& words() const { return words_; }

 private:
  friend Result<Arguments> parse_arguments(std::span<const std::string>, std::span<const Flag>, std::size_t);
  friend Result<std::size_t> parse_leading_flags(std::span<const std::string>, std::span<const Flag>, Arguments&);
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> words_;
};

// Errors name the word and suggest the nearest flag. `words_max`: positional words allowed.
Result<Arguments> parse_arguments(std::span<const std::string> words, std::span<const Flag> flags, std::size_t words_max);
// Parses flags up to the first positional word; how many words that were.
Result<std::size_t> parse_leading_flags(std::span<const std::string> words, std::span<const Flag> flags, Arguments& out);

// Aligned lines "  -o, --output FORMAT   help".
std::string describe_flags(std::span<const Flag> flags);

}  // namespace dirigent::cli
