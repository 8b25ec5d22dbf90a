// SPDX-License-Identifier: MIT
//
// Turns the flags of a command into values of their types.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/command_line.h"
#include "dirigent/base/result.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

// Reads flags one after the other; the first error stays.
class FlagReader {
 public:
  explicit FlagReader(const Arguments& flags) : flags_(flags) {}

  template <class T, class Parse>
  void read(std::string_view flag, T& value, Parse parse) {
    const auto text = flags_.value(flag);
    if (!text || error_) return;
    auto parsed = parse(*text);
    if (parsed) {
      value = *parsed;
    } else {
      error_ = parsed.error().within(fmt::format("--{}", flag));
    }
  }
  template <class T>
  void whole(std::string_view flag, T& value, std::int64_t low, std::int64_t high) {
    read(flag, value, [&](const std::string& text) -> Result<T> {
      const auto number = parse_integer(text);
      if (!number || *number < low || *number > high)
        return failure(ErrorCode::invalid_argument, "\"{}\" is not a whole number in {}..{}", text, low, high);
      return static_cast<T>(*number);
    });
  }
  void note(Status status, std::string_view flag) {
    if (!status && !error_) error_ = status.error().within(fmt::format("--{}", flag));
  }
  [[nodiscard]] Status status() const { return error_ ? Status(tl::unexpected<Error>(*error_)) : Status(); }

 private:
  const Arguments& flags_;
  std::optional<Error> error_;
};

}  // namespace dirigent::cli
