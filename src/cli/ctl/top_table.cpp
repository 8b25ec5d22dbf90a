// SPDX-License-Identifier: MIT
#include "cli/ctl/top_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cli/terminal.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

const std::vector<std::string> kOrders{"rate", "p99", "errors", "waiting"};

struct Gathered {
  TopRow row;
  std::uint64_t count = 0, errors = 0;
  std::vector<Weighted> durations;
};

void add(Gathered& gathered, const RecentRow& recent) {
  gathered.row.rate += recent.rate;
  gathered.row.in_flight += recent.in_flight;
  gathered.row.waiting += recent.waiting;
  gathered.row.cold_per_minute += recent.cold_per_minute;
  if (gathered.row.revision < recent.revision) gathered.row.revision = recent.revision;
  gathered.count += recent.count;
  gathered.errors += recent.errors;
  const double weight =
      static_cast<double>(recent.count) / static_cast<double>(std::max<std::size_t>(recent.durations_ms.size(), 1));
  for (const double duration : recent.durations_ms) gathered.durations.push_back({duration, weight});
}

double key_of(const TopRow& row, TopOrder order) {
  switch (order) {
    case TopOrder::rate: return row.rate;
    case TopOrder::p99: return row.p99_ms;
    case TopOrder::errors: return row.errors_percent;
    case TopOrder::waiting: return static_cast<double>(row.waiting);
  }
  return 0;
}

std::string milliseconds(double ms) {
  return ms <= 0 ? "-" : ms < 100 ? fmt::format("{:.1f}", ms) : fmt::format("{:.0f}", ms);
}

std::string percent(std::int64_t part, std::int64_t whole) {
  return whole <= 0 ? "-" : fmt::format("{:.0f}%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string headline(const TopFrame& frame) {
  double rate = 0;
  double cold = 0;
  std::uint64_t waiting = 0;
  for (const TopRow& row : frame.rows) {
    rate += row.rate;
    cold += row.cold_per_minute;
    waiting += row.waiting;
  }
  return fmt::format("dirigent {}   up {}   {} node{}   {:.1f} rps   {} queued   cold {:.1f}/min\n",
                     frame.cluster.version, format_age(from_seconds(frame.cluster.uptime_ms / 1000)),
                     frame.nodes.size(), frame.nodes.size() == 1 ? "" : "s", rate, waiting, cold);
}

std::string node_table(const std::vector<NodeRow>& nodes) {
  std::vector<std::vector<std::string>> rows{{"NODE", "STATUS", "CPU", "MEM", "SANDBOXES", "START P50", "HB"}};
  for (const NodeRow& node : nodes) {
    rows.push_back({node.name, node.status, percent(node.cpu_used, node.cpu_capacity),
                    percent(node.memory_used, node.memory_capacity), fmt::format("{}", node.sandboxes),
                    node.start_p50_ms > 0 ? fmt::format("{:.1f} ms", node.start_p50_ms) : "-",
                    fmt::format("{:.1f}s ago", node.last_heard_ms / 1000)});
  }
  return format_table(rows);
}

}  // namespace

Result<TopOrder> parse_top_order(std::string_view word) {
  const auto found = std::find(kOrders.begin(), kOrders.end(), word);
  if (found != kOrders.end()) return static_cast<TopOrder>(found - kOrders.begin());
  return failure(ErrorCode::invalid_argument, "unknown order \"{}\"{}: use rate, p99, errors or waiting", word,
                 did_you_mean_suffix(word, kOrders));
}

double weighted_quantile(std::vector<Weighted> points, double q) {
  if (points.empty()) return 0;
  std::sort(points.begin(), points.end(), [](const Weighted& a, const Weighted& b) { return a.value < b.value; });
  double total = 0;
  for (const Weighted& point : points) total += point.weight;
  double seen = 0;
  for (const Weighted& point : points) {
    seen += point.weight;
    if (seen >= q * total) return point.value;
  }
  return points.back().value;
}

