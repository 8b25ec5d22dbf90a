// SPDX-License-Identifier: MIT
#include "dirigent/bench/report.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>

#include "dirigent/base/text.h"

namespace dirigent::bench {

namespace {

constexpr std::array<std::pair<const char*, double>, 4> kQuantiles{
    {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}}};
// When the generator itself is late by more than this for more than one call in a hundred, its figures are partly its
// own.
constexpr Duration kLateMax = 1ms;

double in_ms(double nanoseconds) { return nanoseconds / 1e6; }

template <class Hist>
void put_distribution(std::vector<Metric>& metrics, const std::string& name, const Hist& histogram) {
  if (histogram.count() == 0) return;
  for (const auto& [quantile, q] : kQuantiles)
    metrics.push_back({name + "." + quantile, in_ms(static_cast<double>(histogram.quantile(q))), "ms"});
  metrics.push_back({name + ".min", in_ms(static_cast<double>(histogram.min())), "ms"});
  metrics.push_back({name + ".mean", in_ms(histogram.mean()), "ms"});
  metrics.push_back({name + ".max", in_ms(static_cast<double>(histogram.max())), "ms"});
}

void put_sample(std::vector<Metric>& metrics, const std::string& name, const workload::Sample& sample,
                const std::string& unit) {
  if (sample.values.empty()) return;
  for (const auto& [quantile, q] : kQuantiles) metrics.push_back({name + "." + quantile, sample.quantile(q), unit});
  metrics.push_back({name + ".min", sample.values.front(), unit});
  metrics.push_back({name + ".mean", sample.mean(), unit});
  metrics.push_back({name + ".max", sample.values.back(), unit});
}

std::string iso_time(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", parts);
}

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Points of the distribution: every per mille, and finer towards the end, where the interest is.
std::vector<std::pair<double, double>> curve_of(const FineHistogram& histogram) {
  std::vector<std::pair<double, double>> curve;
  if (histogram.count() == 0) return curve;
  curve.emplace_back(in_ms(static_cast<double>(histogram.min())), 0);
  const auto add = [&](double q) { curve.emplace_back(in_ms(static_cast<double>(histogram.quantile(q))), q); };
  for (int i = 5; i < 990; i += 5) add(i / 1000.0);
  for (int i = 9900; i < 10'000; ++i) add(i / 10'000.0);
  add(1);
  return curve;
}

void put_functions(Report& report, const Measurement& measurement) {
  for (const FunctionTotals& totals : measurement.functions) {
    if (totals.calls > 0)
      report.function_latency_ms.values.push_back(totals.latency_ms / static_cast<double>(totals.calls));
    if (totals.slowdowns > 0)
      report.function_slowdown.values.push_back(std::exp(totals.log_slowdown / static_cast<double>(totals.slowdowns)));
  }
  report.function_latency_ms.sort();
  report.function_slowdown.sort();
}

void put_counts(std::vector<Metric>& metrics, const Measurement& m, double seconds) {
  const std::uint64_t failed = m.measured - m.succeeded;
  const auto number = [](std::uint64_t n) { return static_cast<double>(n); };
  metrics.push_back({"sent", number(m.measured), ""});
  metrics.push_back({"ok", number(m.succeeded), ""});
  metrics.push_back({"err", number(failed), ""});
  metrics.push_back({"err.share", share(failed, m.measured), ""});
  metrics.push_back({"not_sent", number(m.not_sent), ""});
  metrics.push_back({"seconds", seconds, ""});
  metrics.push_back({"rate", seconds > 0 ? number(m.succeeded) / seconds : 0, ""});
  metrics.push_back({"bytes.rate", seconds > 0 ? number(m.body_bytes) / seconds : 0, ""});
  metrics.push_back({"cold", number(m.cold), ""});
  metrics.push_back({"cold.share", share(m.cold, m.succeeded), ""});
}

void put_settings(Report& report, const Plan& plan, const RunResult& result) {
  auto& settings = report.settings;
  settings.emplace_back("protocol", plan.protocol == Protocol::h2c ? "h2c" : "http/1.1");
  settings.emplace_back("endpoints", fmt::format("{}", fmt::join(plan.endpoints, ";")));
  settings.emplace_back("functions", fmt::format("{}", plan.targets.size()));
  settings.emplace_back("threads", fmt::format("{}", plan.threads));
  settings.emplace_back("connections", fmt::format("{}", result.connections_opened));
  settings.emplace_back("in_flight_max", fmt::format("{}", result.in_flight_max));
  settings.emplace_back("seed", fmt::format("{}", plan.seed));
  settings.emplace_back("warm_up_s", fmt::format("{:g}", to_seconds(plan.warm_up)));
  settings.emplace_back("timeout_s", fmt::format("{:g}", to_seconds(plan.timeout)));
}

void put_warnings(Report& report, const Plan& plan, const RunResult& result) {
  const Measurement& m = *result.measurement;
  if (result.was_stopped) report.warnings.push_back(fmt::format("stopped early: {} calls were not made", m.not_sent));
  if (plan.pace == Pace::open && m.late.count() > 0 && m.late.quantile(0.99) > kLateMax.count()) {
    const bool is_capped = result.connections_opened >= plan.connections;
    report.warnings.push_back(
        fmt::format("calls started late (p99 {:.2f} ms) because {}; the corrected latency includes it",
                    in_ms(static_cast<double>(m.late.quantile(0.99))),
                    is_capped ? "they waited for a connection (--connections)" : "this machine is busy"));
  }
  if (m.measured == 0) report.warnings.emplace_back("nothing was measured");
  else if (m.succeeded > 0 && m.function.count() == 0)
    report.warnings.emplace_back("no answer carried Server-Timing: there is no platform overhead to tell");
}

}  // namespace

