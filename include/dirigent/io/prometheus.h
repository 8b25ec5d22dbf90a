// SPDX-License-Identifier: MIT
//
// Writes the Prometheus text format (version 0.0.4) for `/metrics` of every role. One writer per scrape.
//
//   PrometheusWriter metrics;
//   metrics.counter("dirigent_requests_total", "Requests answered.", total, {{"function", "hello"}});
//   metrics.histogram("dirigent_start_seconds", "Launch to ready.", starts, kStartBounds);
//   return metrics.take();
#pragma once

#include <initializer_list>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "dirigent/base/histogram.h"
#include "dirigent/io/http.h"

namespace dirigent::io {

class PrometheusWriter {
 public:
  using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

  // The samples of one name follow each other, because the format wants them in one group.
  // REQUIRES: `name` and label names match [a-zA-Z_][a-zA-Z0-9_]*; a name is not taken up again after another one.
  void counter(std::string_view name, std::string_view help, double value, Labels labels = {});
  void gauge(std::string_view name, std::string_view help, double value, Labels labels = {});
  // `nanoseconds` holds durations. `bounds` are upper bounds in seconds, ascending, without +Inf, which is added. A
  // bucket is as exact as the histogram: a bound is off by less than 1/64 of itself.
  void histogram(std::string_view name, std::string_view help, const Histogram& nanoseconds,
                 std::span<const double> bounds, Labels labels = {});

  [[nodiscard]] const std::string& text() const { return text_; }
  std::string take() { return std::move(text_); }

 private:
  void begin(std::string_view name, std::string_view type, std::string_view help);
  void sample(std::string_view name, std::string_view suffix, Labels labels, std::string_view bound, double value);

  std::string text_;
  std::string current_;
  std::set<std::string, std::less<>> finished_;
};

// 200 with the content type that scrapers expect.
HttpResponse prometheus_response(std::string text);

}  // namespace dirigent::io
