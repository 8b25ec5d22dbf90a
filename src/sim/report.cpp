// SPDX-License-Identifier: MIT
#include "dirigent/sim/report.h"

#include <array>
#include <functional>

#include "dirigent/workload/chart.h"

namespace dirigent::sim {

namespace {

std::uint64_t failed(const Outcome& outcome) { return outcome.invocations - outcome.succeeded; }

double busy_share(const Outcome& outcome) {
  const double all = outcome.sandbox_seconds_busy + outcome.sandbox_seconds_idle;
  return all > 0 ? 100 * outcome.sandbox_seconds_busy / all : 0;
}

double creations_per_second(const Outcome& outcome) {
  return outcome.simulated > Duration::zero() ? static_cast<double>(outcome.creations) / to_seconds(outcome.simulated) : 0;
}

struct Row {
  const char* label;
  std::function<std::string(const Outcome&)> value;
};

std::string percentiles(const Sample& sample, int digits) {
  return fmt::format("{:.{}f} / {:.{}f} / {:.{}f}", sample.quantile(0.5), digits, sample.quantile(0.9), digits, sample.quantile(0.99), digits);
}

const std::vector<Row>& rows() {
  static const std::vector<Row> all{
      {"invocations", [](const Outcome& o) { return fmt::format("{}", o.invocations); }},
      {"failed", [](const Outcome& o) { return fmt::format("{}", failed(o)); }},
      {"waited for a start", [](const Outcome& o) { return fmt::format("{}", o.waited_for_start); }},
      {"scheduling latency ms, per invocation, p50 / p90 / p99", [](const Outcome& o) { return percentiles(o.latency_ms, 2); }},
      {"scheduling latency ms, mean of each function, p50 / p90 / p99", [](const Outcome& o) { return percentiles(o.function_latency_ms, 2); }},
      {"slowdown, per invocation, p50 / p90 / p99", [](const Outcome& o) { return percentiles(o.slowdown, 3); }},
      {"slowdown, geometric mean of each function, p50 / p90 / p99", [](const Outcome& o) { return percentiles(o.function_slowdown, 3); }},
      {"sandboxes started", [](const Outcome& o) { return fmt::format("{}", o.creations); }},
      {"starts a second, mean / max", [](const Outcome& o) { return fmt::format("{:.2f} / {}", creations_per_second(o), o.creations_per_second_max); }},
      {"sandboxes at a time, max", [](const Outcome& o) { return fmt::format("{}", o.sandboxes_max); }},
      {"sandbox-seconds busy / idle", [](const Outcome& o) { return fmt::format("{:.0f} / {:.0f} ({:.1f} % busy)", o.sandbox_seconds_busy, o.sandbox_seconds_idle, busy_share(o)); }},
  };
  return all;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out.push_back('\\');
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out.push_back(c);
    }
  }
  return out + "\"";
}

std::string json_of(const Sample& sample) {
  std::string text = fmt::format("{{\"count\": {}, \"mean\": {:.6g}", sample.values.size(), sample.mean());
  constexpr std::array<std::pair<const char*, double>, 6> kQuantiles{{{"p1", 0.01}, {"p25", 0.25}, {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}}};
  for (const auto& [name, q] : kQuantiles) text += fmt::format(", \"{}\": {:.6g}", name, sample.quantile(q));
  return text + "}";
}

std::string json_of(const std::map<std::string, std::uint64_t>& counts) {
  std::string text = "{";
  for (const auto& [name, count] : counts) text += fmt::format("{}{}: {}", text.size() > 1 ? ", " : "", quoted(name), count);
  return text + "}";
}

