// SPDX-License-Identifier: MIT
#include <array>

#include "dirigent/base/text.h"
#include "dirigent/bench/report.h"

namespace dirigent::bench {

namespace {

bool is_duration(std::string_view name) {
  if (name.find("slowdown.") != std::string_view::npos) return false;
  if (name.starts_with("errors.") || name.starts_with("status.") || name == "bytes.rate") return false;
  if (name.ends_with(".share") || name.ends_with(".rate")) return false;
  for (const char* part : {".p50", ".p90", ".p99", ".p99.9", ".min", ".mean", ".max"}) {
    if (name.ends_with(part)) return true;
  }
  return name.starts_with("mean.") || name == "client.cpu";
}

bool holds(double left, std::string_view operation, double right) {
  if (operation == "<") return left < right;
  if (operation == "<=") return left <= right;
  if (operation == ">") return left > right;
  if (operation == ">=") return left >= right;
  if (operation == "==") return left == right;
  return left != right;
}

// Milliseconds of durations, as the reports have them ("us" metrics are turned into that when compared).
double comparable(const Metric& metric) { return metric.unit == "us" ? metric.value / 1000 : metric.value; }

Result<Assertion> parse_term(std::string_view term, bool is_comparison) {
  static constexpr std::array<std::string_view, 6> kOperations{"<=", ">=", "==", "!=", "<", ">"};
  const auto at = term.find_first_of("<>=!");
  std::string_view operation;
  for (const auto candidate : kOperations) {
    if (at != std::string_view::npos && operation.empty() && term.substr(at).starts_with(candidate))
      operation = candidate;
  }
  if (operation.empty()) {
    return failure(ErrorCode::invalid_argument,
                   "\"{}\" is no assertion: NAME, one of < <= > >= == !=, and a value, as in overhead.p99<5ms", term);
  }
  Assertion assertion;
  assertion.text = std::string(term);
  assertion.operation = std::string(operation);
  std::string_view name = trim(term.substr(0, at));
  const std::string_view value = trim(term.substr(at + operation.size()));
  if (name.ends_with(".ratio")) {
    if (!is_comparison)
      return failure(ErrorCode::invalid_argument, "\"{}\": a ratio needs two reports (--compare A B)", term);
    assertion.is_ratio = true;
    name.remove_suffix(6);
  }
  if (auto known = check_metric_name(name); !known) return failure(known.error().within(fmt::format("\"{}\"", term)));
  assertion.name = std::string(name);
  const auto plain = parse_number(value);
  if (assertion.is_ratio || !is_duration(name)) {
    if (!plain) return failure(ErrorCode::invalid_argument, "\"{}\": \"{}\" is not a number", term, value);
    assertion.value = *plain;
    return assertion;
  }
  // Below a microsecond and with fractions ("0.5ms"), which durations of settings do not have.
  const auto unit_at = value.find_first_not_of("0123456789.");
  const auto amount = parse_number(value.substr(0, unit_at));
  const std::string_view unit = unit_at == std::string_view::npos ? std::string_view() : value.substr(unit_at);
  const double factor = unit == "ns" ? 1e-6 : unit == "us" ? 1e-3 : unit == "ms" ? 1 : unit == "s" ? 1e3 : 0;
  if (!amount || (factor == 0 && !(unit.empty() && *amount == 0))) {
    return failure(ErrorCode::invalid_argument, "\"{}\": \"{}\" is not a duration with its unit (ns, us, ms or s)",
                   term, value);
  }
  assertion.value = *amount * factor;
  return assertion;
}

}  // namespace

Result<std::vector<Assertion>> parse_assertions(std::string_view text, bool is_comparison) {
  std::vector<Assertion> assertions;
  for (const auto part : split(text, ',')) {
    const auto term = trim(part);
    if (term.empty()) continue;
    auto assertion = parse_term(term, is_comparison);
    if (!assertion) return failure(assertion.error());
    assertions.push_back(std::move(*assertion));
  }
  if (assertions.empty()) return failure(ErrorCode::invalid_argument, "\"{}\" asserts nothing", text);
  return assertions;
}

std::vector<std::string> failed_assertions(const std::vector<Assertion>& assertions, const Report& report,
                                           const Report* before) {
  std::vector<std::string> lines;
  for (const Assertion& assertion : assertions) {
    const Metric* const metric = report.find(assertion.name);
    if (metric == nullptr) {
      // A count that no call added to is zero; everything else has not been measured, and that never holds.
      const bool is_count =
          assertion.name.find("errors.") != std::string::npos || assertion.name.find("status.") != std::string::npos;
      if (is_count && !assertion.is_ratio && holds(0, assertion.operation, assertion.value)) continue;
      lines.push_back(fmt::format("{}: {}", assertion.text,
                                  is_count && !assertion.is_ratio ? "it is 0" : "there is no such figure in this run"));
      continue;
    }
    if (!assertion.is_ratio) {
      if (holds(comparable(*metric), assertion.operation, assertion.value)) continue;
      lines.push_back(fmt::format("{}: it is {:.6g}{}{}", assertion.text, metric->value,
                                  metric->unit.empty() ? "" : " ", metric->unit));
      continue;
    }
    const Metric* const old = before == nullptr ? nullptr : before->find(assertion.name);
    if (old == nullptr || old->value == 0) {
      lines.push_back(fmt::format("{}: the first report has no such figure, or it is 0", assertion.text));
      continue;
    }
    const double ratio = metric->value / old->value;
    if (!holds(ratio, assertion.operation, assertion.value)) {
      lines.push_back(fmt::format("{}: it is {:.4g} ({:.6g} after {:.6g} {})", assertion.text, ratio, metric->value,
                                  old->value, metric->unit));
    }
  }
  return lines;
}

}  // namespace dirigent::bench
