// SPDX-License-Identifier: MIT
#include "dirigent/io/prometheus.h"

#include <array>
#include <cmath>

#include "catch.h"

using namespace dirigent;
using namespace dirigent::io;

TEST_CASE("prometheus: samples of one name share one header, and text is escaped") {
  PrometheusWriter metrics;
  metrics.counter("a_total", "Help with \\ and\nlines \"quoted\".", 3, {{"function", "he\"l\\l\no"}});
  metrics.counter("a_total", "Help with \\ and\nlines \"quoted\".", 4, {{"function", "b"}, {"node", "n"}});
  metrics.gauge("b", "B.", 0.25);
  metrics.gauge("c", "C.", std::nan(""));
  CHECK(metrics.text() ==
        "# HELP a_total Help with \\\\ and\\nlines \"quoted\".\n"
        "# TYPE a_total counter\n"
        "a_total{function=\"he\\\"l\\\\l\\no\"} 3\n"
        "a_total{function=\"b\",node=\"n\"} 4\n"
        "# HELP b B.\n"
        "# TYPE b gauge\n"
        "b 0.25\n"
        "# HELP c C.\n"
        "# TYPE c gauge\n"
        "c NaN\n");
}

TEST_CASE("prometheus: a histogram is cumulative and in seconds") {
  Histogram durations;
  durations.record(5ms);
  durations.record(50ms);
  durations.record(50ms);
  durations.record(5s);
  constexpr std::array<double, 3> bounds = {0.01, 0.1, 1};
  PrometheusWriter metrics;
  metrics.histogram("start_seconds", "Starts.", durations, bounds, {{"node", "n"}});
  CHECK(metrics.text() ==
        "# HELP start_seconds Starts.\n"
        "# TYPE start_seconds histogram\n"
        "start_seconds_bucket{node=\"n\",le=\"0.01\"} 1\n"
        "start_seconds_bucket{node=\"n\",le=\"0.1\"} 3\n"
        "start_seconds_bucket{node=\"n\",le=\"1\"} 3\n"
        "start_seconds_bucket{node=\"n\",le=\"+Inf\"} 4\n"
        "start_seconds_sum{node=\"n\"} 5.105\n"
        "start_seconds_count{node=\"n\"} 4\n");
}

TEST_CASE("prometheus: large counters stay exact") {
  PrometheusWriter metrics;
  metrics.counter("a", "A.", 123456789012.0);
  CHECK(metrics.text().ends_with("a 123456789012\n"));
  CHECK(find_header(prometheus_response("").headers, "content-type") == "text/plain; version=0.0.4; charset=utf-8");
}
