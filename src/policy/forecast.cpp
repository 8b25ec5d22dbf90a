// SPDX-License-Identifier: MIT
#include "policy/forecast.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace dirigent::policy {

namespace {

struct Line {
  double intercept;
  double slope;
};

Line fit_line(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  const double middle = (n - 1) / 2;
  double sum = 0;
  double moment = 0;
  double spread = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double t = static_cast<double>(i) - middle;
    sum += values[i];
    moment += t * values[i];
    spread += t * t;
  }
  const double slope = spread > 0 ? moment / spread : 0;
  return {sum / n - slope * middle, slope};
}

struct Harmonic {
  std::size_t frequency;
  double real;
  double imaginary;
};

// The oscillations of frequency 1..n/2. A frequency and its mirror image are one, so that a cut never parts them; 0 is
// not among them because nothing is left of it when the line is taken off.
std::vector<Harmonic> harmonics_of(std::span<const double> values, std::span<const double> cosine,
                                   std::span<const double> sine) {
  const std::size_t n = values.size();
  std::vector<Harmonic> all;
  for (std::size_t k = 1; k <= n / 2; ++k) {
    Harmonic harmonic{k, 0, 0};
    for (std::size_t t = 0; t < n; ++t) {
      harmonic.real += values[t] * cosine[k * t % n];
      harmonic.imaginary -= values[t] * sine[k * t % n];
    }
    // Rounded, so that noise in the last digits does not decide which of two equal ones is kept.
    harmonic.real = std::round(harmonic.real * 1e9) / 1e9;
    harmonic.imaginary = std::round(harmonic.imaginary * 1e9) / 1e9;
    all.push_back(harmonic);
  }
  return all;
}

}  // namespace

std::vector<double> extrapolate(std::span<const double> history, std::size_t harmonics) {
  const std::size_t n = history.size();
  if (n == 0) return {};
  const Line line = fit_line(history);
  std::vector<double> rest(n);
  std::vector<double> cosine(n);
  std::vector<double> sine(n);
  for (std::size_t t = 0; t < n; ++t) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(t) / static_cast<double>(n);
    cosine[t] = std::cos(angle);
    sine[t] = std::sin(angle);
    rest[t] = history[t] - line.intercept - line.slope * static_cast<double>(t);
  }
  std::vector<Harmonic> kept = harmonics_of(rest, cosine, sine);
  const auto strength = [](const Harmonic& h) {
    return std::abs(h.real) + std::abs(h.imaginary);
  };
  std::stable_sort(kept.begin(), kept.end(),
                   [&](const Harmonic& a, const Harmonic& b) { return strength(a) > strength(b); });
  kept.resize(std::min(kept.size(), harmonics));

  std::vector<double> next(n);
  for (std::size_t j = 0; j < n; ++j) {
    double value = line.intercept + line.slope * static_cast<double>(n + j);
    for (const Harmonic& h : kept) {
      // All but the highest frequency of an even length stand for two mirror images.
      const double weight = (2 * h.frequency == n ? 1.0 : 2.0) / static_cast<double>(n);
      // The period divides n, so the time n + j has the phase of j.
      const std::size_t phase = h.frequency * j % n;
      value += weight * (h.real * cosine[phase] - h.imaginary * sine[phase]);
    }
    next[j] = value;
  }
  return next;
}

std::uint32_t scale_for(double per_minute, double capacity) {
  constexpr double kHeadRoom = 1.5;
  if (!(per_minute >= 0.1)) return 0;
  if (per_minute <= 1) return 1;
  double scale = kHeadRoom * per_minute / 60 / (capacity > 0 ? capacity : 1);
  if (scale > per_minute || scale <= 0) scale = per_minute;
  return static_cast<std::uint32_t>(std::min(std::ceil(scale), 2147483647.0));
}

std::vector<std::uint32_t> forward_maximum(std::span<const std::uint32_t> in, std::size_t width) {
  std::vector<std::uint32_t> out(in.size() + 1, in.empty() ? 0 : in.back());
  for (std::size_t k = 0; k < in.size(); ++k) {
    const std::size_t end = std::min(in.size(), k + width);
    out[k] =
        *std::max_element(in.begin() + static_cast<std::ptrdiff_t>(k), in.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return out;
}

void ServiceTime::observe(const LoadSample& sample) {
  if (sample.completions == 0) return;
  const double mean = to_seconds(sample.busy) / static_cast<double>(sample.completions);
  if (seconds_ == 0) {
    seconds_ = mean;
    return;
  }
  const double kept = std::pow(0.2, std::clamp(to_seconds(sample.interval), 0.0, 600.0) / 60);
  seconds_ = kept * seconds_ + (1 - kept) * mean;
}

double sandbox_capacity(const ScalingSettings& settings, double target, const ServiceTime& service_time) {
  if (settings.metric == ScalingMetric::rps) return target;
  // A request of less than a millisecond is bound by the network, not by its own time.
  constexpr double kSecondsMin = 0.001;
  return service_time.seconds() > 0 ? target / std::max(service_time.seconds(), kSecondsMin) : 0;
}

}  // namespace dirigent::policy
