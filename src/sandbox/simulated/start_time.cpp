// SPDX-License-Identifier: MIT
#include "sandbox/simulated/start_time.h"

#include <cmath>
#include <fstream>
#include <numbers>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"

namespace dirigent::sandbox {

namespace {

// The 99th percentile of the standard normal distribution.
constexpr double kNormal99 = 2.3263478740408408;

double normal(Rng& rng) {
  // Box and Muller's; 1 - unit() is never zero.
  return std::sqrt(-2.0 * std::log(1.0 - rng.unit())) * std::cos(2.0 * std::numbers::pi * rng.unit());
}

Result<Duration> parse_time(std::string_view word, std::string_view text) {
  auto time = parse_duration(trim(word));
  if (!time) return failure(time.error().within(fmt::format("start time \"{}\"", text)));
  if (*time < Duration::zero())
    return failure(ErrorCode::invalid_argument, "start time \"{}\": \"{}\" is negative", text, word);
  return time;
}

Result<StartTime> read_samples(const std::string& path) {
  std::ifstream file(path);
  if (!file) return failure(ErrorCode::not_found, "cannot open the start times {}", path);
  SampledTime sampled;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const std::string_view word = trim(std::string_view(line).substr(0, line.find('#')));
    if (word.empty()) continue;
    if (const auto milliseconds = parse_number(word); milliseconds && *milliseconds >= 0) {
      sampled.samples.push_back(from_seconds(*milliseconds / 1000));
      continue;
    }
    auto time = parse_time(word, word);
    if (!time) return failure(time.error().within(fmt::format("{} line {}", path, number)));
    sampled.samples.push_back(*time);
  }
  if (sampled.samples.empty())
    return failure(ErrorCode::invalid_argument, "{} has no start times: write one a line", path);
  return sampled;
}

}  // namespace

Result<StartTime> parse_start_time(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  const std::string_view rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  if (kind == "file") return read_samples(std::string(rest));
  if (kind == "constant") {
    auto value = parse_time(rest, text);
    if (!value) return failure(value.error());
    return ConstantTime{*value};
  }
  if (kind == "uniform" || kind == "lognormal") {
    const auto words = split(rest, ',');
    if (words.size() != 2)
      return failure(ErrorCode::invalid_argument, "start time \"{}\": {} takes two durations with a comma between",
                     text, kind);
    auto low = parse_time(words[0], text);
    if (!low) return failure(low.error());
    auto high = parse_time(words[1], text);
    if (!high) return failure(high.error());
    if (*high < *low)
      return failure(ErrorCode::invalid_argument, "start time \"{}\": the second duration is below the first", text);
    if (kind == "uniform") return UniformTime{*low, *high};
    if (*low == Duration::zero())
      return failure(ErrorCode::invalid_argument, "start time \"{}\": the p50 must be above 0", text);
    return LognormalTime{*low, *high};
  }
  return failure(ErrorCode::invalid_argument,
                 "start time \"{}\" is none of constant:T, uniform:A,B, lognormal:P50,P99, file:PATH", text);
}

Duration draw(const StartTime& distribution, Rng& rng) {
  if (const auto* constant = std::get_if<ConstantTime>(&distribution)) return constant->value;
  if (const auto* uniform = std::get_if<UniformTime>(&distribution)) {
    return uniform->least + from_seconds(to_seconds(uniform->most - uniform->least) * rng.unit());
  }
  if (const auto* lognormal = std::get_if<LognormalTime>(&distribution)) {
    if (lognormal->p50 <= Duration::zero()) return Duration::zero();  // a setting of 0: at once
    // ln X is normal with mean ln p50; its 99th percentile fixes the deviation.
    const double sigma = std::log(to_seconds(lognormal->p99) / to_seconds(lognormal->p50)) / kNormal99;
    return from_seconds(to_seconds(lognormal->p50) * std::exp(sigma * normal(rng)));
  }
  const auto& samples = std::get<SampledTime>(distribution).samples;
  ASSERT(!samples.empty(), "no samples to draw from");
  return samples[rng.below(samples.size())];
}

}  // namespace dirigent::sandbox
