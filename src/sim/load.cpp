// SPDX-License-Identifier: MIT
//
// Workloads made from a line of text.
#include <algorithm>
#include <map>

#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "dirigent/sim/workload.h"

namespace dirigent::sim {

namespace {

constexpr double kArrivalsMax = 50e6;

struct Values {
  std::map<std::string, double> numbers;
  bool exponential = false;  // run times
};

struct Range {
  double standard, low, high;
};

// Every key with its value when it is not given, and its bounds.
const std::map<std::string, std::map<std::string, Range>> kKinds{
    {"poisson", {{"rps", {10, 0.001, 1e6}}, {"duration_ms", {100, 1, 3.6e6}}, {"functions", {1, 1, 100'000}}}},
    {"burst", {{"size", {100, 1, 1e6}}, {"every_ms", {10'000, 1, 3.6e6}}, {"duration_ms", {100, 1, 3.6e6}}, {"functions", {1, 1, 100'000}}}},
    {"ramp", {{"from", {1, 0, 1e6}}, {"to", {100, 0, 1e6}}, {"duration_ms", {100, 1, 3.6e6}}, {"functions", {1, 1, 100'000}}}},
};

std::vector<std::string> keys_of(const auto& map) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  return keys;
}

Result<Values> parse_values(const std::string& kind, std::string_view text) {
  const auto& ranges = kKinds.at(kind);
  Values values;
  for (const auto& [key, range] : ranges) values.numbers[key] = range.standard;
  for (const auto part : split(text, ',')) {
    if (trim(part).empty()) continue;
    const auto equals = part.find('=');
    const std::string key(trim(part.substr(0, equals)));
    const std::string_view value = equals == std::string_view::npos ? std::string_view() : trim(part.substr(equals + 1));
    if (key == "spread") {
      if (value != "exponential" && value != "constant") {
        return failure(ErrorCode::invalid_argument, "load {}: spread is \"{}\", it must be constant or exponential", kind, value);
      }
      values.exponential = value == "exponential";
      continue;
    }
    const auto range = ranges.find(key);
    if (range == ranges.end()) {
      return failure(ErrorCode::invalid_argument, "load {} has no \"{}\"{}", kind, key, did_you_mean_suffix(key, keys_of(ranges)));
    }
    const auto number = parse_number(value);
    if (!number || *number < range->second.low || *number > range->second.high) {
      return failure(ErrorCode::invalid_argument, "load {}: {} is \"{}\", it must be a number in {}..{}", kind, key, value,
                     range->second.low, range->second.high);
    }
    values.numbers[key] = *number;
  }
  return values;
}

}  // namespace

Result<Workload> make_load(std::string_view text, Duration length, std::uint64_t seed) {
  const auto colon = text.find(':');
  const std::string kind(text.substr(0, colon));
  if (!kKinds.contains(kind)) {
    return failure(ErrorCode::invalid_argument, "unknown load \"{}\"{} (poisson, burst or ramp)", kind, did_you_mean_suffix(kind, keys_of(kKinds)));
  }
  auto values = parse_values(kind, colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1));
  if (!values) return failure(values.error());
  auto& numbers = values->numbers;
  const double seconds = to_seconds(length);
  const double expected = kind == "poisson" ? numbers["rps"] * seconds
                          : kind == "burst" ? numbers["size"] * (seconds * 1000 / numbers["every_ms"] + 1)
                                            : (numbers["from"] + numbers["to"]) / 2 * seconds;
  if (expected > kArrivalsMax) {
    return failure(ErrorCode::exhausted, "load {}: about {:.0f} invocations, the limit is {:.0f} (simulate fewer minutes)", kind, expected, kArrivalsMax);
  }

  Workload workload;
  workload.source = std::string(text);
  workload.length = length;
  const auto functions = static_cast<std::uint32_t>(numbers["functions"]);
  for (std::uint32_t i = 0; i < functions; ++i) workload.functions.push_back({FunctionName{fmt::format("f{:04}", i)}, 128_MiB});
  Rng rng(seed);
  const double run_time = numbers["duration_ms"] / 1000;
  const auto add = [&](double at) {
    const double drawn = values->exponential ? rng.exponential(run_time) : run_time;
    workload.arrivals.push_back({from_seconds(at), static_cast<std::uint32_t>(rng.below(functions)), std::max<Duration>(from_seconds(drawn), 1us)});
  };
  if (kind == "burst") {
    for (double at = 0; at < seconds; at += numbers["every_ms"] / 1000) {
      for (int i = 0; i < static_cast<int>(numbers["size"]); ++i) add(at);
    }
    return workload;
  }
  const double from = kind == "ramp" ? numbers["from"] : numbers["rps"];
  const double to = kind == "ramp" ? numbers["to"] : from;
  const double most = std::max(from, to);
  if (most <= 0) return workload;
  // A rate that changes is a constant one of which some arrivals are left out (thinning).
  for (double at = rng.exponential(1 / most); at < seconds; at += rng.exponential(1 / most)) {
    if (rng.unit() * most <= from + (to - from) * at / seconds) add(at);
  }
  return workload;
}

}  // namespace dirigent::sim
