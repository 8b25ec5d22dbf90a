// SPDX-License-Identifier: MIT
#include "dirigent/bench/report.h"
#include "dirigent/workload/chart.h"

namespace dirigent::bench {

namespace {

workload::Curve sweep_curve(const Report& report, std::size_t series, std::string_view name, bool dashed) {
  workload::Curve curve;
  curve.series = series;
  curve.dashed = dashed;
  for (const SweepStep& step : report.sweep) {
    for (const Metric& metric : step.metrics) {
      if (metric.name == name) curve.points.emplace_back(step.rate, metric.value);
    }
  }
  return curve;
}

}  // namespace

std::string draw_reports(const std::vector<std::pair<std::string, const Report*>>& reports) {
  workload::Panel latency{"latency from the intended start, ms", "", true, {}};
  workload::Panel scheduling{"mean scheduling latency of a function, ms", "", true, {}};
  workload::Panel slowdown{"slowdown of a function (geometric mean)", "", true, {}};
  workload::Panel sweep{"cold starts per second", "end-to-end latency, ms (p50; dashed: p99)", false, {}};
  std::vector<std::string> names;
  for (std::size_t i = 0; i < reports.size(); ++i) {
    const auto& [name, report] = reports[i];
    names.push_back(name);
    workload::Curve curve;
    curve.series = i;
    curve.points = report->latency_curve;
    latency.curves.push_back(std::move(curve));
    if (report->function_latency_ms.values.size() > 1)
      scheduling.curves.push_back(distribution_curve(i, report->function_latency_ms));
    if (report->function_slowdown.values.size() > 1)
      slowdown.curves.push_back(distribution_curve(i, report->function_slowdown));
    if (!report->sweep.empty()) {
      sweep.curves.push_back(sweep_curve(*report, i, "latency.p50", false));
      sweep.curves.push_back(sweep_curve(*report, i, "latency.p99", true));
    }
  }
  std::vector<workload::Panel> panels{std::move(latency)};
  for (workload::Panel* panel : {&scheduling, &slowdown, &sweep}) {
    if (!panel->curves.empty()) panels.push_back(std::move(*panel));
  }
  return workload::draw_chart(reports.empty() ? "" : reports.front().second->description, names, std::move(panels));
}

}  // namespace dirigent::bench
