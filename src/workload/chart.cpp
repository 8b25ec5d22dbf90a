// SPDX-License-Identifier: MIT
#include "dirigent/workload/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace dirigent::workload {

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

// A logarithmic axis from one power of ten to another.
struct Axis {
  double low = 0;
  double high = 1;

  static Axis around(const std::vector<Curve>& curves, double std::pair<double, double>::*coordinate) {
    double least = 1e300;
    double most = 0;
    for (const Curve& curve : curves) {
      for (const auto& point : curve.points) {
        const double value = point.*coordinate;
        if (value <= 0) continue;
        least = std::min(least, value);
        most = std::max(most, value);
      }
    }
    if (most == 0) return {};
    Axis axis;
    axis.low = std::floor(std::log10(least));
    axis.high = std::max(axis.low + 1, std::ceil(std::log10(most)));
    return axis;
  }
  // 0 at the low end, 1 at the high one.
  [[nodiscard]] double part(double value) const {
    const double power = value <= 0 ? low : std::clamp(std::log10(value), low, high);
    return (power - low) / (high - low);
  }
};

class Frame {
 public:
  Frame(const Panel& panel, double left)
      : panel_(panel),
        left_(left + kMargin),
        x_(Axis::around(panel.curves, &std::pair<double, double>::first)),
        y_(panel.y_is_share ? Axis{} : Axis::around(panel.curves, &std::pair<double, double>::second)) {}

  [[nodiscard]] std::string draw() const {
    std::string svg =
        fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>\n",
                    left_, kMargin, kWidth, kHeight);
    svg += axis_x() + axis_y();
    for (const Curve& curve : panel_.curves) svg += line(curve);
    return svg;
  }

 private:
  [[nodiscard]] double x(double value) const { return left_ + x_.part(value) * kWidth; }
  [[nodiscard]] double y(double value) const {
    return kMargin + (1 - (panel_.y_is_share ? value : y_.part(value))) * kHeight;
  }

  [[nodiscard]] std::string axis_x() const {
    std::string svg;
    const double bottom = kMargin + kHeight;
    for (int power = static_cast<int>(x_.low); power <= static_cast<int>(x_.high); ++power) {
      const double at = left_ + (power - x_.low) / (x_.high - x_.low) * kWidth;
      svg += fmt::format(
          "<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"#ddd\"/><text x=\"{:.1f}\" y=\"{:.1f}\" "
          "text-anchor=\"middle\">{:g}</text>\n",
          at, kMargin, bottom, at, bottom + 16, std::pow(10, power));
    }
    return svg + fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", left_ + kWidth / 2,
                             bottom + 36, escaped(panel_.x_label));
  }

  [[nodiscard]] std::string tick(double at, const std::string& label) const {
    return fmt::format(
        "<path d=\"M{:.1f} {:.1f}h{}\" stroke=\"#ddd\"/><text x=\"{:.1f}\" y=\"{:.1f}\" "
        "text-anchor=\"end\">{}</text>\n",
        left_, at, kWidth, left_ - 6, at + 4, label);
  }

  [[nodiscard]] std::string axis_y() const {
    std::string svg;
    if (panel_.y_is_share) {
      for (int quarter = 0; quarter <= 4; ++quarter) svg += tick(y(quarter / 4.0), fmt::format("{} %", quarter * 25));
      return svg;
    }
    for (int power = static_cast<int>(y_.low); power <= static_cast<int>(y_.high); ++power) {
      svg += tick(y(std::pow(10, power)), fmt::format("{:g}", std::pow(10, power)));
    }
    const double at = kMargin + kHeight / 2;
    return svg + fmt::format(
                     "<text transform=\"rotate(-90 {0:.1f} {1:.1f})\" x=\"{0:.1f}\" y=\"{1:.1f}\" "
                     "text-anchor=\"middle\">{2}</text>\n",
                     left_ - 44, at, escaped(panel_.y_label));
  }

  [[nodiscard]] std::string line(const Curve& curve) const {
    if (curve.points.empty()) return {};
    std::string path;
    for (const auto& [px, py] : curve.points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? 'M' : 'L', x(px), y(py));
    return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", path,
                       kColours[curve.series % kColours.size()], curve.dashed ? " stroke-dasharray=\"6 4\"" : "");
  }

  const Panel& panel_;
  double left_;
  Axis x_;
  Axis y_;
};

}  // namespace

Curve distribution_curve(std::size_t series, const Sample& sample) {
  Curve curve;
  curve.series = series;
  const auto& values = sample.values;
  if (values.empty()) return curve;
  curve.points.emplace_back(values.front(), 0);
  // 400 points are as many as the eye can tell apart here.
  const std::size_t step = std::max<std::size_t>(1, values.size() / 400);
  for (std::size_t i = 0; i < values.size(); i += step) {
    curve.points.emplace_back(values[i], static_cast<double>(i + 1) / static_cast<double>(values.size()));
  }
  curve.points.emplace_back(values.back(), 1);
  return curve;
}

std::string draw_chart(const std::string& title, const std::vector<std::string>& series, std::vector<Panel> panels) {
  const auto count = static_cast<double>(panels.size());
  const double width = count * kWidth + (1.5 * count + 0.5) * kMargin;
  const double height = kHeight + 2 * kMargin + 24 + 18.0 * static_cast<double>(series.size());
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0f}\" height=\"{:.0f}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{}\" y=\"30\" font-size=\"16\">{}</text>\n",
      width, height, kMargin, escaped(title));
  double left = 0;
  for (const Panel& panel : panels) {
    svg += Frame(panel, left).draw();
    left += kWidth + kMargin * 1.5;
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    const double y = kHeight + 2 * kMargin + 10 + 18.0 * static_cast<double>(i);
    svg += fmt::format(
        "<path d=\"M{} {:.0f}h30\" stroke=\"{}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{:.0f}\">{}</text>\n", kMargin,
        y, kColours[i % kColours.size()], kMargin + 40, y + 4, escaped(series[i]));
  }
  return svg + "</svg>\n";
}

}  // namespace dirigent::workload
