// SPDX-License-Identifier: MIT
#include "cli/ctl/phases.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

constexpr std::size_t kBarCells = 30;

struct Known {
  std::string_view name;
  std::string_view label;
};
// In the order in which a cold request meets them.
constexpr Known kOrder[] = {{"queue", "queue"},     {"schedule", "schedule"}, {"create", "create"},
                            {"network", "network"}, {"start", "start"},       {"probe", "probe"},
                            {"route", "route"},     {"proxy", "proxy"},       {"fn", "function"}};

const Phase* find(const std::vector<Phase>& phases, std::string_view name) {
  const auto found = std::find_if(phases.begin(), phases.end(), [&](const Phase& p) { return p.name == name; });
  return found == phases.end() ? nullptr : &*found;
}

// Eighths of a cell: from the left end of `begin` to `end`, the rest blank.
std::string bar(double begin, double end) {
  static const std::array<std::string_view, 8> parts{"▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
  const auto first = std::min(kBarCells - 1, static_cast<std::size_t>(begin));
  std::string text(first, ' ');
  const double length = std::max(1.0 / 8, std::min(end, static_cast<double>(kBarCells)) - static_cast<double>(first));
  const auto full = static_cast<std::size_t>(length);
  for (std::size_t i = 0; i < full; ++i) text += "█";
  const auto eighths = static_cast<std::size_t>((length - static_cast<double>(full)) * 8);
  std::size_t cells = first + full;
  if (eighths > 0 && cells < kBarCells) {
    text += parts[eighths - 1];
    ++cells;
  }
  text.append(kBarCells - std::min(cells, kBarCells), ' ');
  return text;
}

// Splits at `separator` outside of quotes.
std::vector<std::string> split_outside_quotes(std::string_view text, char separator) {
  std::vector<std::string> parts(1);
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && quoted && i + 1 < text.size()) {
      parts.back() += text[i];
      parts.back() += text[++i];
      continue;
    }
    if (text[i] == '"') quoted = !quoted;
    if (text[i] == separator && !quoted) {
      parts.emplace_back();
    } else {
      parts.back() += text[i];
    }
  }
  return parts;
}

std::string unquoted(std::string_view text) {
  if (text.size() < 2 || text.front() != '"' || text.back() != '"') return std::string(text);
  std::string plain;
  for (std::size_t i = 1; i + 1 < text.size(); ++i) {
    if (text[i] == '\\' && i + 2 < text.size()) ++i;
    plain += text[i];
  }
  return plain;
}

}  // namespace

std::vector<Phase> parse_server_timing(std::string_view header) {
  std::vector<Phase> phases;
  for (const auto& entry : split_outside_quotes(header, ',')) {
    const auto parts = split_outside_quotes(entry, ';');
    Phase phase;
    phase.name = std::string(trim(parts[0]));
    if (phase.name.empty()) continue;
    for (std::size_t i = 1; i < parts.size(); ++i) {
      const std::string_view part = trim(parts[i]);
      if (part.starts_with("dur=")) phase.ms = std::max(0.0, parse_number(unquoted(part.substr(4))).value_or(0));
      if (part.starts_with("desc=")) phase.description = unquoted(part.substr(5));
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

std::string draw_phases(const std::vector<Phase>& phases) {
  double total = 0;
  bool any = false;
  for (const Known& known : kOrder) {
    if (const Phase* phase = find(phases, known.name)) {
      total += phase->ms;
      any = true;
    }
  }
  if (!any) return {};
  const Phase* cold = find(phases, "cold");
  const bool is_cold = cold != nullptr && cold->description != "no";
  const std::string head =
      is_cold ? fmt::format("cold start on {}", cold->description.empty() ? "a new sandbox" : cold->description)
              : "warm";
  std::string text = fmt::format("{:<48}  total {:>7.2f} ms\n", head, total);
  double at = 0;
  for (const Known& known : kOrder) {
    const Phase* phase = find(phases, known.name);
    if (phase == nullptr) continue;
    const double cells_per_ms = total > 0 ? static_cast<double>(kBarCells) / total : 0;
    std::string line = fmt::format("  {:<12}  {}  {:>14.2f} ms", known.label,
                                   bar(at * cells_per_ms, (at + phase->ms) * cells_per_ms), phase->ms);
    if (!phase->description.empty()) line += "   " + phase->description;
    text += line + "\n";
    at += phase->ms;
  }
  return text;
}

}  // namespace dirigent::cli
