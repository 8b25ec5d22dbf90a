// SPDX-License-Identifier: MIT
#include "dirigent/sim/distribution.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numbers>
#include <string>

#include "dirigent/base/text.h"

namespace dirigent::sim {

namespace {
constexpr double kNormalAt99 = 2.3263478740408408;  // standard deviations between the median and the 99th percentile
}

Distribution Distribution::constant(Duration value) {
  Distribution made;
  made.low_ = value;
  return made;
}

Result<Distribution> Distribution::parse(std::string_view text) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos) {
    auto value = parse_duration(text);
    if (!value) return failure(value.error());
    return constant(*value);
  }
  const std::string kind(text.substr(0, colon));
  const std::string_view rest = text.substr(colon + 1);
  Distribution made;
  if (kind == "file") {
    made.kind_ = Kind::samples;
    std::ifstream file{std::string(rest)};
    if (!file) return failure(ErrorCode::not_found, "cannot read {} (one duration in milliseconds a line)", rest);
    std::string line;
    for (std::size_t number = 1; std::getline(file, line); ++number) {
      if (trim(line).empty()) continue;
      const auto value = parse_number(trim(line));
      if (!value || *value < 0 || *value > 3.6e6) {
        return failure(ErrorCode::invalid_argument, "{}:{}: \"{}\" is not a duration in milliseconds (0..3600000)", rest, number, line);
      }
      made.samples_.push_back(from_seconds(*value / 1000));
    }
    if (made.samples_.empty()) return failure(ErrorCode::invalid_argument, "{} holds no duration", rest);
    return made;
  }
  std::vector<Duration> values;
  for (const auto part : split(rest, ',')) {
    auto value = parse_duration(trim(part));
    if (!value) return failure(value.error().within(text));
    values.push_back(*value);
  }
  if (kind == "constant" && values.size() == 1) return constant(values[0]);
  if (kind == "uniform" && values.size() == 2 && values[0] <= values[1]) {
    made.kind_ = Kind::uniform;
    made.low_ = values[0];
    made.high_ = values[1];
    return made;
  }
  if (kind == "lognormal" && values.size() == 2 && values[0] > Duration::zero() && values[0] <= values[1]) {
    made.kind_ = Kind::lognormal;
    made.low_ = values[0];
    made.sigma_ = std::log(to_seconds(values[1]) / to_seconds(values[0])) / kNormalAt99;
    return made;
  }
  return failure(ErrorCode::invalid_argument,
                 "\"{}\" is not a distribution (constant:40ms, uniform:LOW,HIGH, lognormal:P50,P99 or file:PATH)", text);
}

Duration Distribution::draw(Rng& rng) const {
  switch (kind_) {
    case Kind::constant: return low_;
    case Kind::uniform:
      return low_ + Duration(static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>((high_ - low_).count()) + 1)));
    case Kind::lognormal: {
      // Box and Muller; 1 - unit() is never zero.
      const double radius = std::sqrt(-2 * std::log(1 - rng.unit()));
      const double normal = radius * std::cos(2 * std::numbers::pi * rng.unit());
      return from_seconds(to_seconds(low_) * std::exp(sigma_ * normal));
    }
    case Kind::samples: return samples_[rng.below(samples_.size())];
  }
  return low_;
}

}  // namespace dirigent::sim
