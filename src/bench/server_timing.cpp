// SPDX-License-Identifier: MIT
#include "bench/server_timing.h"

#include <charconv>
#include <cmath>

#include "dirigent/base/text.h"

namespace dirigent::bench {

namespace {

constexpr std::array<std::string_view, kPhases> kNames{"queue", "schedule", "create", "network", "start",
                                                       "probe", "route",    "proxy",  "fn"};

// Up to `separator` outside of quotes; takes it off the front of `text`.
std::string_view take_part(std::string_view& text, char separator) {
  bool is_quoted = false;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    if (text[i] == '"') is_quoted = !is_quoted;
    if (text[i] == '\\' && is_quoted) ++i;
    else if (text[i] == separator && !is_quoted) break;
  }
  const std::string_view part = text.substr(0, i);
  text.remove_prefix(std::min(text.size(), i + 1));
  return trim(part);
}

double parse_ms(std::string_view text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && std::isfinite(value) && value > 0 ? value : 0;
}

}  // namespace

std::string_view to_string(Phase phase) { return kNames[static_cast<std::size_t>(phase)]; }

void read_server_timing(std::string_view header, Timing& timing) {
  while (!header.empty()) {
    std::string_view entry = take_part(header, ',');
    const std::string_view name = take_part(entry, ';');
    double ms = 0;
    std::string_view description;
    while (!entry.empty()) {
      const std::string_view parameter = take_part(entry, ';');
      if (parameter.starts_with("dur=")) ms = parse_ms(parameter.substr(4));
      if (parameter.starts_with("desc=")) description = parameter.substr(5);
    }
    if (name == "cold") {
      timing.is_cold = description != "\"no\"" && description != "no";
      timing.is_present = true;
      continue;
    }
    for (std::size_t i = 0; i < kPhases; ++i) {
      if (kNames[i] != name) continue;
      timing.ms[i] += ms;
      timing.is_present = true;
    }
  }
}

}  // namespace dirigent::bench