std::vector<TopRow> top_rows(const std::vector<std::vector<RecentRow>>& planes,
                             const std::vector<FunctionRow>& functions, TopOrder order) {
  std::map<std::string, Gathered> all;
  for (const auto& plane : planes) {
    for (const RecentRow& recent : plane) add(all[recent.name], recent);
  }
  for (const FunctionRow& function : functions) {
    const auto known = all.find(function.name);
    if (known == all.end() && function.sandboxes.empty() && function.wanted == 0) continue;
    TopRow& row = all[function.name].row;
    row.sandboxes = static_cast<std::uint32_t>(function.sandboxes.size());
    row.wanted = function.wanted;
    row.mode = function.manual_scale                                       ? "fixed"
               : function.last_scaling && function.last_scaling->panicking ? "panic"
                                                                           : "stable";
    if (row.revision.empty()) row.revision = function.revision_name;
  }
  std::vector<TopRow> rows;
  for (auto& [name, gathered] : all) {
    TopRow& row = gathered.row;
    row.name = name.empty() ? "(no function)" : name;
    row.p50_ms = weighted_quantile(gathered.durations, 0.5);
    row.p99_ms = weighted_quantile(gathered.durations, 0.99);
    if (gathered.count > 0)
      row.errors_percent = 100.0 * static_cast<double>(gathered.errors) / static_cast<double>(gathered.count);
    rows.push_back(std::move(row));
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [order](const TopRow& a, const TopRow& b) { return key_of(a, order) > key_of(b, order); });
  return rows;
}

std::string draw_top(const TopFrame& frame, std::size_t rows_max, bool headers) {
  std::vector<std::vector<std::string>> rows;
  if (headers)
    rows.push_back(
        {"FUNCTION", "REV", "RPS", "INFL", "QUEUE", "SANDBOX", "WANT", "MODE", "P50", "P99", "COLD/MIN", "ERR"});
  const std::size_t shown = std::min(rows_max, frame.rows.size());
  for (std::size_t i = 0; i < shown; ++i) {
    const TopRow& row = frame.rows[i];
    const std::size_t dash = row.revision.rfind('-');
    rows.push_back({row.name, row.revision.empty() ? "-" : row.revision.substr(dash + 1),
                    fmt::format("{:.1f}", row.rate), fmt::format("{}", row.in_flight), fmt::format("{}", row.waiting),
                    fmt::format("{}", row.sandboxes), fmt::format("{}", row.wanted), row.mode.empty() ? "-" : row.mode,
                    milliseconds(row.p50_ms), milliseconds(row.p99_ms), fmt::format("{:.1f}", row.cold_per_minute),
                    fmt::format("{:.1f}%", row.errors_percent)});
  }
  std::string text = headers ? headline(frame) + "\n" : "";
  text += frame.rows.empty() ? "no function has had a request lately\n" : format_table(rows);
  if (shown < frame.rows.size()) text += fmt::format("... and {} more (--limit)\n", frame.rows.size() - shown);
  if (headers && !frame.nodes.empty()) text += "\n" + node_table(frame.nodes);
  return text;
}

std::string top_json(const TopFrame& frame) {
  std::string text = "{\"functions\":[";
  for (std::size_t i = 0; i < frame.rows.size(); ++i) {
    const TopRow& row = frame.rows[i];
    text += fmt::format(
        "{}{{\"name\":{},\"revision\":{},\"requests_per_second\":{:.3f},\"in_flight\":{},\"waiting\":{},\"sandboxes\":{"
        "},\"wanted\":{},"
        "\"mode\":{},\"p50_ms\":{:.3f},\"p99_ms\":{:.3f},\"cold_per_minute\":{:.3f},\"errors_percent\":{:.3f}}}",
        i == 0 ? "" : ",", quoted_json(row.name), quoted_json(row.revision), row.rate, row.in_flight, row.waiting,
        row.sandboxes, row.wanted, quoted_json(row.mode), row.p50_ms, row.p99_ms, row.cold_per_minute,
        row.errors_percent);
  }
  return text + "]}\n";
}

}  // namespace dirigent::cli
