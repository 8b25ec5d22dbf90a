// SPDX-License-Identifier: MIT
#include "dirigent/workload/sample.h"

#include <algorithm>
#include <cmath>

namespace dirigent::workload {

void Sample::sort() { std::sort(values.begin(), values.end()); }

double Sample::quantile(double q) const {
  if (values.empty()) return 0;
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[std::clamp<std::size_t>(rank, 1, values.size()) - 1];
}

double Sample::mean() const {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace dirigent::workload
