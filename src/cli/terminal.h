// SPDX-License-Identifier: MIT
//
// Where a command writes: data on `out`, talk on `err`. Colour is decided once, per stream. Also the small layouts
// every verb needs: aligned tables, ages, sizes.
#pragma once

#include <fmt/core.h>

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/time.h"

namespace dirigent::cli {

class Terminal {
 public:
  using Sink = std::function<void(std::string_view)>;
  Terminal(Sink out, Sink err, bool colour) : out_(std::move(out)), err_(std::move(err)), colour_(colour) {}
  // stdout and stderr; coloured when stderr is a terminal and NO_COLOR is not set.
  static Terminal of_process();

  void write(std::string_view text) { out_(text); }
  void say(std::string_view text) { err_(text); }
  template <class... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    out_(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void talk(fmt::format_string<Args...> format, Args&&... args) {
    err_(fmt::format(format, std::forward<Args>(args)...));
  }
  // "error: MESSAGE" and the hints below it, indented.
  void error(std::string_view message, std::span<const std::string> hints = {});
  void no_colour() { colour_ = false; }

 private:
  Sink out_;
  Sink err_;
  bool colour_;
};

// Columns as wide as their widest cell, two blanks between them, no blanks at the end of a line. Width counts code
// points.
std::string format_table(std::span<const std::vector<std::string>> rows);
// "4s", "12m", "3h", "2d": whole units.
std::string format_age(Duration age);
// What a peer sent, made safe for a terminal: control characters but tab and newline become \xNN.
std::string printable(std::string_view text);

}  // namespace dirigent::cli
