// SPDX-License-Identifier: MIT
#include "dirigent/base/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace dirigent {

std::optional<std::int64_t> parse_integer(std::string_view text) {
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return std::nullopt;
  }
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  if (text.empty()) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::general);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

namespace {
// Splits "12.5ms" into 12.5 and "ms".
std::optional<std::pair<double, std::string_view>> number_and_unit(std::string_view text) {
  std::size_t digits = 0;
  while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) != 0 || text[digits] == '.')) ++digits;
  const auto number = parse_number(text.substr(0, digits));
  if (!number) return std::nullopt;
  return std::pair{*number, text.substr(digits)};
}
}  // namespace

Result<Duration> parse_duration(std::string_view text) {
  const auto parts = number_and_unit(text);
  if (parts) {
    const auto [number, unit] = *parts;
    if (unit.empty() && number == 0) return Duration::zero();
    struct { std::string_view name; double seconds; } const units[] = {
        {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}};
    for (const auto& known : units) {
      if (unit == known.name && number * known.seconds < 9e9) return from_seconds(number * known.seconds);
    }
  }
  return failure(ErrorCode::invalid_argument, "\"{}\" is not a duration: write a number and a unit, like 250ms, 30s or 5m", text);
}

Result<Bytes> parse_bytes(std::string_view text) {
  const auto parts = number_and_unit(text);
  if (parts) {
    const auto [number, unit] = *parts;
    struct { std::string_view name; double bytes; } const units[] = {
        {"", 1}, {"B", 1}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776.0},
        {"Ki", 1024}, {"Mi", 1048576}, {"Gi", 1073741824}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}};
    for (const auto& known : units) {
      if (unit == known.name && number * known.bytes < 9e18) return Bytes{std::llround(number * known.bytes)};
    }
  }
  return failure(ErrorCode::invalid_argument, "\"{}\" is not a size: write a number and a unit, like 64KiB, 128MiB or 2GiB", text);
}

Result<Millicpu> parse_cpu(std::string_view text) {
  const auto parts = number_and_unit(text);
  if (parts && parts->first <= 1e6) {
    if (parts->second == "m") return Millicpu{std::llround(parts->first)};
    if (parts->second.empty()) return Millicpu{std::llround(parts->first * 1000)};
  }
  return failure(ErrorCode::invalid_argument, "\"{}\" is not an amount of CPU: write CPUs like 0.5, or thousandths like 500m", text);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

namespace {
constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
}  // namespace

std::string encode_base64(std::string_view bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t k = 0; k < 3; ++k)
      three = three << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k)
      text += i + k <= bytes.size() ? kBase64[three >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::uint32_t three = 0;
    for (std::size_t k = i; k < i + 4; ++k) {
      const auto digit = k >= text.size() - padding ? 0 : kBase64.find(text[k]);
      if (digit == std::string_view::npos) return std::nullopt;
      three = three << 6 | static_cast<std::uint32_t>(digit);
    }
    for (int shift = 16; shift >= 0; shift -= 8) bytes += static_cast<char>(three >> shift & 255);
  }
  bytes.resize(bytes.size() - padding);
  // One text for each content: the bits that padding leaves unused are 0.
  if (encode_base64(bytes) != text) return std::nullopt;
  return bytes;
}

std::string format_bytes(Bytes bytes) {
  const auto value = static_cast<double>(bytes.value);
  if (bytes.value < 1024) return fmt::format("{} B", bytes.value);
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  double scaled = value;
  std::size_t unit = 0;
  for (scaled /= 1024; scaled >= 1024 && unit + 1 < std::size(units); ++unit) scaled /= 1024;
  return fmt::format("{:.{}f} {}", scaled, scaled < 10 ? 1 : 0, units[unit]);
}

std::optional<std::string> did_you_mean(std::string_view word, std::span<const std::string> candidates) {
  std::optional<std::string> best;
  // A third of the letters may be wrong, at least one.
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  std::vector<std::size_t> row;
  for (const auto& candidate : candidates) {
    row.resize(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j < row.size(); ++j) {
        const std::size_t above = row[j];
        const std::size_t replace = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        row[j] = std::min({above + 1, row[j - 1] + 1, replace});
        diagonal = above;
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean_suffix(std::string_view word, std::span<const std::string> candidates) {
  const auto candidate = did_you_mean(word, candidates);
  return candidate ? fmt::format(" (did you mean \"{}\"?)", *candidate) : std::string();
}

}  // namespace dirigent
