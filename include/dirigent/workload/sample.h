// SPDX-License-Identifier: MIT
//
// The distribution of a set of values, all of them kept, so that quantiles are exact. For thousands of functions or
// invocations of a simulation; what a load generator measures goes into a histogram.
#pragma once

#include <vector>

namespace dirigent::workload {

struct Sample {
  std::vector<double> values;  // ascending, once sort() was called

  void sort();
  // The value at or below which the share `q` of the values lies; 0 when empty. REQUIRES: sorted.
  [[nodiscard]] double quantile(double q) const;
  [[nodiscard]] double mean() const;  // 0 when empty
};

}  // namespace dirigent::workload
