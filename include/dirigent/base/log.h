// SPDX-License-Identifier: MIT
//
// The platform's log: one line a record on stderr, text on a terminal and JSON otherwise (or as told). Thread-safe.
// An error is logged once, where it stops travelling.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

#include "dirigent/base/result.h"

namespace dirigent {

enum class LogLevel { debug, info, warn, error, off };
enum class LogFormat { automatic, text, json };

Result<LogLevel> parse_log_level(std::string_view word);
Result<LogFormat> parse_log_format(std::string_view word);

void set_log_level(LogLevel level);
void set_log_format(LogFormat format);
bool log_enabled(LogLevel level);

// Writes one record now. `component` is a role or a floor: "control", "data", "worker", "rpc".
void write_log(LogLevel level, std::string_view component, std::string_view message);

template <class... Args>
void log_debug(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::debug)) write_log(LogLevel::debug, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::info)) write_log(LogLevel::info, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::warn)) write_log(LogLevel::warn, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::error)) write_log(LogLevel::error, component, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace dirigent
