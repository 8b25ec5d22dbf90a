// SPDX-License-Identifier: MIT
//
// Distribution plots as plain SVG: a logarithmic horizontal axis, the share of the values at most that large upwards.
#include <algorithm>
#include <array>
#include <cmath>

#include "dirigent/sim/report.h"

namespace dirigent::sim {

namespace {

constexpr double kWidth = 460;
constexpr double kHeight = 300;
constexpr double kMargin = 60;
constexpr std::array<const char*, 6> kColours{"#1b6ca8", "#d1495b", "#2e933c", "#8a5fbf", "#c98a00", "#444444"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '&') out += "&amp;";
    else out.push_back(c);
  }
  return out;
}

struct Plot {
  double left;
  const char* label;
  Sample Outcome::*sample;
  double low = 0;   // of the axis, as powers of ten
  double high = 1;

  void fit(const std::vector<NamedOutcome>& outcomes) {
    double least = 1e300;
    double most = 0;
    for (const auto& named : outcomes) {
      for (const double value : (named.outcome.*sample).values) {
        if (value <= 0) continue;
        least = std::min(least, value);
        most = std::max(most, value);
      }
    }
    if (most == 0) return;
    low = std::floor(std::log10(least));
    high = std::max(low + 1, std::ceil(std::log10(most)));
  }
  [[nodiscard]] double x(double value) const {
    const double power = value <= 0 ? low : std::clamp(std::log10(value), low, high);
    return left + kMargin + (power - low) / (high - low) * kWidth;
  }
  static double y(double share) { return kMargin + (1 - share) * kHeight; }

  [[nodiscard]] std::string axes() const {
    std::string svg = fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>\n", left + kMargin,
                                  kMargin, kWidth, kHeight);
    for (int power = static_cast<int>(low); power <= static_cast<int>(high); ++power) {
      const double at = left + kMargin + (power - low) / (high - low) * kWidth;
      svg += fmt::format("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"#ddd\"/><text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n",
                         at, y(1), y(0), at, y(0) + 16, std::pow(10, power));
    }
    for (int quarter = 0; quarter <= 4; ++quarter) {
      const double share = quarter / 4.0;
      svg += fmt::format("<path d=\"M{:.1f} {:.1f}h{}\" stroke=\"#ddd\"/><text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:g} %</text>\n",
                         left + kMargin, y(share), kWidth, left + kMargin - 6, y(share) + 4, share * 100);
    }
    return svg + fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", left + kMargin + kWidth / 2, y(0) + 36, label);
  }

  [[nodiscard]] std::string curve(const Sample& values, const char* colour) const {
    if (values.values.empty()) return {};
    std::string path = fmt::format("M{:.1f} {:.1f}", x(values.values.front()), y(0));
    // 400 points are as many as the eye can tell apart here.
    const std::size_t step = std::max<std::size_t>(1, values.values.size() / 400);
    for (std::size_t i = 0; i < values.values.size(); i += step) {
      path += fmt::format("L{:.1f} {:.1f}", x(values.values[i]), y(static_cast<double>(i + 1) / static_cast<double>(values.values.size())));
    }
    path += fmt::format("L{:.1f} {:.1f}", x(values.values.back()), y(1));
    return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", path, colour);
  }
};

}  // namespace

std::string to_svg(const std::vector<NamedOutcome>& outcomes, const std::string& title) {
  std::array<Plot, 2> plots{Plot{0, "mean scheduling latency of a function, ms", &Outcome::function_latency_ms},
                            Plot{kWidth + kMargin * 1.5, "slowdown of a function (geometric mean)", &Outcome::function_slowdown}};
  const double width = 2 * kWidth + 3.5 * kMargin;
  const double height = kHeight + 2 * kMargin + 24 + 18.0 * static_cast<double>(outcomes.size());
  std::string svg = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0f}\" height=\"{:.0f}\" font-family=\"sans-serif\" font-size=\"12\">\n"
                                "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{}\" y=\"30\" font-size=\"16\">{}</text>\n",
                                width, height, kMargin, escaped(title));
  for (Plot& plot : plots) {
    plot.fit(outcomes);
    svg += plot.axes();
    for (std::size_t i = 0; i < outcomes.size(); ++i) svg += plot.curve(outcomes[i].outcome.*plot.sample, kColours[i % kColours.size()]);
  }
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const double y = kHeight + 2 * kMargin + 10 + 18.0 * static_cast<double>(i);
    svg += fmt::format("<path d=\"M{} {:.0f}h30\" stroke=\"{}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{:.0f}\">{}</text>\n", kMargin, y,
                       kColours[i % kColours.size()], kMargin + 40, y + 4, escaped(outcomes[i].name));
  }
  return svg + "</svg>\n";
}

}  // namespace dirigent::sim
