// SPDX-License-Identifier: MIT
//
// Reports as JSON. The name of a metric has its unit behind it ("latency.p99_ms"); reading takes it off again.
#include <nlohmann/json.hpp>

#include "dirigent/bench/report.h"

namespace dirigent::bench {

namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

Json metrics_json(const std::vector<Metric>& metrics) {
  Json json = Json::object();
  for (const Metric& metric : metrics)
    json[metric.unit.empty() ? metric.name : metric.name + "_" + metric.unit] = metric.value;
  return json;
}

std::vector<Metric> metrics_from(const Json& json) {
  std::vector<Metric> metrics;
  for (const auto& [key, value] : json.items()) {
    Metric metric{key, value.get<double>(), ""};
    for (const char* unit : {"ms", "us"}) {
      const std::string suffix = fmt::format("_{}", unit);
      if (!metric.name.ends_with(suffix)) continue;
      metric.name.resize(metric.name.size() - suffix.size());
      metric.unit = unit;
      break;
    }
    metrics.push_back(std::move(metric));
  }
  return metrics;
}

}  // namespace

std::string to_json(const Report& report) {
  Json json;
  json["tool"] = "dirigent bench";
  json["format"] = kFormat;
  json["description"] = report.description;
  json["started"] = report.started;
  json["settings"] = Json::object();
  for (const auto& [name, value] : report.settings) json["settings"][name] = value;
  // Those of the steps are written once, below.
  std::vector<Metric> own;
  for (const Metric& metric : report.metrics) {
    if (!metric.name.starts_with("sweep.")) own.push_back(metric);
  }
  json["metrics"] = metrics_json(own);
  json["errors"] = Json::object();
  for (const auto& [reason, count] : report.errors) json["errors"][reason] = count;
  json["status"] = Json::object();
  for (const auto& [status, count] : report.statuses) json["status"][std::to_string(status)] = count;
  json["warnings"] = report.warnings;
  json["sweep"] = Json::array();
  for (const SweepStep& step : report.sweep)
    json["sweep"].push_back(Json{{"rate", step.rate}, {"metrics", metrics_json(step.metrics)}});
  json["latency_curve"] = report.latency_curve;
  json["function_latency_ms"] = report.function_latency_ms.values;
  json["function_slowdown"] = report.function_slowdown.values;
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Report> report_from_json(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    if (json.at("tool") != "dirigent bench" || json.at("format") != kFormat) {
      return failure(ErrorCode::invalid_argument,
                     "this is no report of dirigent bench in format {} (write one with --output)", kFormat);
    }
    Report report;
    report.description = json.at("description").get<std::string>();
    report.started = json.at("started").get<std::string>();
    for (const auto& [name, value] : json.at("settings").items())
      report.settings.emplace_back(name, value.get<std::string>());
    report.metrics = metrics_from(json.at("metrics"));
    for (const auto& [reason, count] : json.at("errors").items()) report.errors[reason] = count.get<std::uint64_t>();
    for (const auto& [status, count] : json.at("status").items())
      report.statuses[std::stoi(status)] = count.get<std::uint64_t>();
    report.warnings = json.at("warnings").get<std::vector<std::string>>();
    for (const Json& step : json.at("sweep")) {
      Report part;
      part.metrics = metrics_from(step.at("metrics"));
      add_sweep_step(report, step.at("rate").get<double>(), part);
    }
    report.latency_curve = json.at("latency_curve").get<std::vector<std::pair<double, double>>>();
    report.function_latency_ms.values = json.at("function_latency_ms").get<std::vector<double>>();
    report.function_slowdown.values = json.at("function_slowdown").get<std::vector<double>>();
    return report;
  } catch (const std::exception& exception) {
    return failure(ErrorCode::invalid_argument, "this is no report of dirigent bench: {}", exception.what());
  }
}

}  // namespace dirigent::bench