std::string json_of(const NamedOutcome& named) {
  const Outcome& o = named.outcome;
  std::string text = fmt::format("    {{\"name\": {},\n", quoted(named.name));
  text += fmt::format("     \"violation\": {},\n", quoted(o.violation));
  text += fmt::format("     \"simulated_s\": {:.6f}, \"invocations\": {}, \"succeeded\": {}, \"waited_for_start\": {},\n", to_seconds(o.simulated),
                      o.invocations, o.succeeded, o.waited_for_start);
  text += fmt::format("     \"failures\": {}, \"faults\": {},\n", json_of(o.failures), json_of(o.faults));
  text += fmt::format("     \"scheduling_latency_ms\": {{\"per_invocation\": {},\n                               \"per_function\": {}}},\n",
                      json_of(o.latency_ms), json_of(o.function_latency_ms));
  text += fmt::format("     \"slowdown\": {{\"per_invocation\": {},\n                  \"per_function\": {}}},\n", json_of(o.slowdown),
                      json_of(o.function_slowdown));
  text += fmt::format("     \"sandboxes\": {{\"started\": {}, \"start_failures\": {}, \"starts_per_second_mean\": {:.6g}, \"starts_per_second_max\": {}, "
                      "\"at_a_time_max\": {}, \"busy_s\": {:.3f}, \"idle_s\": {:.3f}}}}}",
                      o.creations, o.start_failures, creations_per_second(o), o.creations_per_second_max, o.sandboxes_max,
                      o.sandbox_seconds_busy, o.sandbox_seconds_idle);
  return text;
}

}  // namespace

std::string format_outcomes(const std::vector<NamedOutcome>& outcomes) {
  std::vector<std::vector<std::string>> table;
  std::vector<std::string> head{""};
  for (const auto& named : outcomes) head.push_back(named.name);
  table.push_back(head);
  for (const Row& row : rows()) {
    std::vector<std::string> cells{row.label};
    for (const auto& named : outcomes) cells.push_back(row.value(named.outcome));
    table.push_back(cells);
  }
  std::map<std::string, bool> reasons;
  for (const auto& named : outcomes) {
    for (const auto& [reason, count] : named.outcome.failures) reasons[reason] = true;
  }
  for (const auto& [reason, unused] : reasons) {
    std::vector<std::string> cells{"failed: " + reason};
    for (const auto& named : outcomes) {
      const auto found = named.outcome.failures.find(reason);
      cells.push_back(fmt::format("{}", found == named.outcome.failures.end() ? 0 : found->second));
    }
    table.push_back(cells);
  }
  std::vector<std::size_t> widths(head.size(), 0);
  for (const auto& cells : table) {
    for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
  }
  std::string text;
  for (const auto& cells : table) {
    std::string line = fmt::format("{:<{}}", cells[0], widths[0]);
    for (std::size_t i = 1; i < cells.size(); ++i) line += fmt::format("  {:>{}}", cells[i], widths[i]);
    text += line + "\n";
  }
  return text;
}

std::string to_json(const std::vector<NamedOutcome>& outcomes, const SimOptions& options, const Workload& workload) {
  std::string text = "{\n";
  text += fmt::format("  \"workload\": {{\"source\": {}, \"functions\": {}, \"arrivals\": {}, \"length_s\": {:.3f}}},\n", quoted(workload.source),
                      workload.functions.size(), workload.arrivals.size(), to_seconds(workload.length));
  text += fmt::format("  \"cluster\": {{\"nodes\": {}, \"cpu_m\": {}, \"memory_bytes\": {}, \"data_planes\": {}, \"shards\": {}, \"placement\": {}, "
                      "\"balancer\": {}, \"concurrency_limit\": {}}},\n",
                      options.nodes, options.node_capacity.cpu.value, options.node_capacity.memory.value, options.data_planes,
                      options.shards, quoted(to_string(options.placement)), quoted(to_string(options.balancer)), options.spec.concurrency_limit);
  text += fmt::format("  \"seed\": {},\n  \"runs\": [\n", options.seed);
  for (std::size_t i = 0; i < outcomes.size(); ++i) text += json_of(outcomes[i]) + (i + 1 < outcomes.size() ? ",\n" : "\n");
  return text + "  ]\n}\n";
}

std::string to_svg(const std::vector<NamedOutcome>& outcomes, const std::string& title) {
  workload::Panel latency{"mean scheduling latency of a function, ms", "", true, {}};
  workload::Panel slowdown{"slowdown of a function (geometric mean)", "", true, {}};
  std::vector<std::string> names;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    names.push_back(outcomes[i].name);
    latency.curves.push_back(workload::distribution_curve(i, outcomes[i].outcome.function_latency_ms));
    slowdown.curves.push_back(workload::distribution_curve(i, outcomes[i].outcome.function_slowdown));
  }
  return workload::draw_chart(title, names, {std::move(latency), std::move(slowdown)});
}

}  // namespace dirigent::sim