const Metric* Report::find(std::string_view name) const {
  const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const Metric& m) { return m.name == name; });
  return found == metrics.end() ? nullptr : &*found;
}

Report make_report(const Plan& plan, const RunResult& result) {
  const Measurement& m = *result.measurement;
  Report report;
  report.description = plan.description;
  report.started = iso_time(result.started);
  put_settings(report, plan, result);
  put_functions(report, m);
  auto& metrics = report.metrics;
  const double seconds = m.measured == 0 ? 0 : to_seconds(m.last - m.first);
  put_counts(metrics, m, seconds);
  put_distribution(metrics, "latency", m.latency);
  put_distribution(metrics, "service", m.service);
  put_distribution(metrics, "overhead", m.overhead);
  put_distribution(metrics, "fn", m.function);
  put_distribution(metrics, "late", m.late);
  put_distribution(metrics, "cold", m.cold_latency);
  for (std::size_t i = 0; i < kPhases; ++i) {
    const std::string name(to_string(static_cast<Phase>(i)));
    if (m.cold > 0) put_distribution(metrics, "phase." + name, m.cold_phases[i]);
    if (m.timed > 0) metrics.push_back({"mean." + name, m.phase_ms[i] / static_cast<double>(m.timed), "ms"});
  }
  if (plan.targets.size() > 1 || !report.function_slowdown.values.empty()) {
    put_sample(metrics, "scheduling", report.function_latency_ms, "ms");
    put_sample(metrics, "slowdown", report.function_slowdown, "");
  }
  if (m.measured > 0)
    metrics.push_back({"client.cpu", result.cpu_seconds * 1e6 / static_cast<double>(m.measured), "us"});
  report.errors = m.errors;
  report.statuses = m.statuses;
  for (const auto& [reason, count] : m.errors) metrics.push_back({"errors." + reason, static_cast<double>(count), ""});
  for (const auto& [status, count] : m.statuses)
    metrics.push_back({fmt::format("status.{}", status), static_cast<double>(count), ""});
  report.latency_curve = curve_of(m.latency);
  put_warnings(report, plan, result);
  return report;
}

void add_sweep_step(Report& report, double rate, const Report& step) {
  report.sweep.push_back({rate, step.metrics});
  for (const Metric& metric : step.metrics) {
    report.metrics.push_back({fmt::format("sweep.{:g}.{}", rate, metric.name), metric.value, metric.unit});
  }
}

Status check_metric_name(std::string_view name) {
  static const std::vector<std::string> known = [] {
    std::vector<std::string> names{"sent", "ok",         "err",  "err.share",  "not_sent",  "seconds",
                                   "rate", "bytes.rate", "cold", "cold.share", "client.cpu"};
    std::vector<std::string> distributions{"latency", "service", "overhead",   "fn",
                                           "late",    "cold",    "scheduling", "slowdown"};
    for (std::size_t i = 0; i < kPhases; ++i) {
      const std::string phase(to_string(static_cast<Phase>(i)));
      names.push_back("mean." + phase);
      distributions.push_back("phase." + phase);
    }
    for (const auto& distribution : distributions) {
      for (const char* part : {"p50", "p90", "p99", "p99.9", "min", "mean", "max"})
        names.push_back(distribution + "." + part);
    }
    return names;
  }();
  std::string_view plain = name;
  if (plain.starts_with("sweep.")) {
    // "sweep.100.latency.p99", "sweep.0.5.latency.p99": the rate is all that can be a number.
    plain.remove_prefix(6);
    std::size_t i = 0;
    while (i < plain.size() && ((plain[i] >= '0' && plain[i] <= '9') || plain[i] == '.')) ++i;
    plain.remove_prefix(i);
  }
  if (plain.starts_with("errors.") || plain.starts_with("status.")) return {};
  if (std::find(known.begin(), known.end(), plain) != known.end()) return {};
  const auto hint = did_you_mean_suffix(plain, known);
  return failure(ErrorCode::invalid_argument, "there is no figure \"{}\"{}", name,
                 hint.empty() ? " (err, rate, latency.p99, overhead.p99, cold.p50, slowdown.p50, errors.REASON, "
                                "status.CODE, ...: docs/bench.md)"
                              : hint);
}

}  // namespace dirigent::bench
