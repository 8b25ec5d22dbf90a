// SPDX-License-Identifier: MIT
//
// The outcome of a run as named figures: what the table, the JSON file, assertions and comparisons speak of. A value.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/bench/engine.h"
#include "dirigent/bench/measurement.h"
#include "dirigent/bench/plan.h"
#include "dirigent/workload/sample.h"

namespace dirigent::bench {

// "latency.p99" = 4.2 "ms". The units are "ms", "us" and "" (counts, shares, rates a second).
struct Metric {
  std::string name;
  double value = 0;
  std::string unit;
};

struct SweepStep {
  double rate = 0;  // cold starts a second
  std::vector<Metric> metrics;
};

struct Report {
  std::string description;                                    // "open loop, poisson, 500 req/s for 20 s"
  std::string started;                                        // "2026-11-26T04:10:00Z"
  std::vector<std::pair<std::string, std::string>> settings;  // what else it takes to do it again
  std::vector<Metric> metrics;
  std::map<std::string, std::uint64_t, std::less<>> errors;  // by reason
  std::map<int, std::uint64_t> statuses;
  std::vector<std::pair<double, double>> latency_curve;  // (ms, share of the calls at most that long)
  workload::Sample function_latency_ms;                  // mean scheduling latency of each function
  workload::Sample function_slowdown;                    // geometric mean of each function
  std::vector<SweepStep> sweep;
  std::vector<std::string> warnings;  // why the figures may say less than they seem to

  [[nodiscard]] const Metric* find(std::string_view name) const;
};

Report make_report(const Plan& plan, const RunResult& result);
// Adds the figures of one step, also as "sweep.RATE.NAME" among the report's own metrics.
void add_sweep_step(Report& report, double rate, const Report& step);

// Whether a run can have a metric of that name. Errors: invalid_argument, with the nearest name or the list.
Status check_metric_name(std::string_view name);

std::string format_report(const Report& report);
std::string format_sweep(const Report& report);
// Metrics of both beside each other with b / a.
std::string format_comparison(const std::string& name_a, const Report& a, const std::string& name_b, const Report& b);

std::string to_json(const Report& report);
// Errors: invalid_argument when it is no report of this program.
Result<Report> report_from_json(std::string_view text);

// Latency distribution; per-function scheduling latency and slowdown if there are run times; latency over rate of a
// sweep.
std::string draw_reports(const std::vector<std::pair<std::string, const Report*>>& reports);

// "overhead.p99<5ms,err==0": comma-separated terms NAME OP VALUE, with the operators < <= > >= == !=. Values of
// durations have a unit. With `.ratio` behind the name a term of a comparison is about b / a.
struct Assertion {
  std::string text;
  std::string name;
  std::string operation;
  double value = 0;
  bool is_ratio = false;
};
// Errors: invalid_argument, naming the term.
Result<std::vector<Assertion>> parse_assertions(std::string_view text, bool is_comparison);
// One line for each term that does not hold: "overhead.p99<5ms: it is 7.21 ms". `before`: the report compared with.
std::vector<std::string> failed_assertions(const std::vector<Assertion>& assertions, const Report& report,
                                           const Report* before);

// The 15 columns of the Invitro loader, in order of completion. Times are from the intended start.
// Errors: unavailable, with the system's words.
Status write_invitro_csv(const std::string& path, const Plan& plan, const Measurement& measurement);

}  // namespace dirigent::bench
