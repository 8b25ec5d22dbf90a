// SPDX-License-Identifier: MIT
//
// Reports as tables for people.
#include <algorithm>
#include <cmath>

#include "dirigent/bench/report.h"

namespace dirigent::bench {

namespace {

using Rows = std::vector<std::vector<std::string>>;

// The first column to the left, the others to the right.
std::string aligned(const Rows& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    if (widths.size() < row.size()) widths.resize(row.size());
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line = fmt::format("{:<{}}", row[0], widths[0]);
    for (std::size_t i = 1; i < row.size(); ++i) line += fmt::format("  {:>{}}", row[i], widths[i]);
    while (line.ends_with(' ')) line.pop_back();
    text += line + "\n";
  }
  return text;
}

// Three digits that count; whole numbers as such.
std::string number(double value) {
  if (value == std::floor(value) && std::fabs(value) < 1e15) return fmt::format("{:.0f}", value);
  const double size = std::fabs(value);
  return fmt::format("{:.{}f}", value, size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3);
}

std::string count(const Report& report, std::string_view name) {
  const Metric* const metric = report.find(name);
  return metric == nullptr ? "0" : fmt::format("{:.0f}", metric->value);
}

double value(const std::vector<Metric>& metrics, std::string_view name) {
  const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const Metric& m) { return m.name == name; });
  return found == metrics.end() ? std::nan("") : found->value;
}

void put_row(Rows& rows, const Report& report, const std::string& label, const std::string& name) {
  if (report.find(name + ".p50") == nullptr) return;
  std::vector<std::string> row{label};
  for (const char* part : {"p50", "p90", "p99", "p99.9", "max"})
    row.push_back(number(report.find(name + "." + part)->value));
  rows.push_back(std::move(row));
}

std::string phase_label(Phase phase) { return phase == Phase::function ? "function" : std::string(to_string(phase)); }

std::string latency_table(const Report& report) {
  Rows rows{{"ms", "p50", "p90", "p99", "p99.9", "max"}};
  put_row(rows, report, "latency, from the intended start", "latency");
  put_row(rows, report, "latency, from the real start", "service");
  put_row(rows, report, "platform overhead", "overhead");
  put_row(rows, report, "inside the function", "fn");
  put_row(rows, report, fmt::format("cold calls ({})", count(report, "cold")), "cold");
  for (std::size_t i = 0; i < kPhases; ++i) {
    const auto phase = static_cast<Phase>(i);
    put_row(rows, report, "  " + phase_label(phase), fmt::format("phase.{}", to_string(phase)));
  }
  put_row(rows, report, "scheduling latency, mean of a function", "scheduling");
  put_row(rows, report, "slowdown of a function (no unit)", "slowdown");
  return rows.size() == 1 ? std::string() : aligned(rows);
}

std::string where_it_went(const Report& report) {
  std::string text;
  for (std::size_t i = 0; i < kPhases; ++i) {
    const auto phase = static_cast<Phase>(i);
    const Metric* const metric = report.find(fmt::format("mean.{}", to_string(phase)));
    if (metric != nullptr && metric->value > 0)
      text += fmt::format("  {} {}", phase_label(phase), number(metric->value));
  }
  return text.empty() ? text : "where it went (mean, ms)" + text + "\n";
}

}  // namespace

std::string format_report(const Report& report) {
  std::string text = report.description + "\n";
  std::vector<std::string> details;
  for (const auto& [name, setting] : report.settings) details.push_back(fmt::format("{} {}", name, setting));
  text += fmt::format("{}\n\n", fmt::join(details, ", "));
  const Metric* const rate = report.find("rate");
  text += fmt::format("sent {}   ok {}   failed {}   {} answers/s   cold {}\n\n", count(report, "sent"),
                      count(report, "ok"), count(report, "err"), rate == nullptr ? "0" : number(rate->value),
                      count(report, "cold"));
  if (const std::string table = latency_table(report); !table.empty()) text += table + "\n";
  text += where_it_went(report);
  std::vector<std::string> statuses;
  for (const auto& [status, times] : report.statuses) statuses.push_back(fmt::format("{}: {}", status, times));
  if (!statuses.empty()) text += fmt::format("status  {}\n", fmt::join(statuses, "  "));
  for (const auto& [reason, times] : report.errors) text += fmt::format("failed  {}: {}\n", reason, times);
  if (const Metric* const cpu = report.find("client.cpu"))
    text += fmt::format("the generator used {} us of CPU per call\n", number(cpu->value));
  for (const auto& warning : report.warnings) text += fmt::format("note: {}\n", warning);
  return text;
}

std::string format_sweep(const Report& report) {
  Rows rows{
      {"cold starts/s", "calls", "failed", "cold %", "p50 ms", "p90 ms", "p99 ms", "max ms", "overhead p50", "p99"}};
  const auto cell = [](double v) { return std::isnan(v) ? std::string("-") : number(v); };
  for (const SweepStep& step : report.sweep) {
    const auto get = [&](std::string_view name) { return value(step.metrics, name); };
    rows.push_back({fmt::format("{:g}", step.rate), fmt::format("{:.0f}", get("sent")),
                    fmt::format("{:.0f}", get("err")), cell(get("cold.share") * 100), cell(get("latency.p50")),
                    cell(get("latency.p90")), cell(get("latency.p99")), cell(get("latency.max")),
                    cell(get("overhead.p50")), cell(get("overhead.p99"))});
  }
  return aligned(rows);
}

std::string format_comparison(const std::string& name_a, const Report& a, const std::string& name_b, const Report& b) {
  Rows rows{{"", name_a, name_b, "unit", "b / a"}};
  for (const Metric& metric : a.metrics) {
    const Metric* const other = b.find(metric.name);
    if (other == nullptr) continue;
    if (metric.value == 0 && other->value == 0) continue;
    rows.push_back({metric.name, number(metric.value), number(other->value), metric.unit,
                    metric.value == 0 ? "-" : fmt::format("{:.3f}", other->value / metric.value)});
  }
  return fmt::format("a  {}\nb  {}\n\n{}", a.description, b.description, aligned(rows));
}

}  // namespace dirigent::bench
