// SPDX-License-Identifier: MIT
//
// Predicts the next value of a series online: a bank of linear predictors of different memory and speed, of which the
// one that has erred least lately speaks. Each learns by normalised least mean squares, which is stable whatever the
// scale of the series. The prediction part of the `mu` autoscaler.
#pragma once

#include <array>
#include <vector>

namespace dirigent::policy {

class RateBank {
 public:
  RateBank();
  // Learns from the next true value (>= 0).
  void record(double value);
  // What comes next: between 0 and the largest value of the history.
  [[nodiscard]] double predict() const;
  // The mean absolute error of the predictor that speaks, exponentially weighted.
  [[nodiscard]] double error() const;

 private:
  static constexpr std::array<double, 5> kRates{0.5, 0.2, 0.05, 0.01, 0.002};
  static constexpr std::array<std::size_t, 3> kWindows{10, 50, 100};

  struct Model {
    double rate;
    double bias = 0;
    double error = 0;
    std::vector<double> weights;
  };
  [[nodiscard]] double output(const Model& model) const;
  [[nodiscard]] const Model& best() const;

  std::array<double, kWindows.back()> history_{};  // newest first
  std::vector<Model> models_;
};

}  // namespace dirigent::policy
