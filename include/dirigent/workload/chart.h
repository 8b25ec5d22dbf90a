// SPDX-License-Identifier: MIT
//
// Pictures of measurements as plain SVG, without a library: panels beside each other, curves in them, one legend below.
// The same input gives the same bytes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dirigent/workload/sample.h"

namespace dirigent::workload {

struct Curve {
  std::size_t series = 0;                         // its colour and its name in the legend
  std::vector<std::pair<double, double>> points;  // ascending x
  bool dashed = false;
};

struct Panel {
  std::string x_label;
  std::string y_label;     // "" when y is a share: the axis then says 0 % to 100 %
  bool y_is_share = true;  // else y is logarithmic, like x
  std::vector<Curve> curves;
};

// The share of the values at most as large as x. Values that are not positive stand at the left end.
Curve distribution_curve(std::size_t series, const Sample& sample);

std::string draw_chart(const std::string& title, const std::vector<std::string>& series, std::vector<Panel> panels);

}  // namespace dirigent::workload
