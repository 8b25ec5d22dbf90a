// SPDX-License-Identifier: MIT
//
// Workloads made from a line of text.
#include <algorithm>
#include <map>

#include "dirigent/base/text.h"
#include "dirigent/workload/workload.h"

namespace dirigent::workload {

namespace {

constexpr double kArrivalsMax = 50e6;

struct Range {
  double standard, low, high;
};

constexpr Range kRunTimeMs{100, 1, 3.6e6};
constexpr Range kFunctions{1, 1, 100'000};
constexpr Range kRate{10, 0.001, 1e6};

// Every key with its value when it is not given, and its bounds.
const std::map<std::string, std::map<std::string, Range>> kKinds{
    {"constant", {{"rps", kRate}, {"duration_ms", kRunTimeMs}, {"functions", kFunctions}}},
    {"poisson", {{"rps", kRate}, {"duration_ms", kRunTimeMs}, {"functions", kFunctions}}},
    {"burst",
     {{"size", {100, 1, 1e6}},
      {"every_ms", {10'000, 1, 3.6e6}},
      {"duration_ms", kRunTimeMs},
      {"functions", kFunctions}}},
    {"ramp", {{"from", {1, 0, 1e6}}, {"to", {100, 0, 1e6}}, {"duration_ms", kRunTimeMs}, {"functions", kFunctions}}},
};

std::vector<std::string> keys_of(const auto& map) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  return keys;
}

struct Values {
  std::map<std::string, double> numbers;
  bool exponential = false;
};

Result<Values> parse_values(const std::string& kind, std::string_view text) {
  const auto& ranges = kKinds.at(kind);
  Values values;
  for (const auto& [key, range] : ranges) values.numbers[key] = range.standard;
  for (const auto part : split(text, ',')) {
    if (trim(part).empty()) continue;
    const auto equals = part.find('=');
    const std::string key(trim(part.substr(0, equals)));
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : trim(part.substr(equals + 1));
    if (key == "spread") {
      if (value != "exponential" && value != "constant") {
        return failure(ErrorCode::invalid_argument, "load {}: spread is \"{}\", it must be constant or exponential",
                       kind, value);
      }
      values.exponential = value == "exponential";
      continue;
    }
    const auto range = ranges.find(key);
    if (range == ranges.end()) {
      return failure(ErrorCode::invalid_argument, "load {} has no \"{}\"{}", kind, key,
                     did_you_mean_suffix(key, keys_of(ranges)));
    }
    const auto number = parse_number(value);
    if (!number || *number < range->second.low || *number > range->second.high) {
      return failure(ErrorCode::invalid_argument, "load {}: {} is \"{}\", it must be a number in {}..{}", kind, key,
                     value, range->second.low, range->second.high);
    }
    values.numbers[key] = *number;
  }
  return values;
}

}  // namespace

Result<Load> Load::parse(std::string_view text) {
  const auto colon = text.find(':');
  const std::string kind(text.substr(0, colon));
  if (!kKinds.contains(kind)) {
    return failure(ErrorCode::invalid_argument, "unknown load \"{}\"{} (constant, poisson, burst or ramp)", kind,
                   did_you_mean_suffix(kind, keys_of(kKinds)));
  }
  auto values = parse_values(kind, colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1));
  if (!values) return failure(values.error());
  auto& numbers = values->numbers;
  Load load;
  load.functions = static_cast<std::uint32_t>(numbers["functions"]);
  load.run_time = from_seconds(numbers["duration_ms"] / 1000);
  load.exponential = values->exponential;
  if (kind == "burst") {
    load.kind = Kind::burst;
    load.burst_size = numbers["size"];
    load.burst_every = from_seconds(numbers["every_ms"] / 1000);
  } else if (kind == "ramp") {
    load.kind = Kind::ramp;
    load.rate = numbers["from"];
    load.rate_end = numbers["to"];
  } else {
    load.kind = kind == "constant" ? Kind::constant : Kind::poisson;
    load.rate = load.rate_end = numbers["rps"];
  }
  return load;
}

double Load::arrivals(Duration length) const {
  const double seconds = to_seconds(length);
  switch (kind) {
    case Kind::burst: return burst_size * (seconds / to_seconds(burst_every) + 1);
    case Kind::ramp: return (rate + rate_end) / 2 * seconds;
    default: return rate * seconds;
  }
}

LoadStream::LoadStream(const Load& load, Duration length, std::uint64_t seed)
    : load_(load), seconds_(to_seconds(length)), rng_(seed) {}

void LoadStream::fill(Arrival& arrival, double at) {
  const double run_time = to_seconds(load_.run_time);
  const double drawn = load_.exponential ? rng_.exponential(run_time) : run_time;
  arrival = {from_seconds(at), static_cast<std::uint32_t>(rng_.below(load_.functions)),
             std::max<Duration>(from_seconds(drawn), 1us)};
}

bool LoadStream::next_burst(Arrival& arrival) {
  if (count_ == static_cast<std::uint64_t>(load_.burst_size)) {
    count_ = 0;
    at_ += to_seconds(load_.burst_every);
  }
  if (at_ >= seconds_) return false;
  ++count_;
  fill(arrival, at_);
  return true;
}

bool LoadStream::next_drawn(Arrival& arrival) {
  const double from = load_.rate;
  const double to = load_.kind == Load::Kind::ramp ? load_.rate_end : from;
  const double most = std::max(from, to);
  if (most <= 0) return false;
  // A rate that changes is a constant one of which some arrivals are left out (thinning).
  for (;;) {
    at_ += rng_.exponential(1 / most);
    if (at_ >= seconds_) return false;
    if (rng_.unit() * most <= from + (to - from) * at_ / seconds_) break;
  }
  fill(arrival, at_);
  return true;
}

bool LoadStream::next(Arrival& arrival) {
  if (load_.kind == Load::Kind::burst) return next_burst(arrival);
  if (load_.kind != Load::Kind::constant) return next_drawn(arrival);
  const double at = static_cast<double>(count_) / load_.rate;
  if (at >= seconds_) return false;
  ++count_;
  fill(arrival, at);
  return true;
}

Result<Workload> make_load(std::string_view text, Duration length, std::uint64_t seed) {
  const auto load = Load::parse(text);
  if (!load) return failure(load.error());
  if (const double expected = load->arrivals(length); expected > kArrivalsMax) {
    return failure(ErrorCode::exhausted,
                   "load {}: about {:.0f} invocations, the limit is {:.0f} (simulate fewer minutes)",
                   text.substr(0, text.find(':')), expected, kArrivalsMax);
  }
  Workload workload;
  workload.source = std::string(text);
  workload.length = length;
  for (std::uint32_t i = 0; i < load->functions; ++i)
    workload.functions.push_back({FunctionName{fmt::format("f{:04}", i)}, 128_MiB});
  LoadStream stream(*load, length, seed);
  for (Arrival arrival; stream.next(arrival);) workload.arrivals.push_back(arrival);
  return workload;
}

}  // namespace dirigent::workload
