// SPDX-License-Identifier: MIT
#include "dirigent/io/prometheus.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "dirigent/base/assert.h"

namespace dirigent::io {

namespace {

bool is_name(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  if (name.empty() || !letter(name.front())) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

// The format escapes backslash and line feed everywhere, and the quote inside label values.
void append_escaped(std::string& out, std::string_view text, bool quoted) {
  for (const char c : text) {
    if (c == '\\') {
      out += "\\\\";
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '"' && quoted) {
      out += "\\\"";
    } else {
      out += c;
    }
  }
}

void append_value(std::string& out, double value) {
  if (std::isnan(value)) {
    out += "NaN";
  } else if (std::isinf(value)) {
    out += value > 0 ? "+Inf" : "-Inf";
  } else if (value == std::floor(value) && std::fabs(value) < 9007199254740992.0) {  // 2^53: exact as an integer
    fmt::format_to(std::back_inserter(out), "{}", static_cast<std::int64_t>(value));
  } else {
    fmt::format_to(std::back_inserter(out), "{}", value);
  }
}

}  // namespace

void PrometheusWriter::begin(std::string_view name, std::string_view type, std::string_view help) {
  if (name == current_) return;
  ASSERT(is_name(name), "\"{}\" is not a metric name", name);
  ASSERT(finished_.find(name) == finished_.end(), "metric {} is taken up again after another one", name);
  if (!current_.empty()) finished_.insert(current_);
  current_ = std::string(name);
  fmt::format_to(std::back_inserter(text_), "# HELP {} ", name);
  append_escaped(text_, help, false);
  fmt::format_to(std::back_inserter(text_), "\n# TYPE {} {}\n", name, type);
}

void PrometheusWriter::sample(std::string_view name, std::string_view suffix, Labels labels, std::string_view bound,
                              double value) {
  text_ += name;
  text_ += suffix;
  char separator = '{';
  const auto label = [&](std::string_view label_name, std::string_view label_value) {
    ASSERT(is_name(label_name), "\"{}\" is not a label name", label_name);
    text_ += std::exchange(separator, ',');
    text_ += label_name;
    text_ += "=\"";
    append_escaped(text_, label_value, true);
    text_ += '"';
  };
  for (const auto& [label_name, label_value] : labels) label(label_name, label_value);
  if (!bound.empty()) label("le", bound);
  if (separator == ',') text_ += '}';
  text_ += ' ';
  append_value(text_, value);
  text_ += '\n';
}

void PrometheusWriter::counter(std::string_view name, std::string_view help, double value, Labels labels) {
  begin(name, "counter", help);
  sample(name, "", labels, "", value);
}

void PrometheusWriter::gauge(std::string_view name, std::string_view help, double value, Labels labels) {
  begin(name, "gauge", help);
  sample(name, "", labels, "", value);
}

void PrometheusWriter::histogram(std::string_view name, std::string_view help, const Histogram& nanoseconds,
                                 std::span<const double> bounds, Labels labels) {
  begin(name, "histogram", help);
  ASSERT(std::is_sorted(bounds.begin(), bounds.end()), "bounds of {} are not ascending", name);
  for (const double bound : bounds) {
    const auto at_most = nanoseconds.count_at_most(from_seconds(bound).count());
    sample(name, "_bucket", labels, fmt::format("{}", bound), static_cast<double>(at_most));
  }
  sample(name, "_bucket", labels, "+Inf", static_cast<double>(nanoseconds.count()));
  sample(name, "_sum", labels, "", nanoseconds.sum() / 1e9);
  sample(name, "_count", labels, "", static_cast<double>(nanoseconds.count()));
}

HttpResponse prometheus_response(std::string text) {
  HttpResponse response;
  response.headers.emplace_back("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  response.body = std::move(text);
  return response;
}

}  // namespace dirigent::io
