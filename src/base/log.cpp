// SPDX-License-Identifier: MIT
#include "dirigent/base/log.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <string>

#include "dirigent/base/text.h"

namespace dirigent {

namespace {

std::atomic<LogLevel> level_now{LogLevel::info};
std::atomic<LogFormat> format_now{LogFormat::automatic};

const std::vector<std::string> kLevels{"debug", "info", "warn", "error", "off"};
const std::vector<std::string> kFormats{"auto", "text", "json"};

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// One line stays one line whatever a peer put into the message.
void append_plain(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out += c;
    }
  }
}

}  // namespace

Result<LogLevel> parse_log_level(std::string_view word) {
  for (std::size_t i = 0; i < kLevels.size(); ++i) {
    if (kLevels[i] == word) return static_cast<LogLevel>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown log level \"{}\": use debug, info, warn, error or off{}", word,
                 did_you_mean_suffix(word, kLevels));
}

Result<LogFormat> parse_log_format(std::string_view word) {
  for (std::size_t i = 0; i < kFormats.size(); ++i) {
    if (kFormats[i] == word) return static_cast<LogFormat>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown log format \"{}\": use auto, text or json{}", word,
                 did_you_mean_suffix(word, kFormats));
}

void set_log_level(LogLevel level) { level_now = level; }
void set_log_format(LogFormat format) { format_now = format; }
bool log_enabled(LogLevel level) { return level >= level_now.load(std::memory_order_relaxed); }

void write_log(LogLevel level, std::string_view component, std::string_view message) {
  static const bool is_terminal = isatty(STDERR_FILENO) == 1;
  const auto format = format_now.load(std::memory_order_relaxed);
  const bool json = format == LogFormat::json || (format == LogFormat::automatic && !is_terminal);

  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm broken{};
  std::string line;
  const auto& level_name = kLevels[static_cast<std::size_t>(level)];
  if (json) {
    gmtime_r(&seconds, &broken);
    line = fmt::format("{{\"time\":\"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z\",\"level\":\"{}\",\"component\":",
                       broken.tm_year + 1900, broken.tm_mon + 1, broken.tm_mday, broken.tm_hour, broken.tm_min,
                       broken.tm_sec, millis, level_name);
    append_json_string(line, component);
    line += ",\"message\":";
    append_json_string(line, message);
    line += "}\n";
  } else {
    localtime_r(&seconds, &broken);
    line = fmt::format("{:02}:{:02}:{:02}.{:03}  {:<5} {:<8} ", broken.tm_hour, broken.tm_min, broken.tm_sec, millis,
                       level_name, component);
    append_plain(line, message);
    line += '\n';
  }
  // One write per record: records of several threads do not mix. A full pipe or disk must not stop the platform.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace dirigent
