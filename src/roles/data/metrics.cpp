// SPDX-License-Identifier: MIT
#include "roles/data/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace dirigent::roles {

namespace {

constexpr std::array<std::string_view, kPhases> kPhaseNames{"queue", "schedule", "create", "network", "start",
                                                            "probe", "route",    "proxy",  "fn"};
using Out = std::back_insert_iterator<std::string>;

// fn="hello",ns="default"
std::string function_labels(const FunctionName& function) {
  const std::string& name = function.value;
  const std::size_t dot = name.find('.');
  return fmt::format("fn=\"{}\",ns=\"{}\"", name.substr(0, dot), dot == std::string::npos ? "default" : name.substr(dot + 1));
}

void render_histogram(Out out, std::string_view name, std::string_view labels, const LatencyHistogram& histogram) {
  if (histogram.count == 0) return;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < LatencyHistogram::kBoundsUs.size(); ++i) {
    total += histogram.counts[i];
    fmt::format_to(out, "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels,
                   static_cast<double>(LatencyHistogram::kBoundsUs[i]) / 1e6, total);
  }
  fmt::format_to(out, "{}_bucket{{{},le=\"+Inf\"}} {}\n", name, labels, histogram.count);
  fmt::format_to(out, "{}_sum{{{}}} {}\n", name, labels, static_cast<double>(histogram.sum_ns) / 1e9);
  fmt::format_to(out, "{}_count{{{}}} {}\n", name, labels, histogram.count);
}

void render_type(Out out, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(out, "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

struct Total {
  std::string labels;  // of the function
  RevisionMetrics metrics;
  [[nodiscard]] std::string revision_labels() const {
    return metrics.revision.value == 0 ? labels + ",rev=\"\""
                                       : fmt::format("{},rev=\"{}\"", labels, revision_name(metrics.function, metrics.revision));
  }
};

// Adds up the shards, then all but the busiest functions.
std::vector<Total> add_up(std::vector<MetricsSnapshot>& shards, std::size_t functions_max) {
  std::map<std::pair<FunctionName, RevisionNumber>, RevisionMetrics> revisions;
  std::map<FunctionName, std::uint64_t> busy;
  for (MetricsSnapshot& shard : shards) {
    for (RevisionMetrics& metrics : shard.revisions) {
      busy[metrics.function] += metrics.started;
      auto [place, fresh] = revisions.try_emplace({metrics.function, metrics.revision});
      if (fresh) {
        place->second = std::move(metrics);
      } else {
        place->second.merge(metrics);
      }
    }
  }
  std::vector<std::pair<std::uint64_t, FunctionName>> order;
  for (const auto& [function, started] : busy) order.emplace_back(started, function);
  std::sort(order.begin(), order.end(), std::greater<>());
  std::map<FunctionName, bool> kept;
  for (std::size_t i = 0; i < order.size() && i < functions_max; ++i) kept[order[i].second] = true;

  std::vector<Total> totals;
  Total other;
  other.labels = "fn=\"_other\",ns=\"\"";
  bool any_other = false;
  for (auto& [key, metrics] : revisions) {
    if (kept.contains(key.first) && key.first.value != "_other") {
      totals.push_back(Total{function_labels(key.first), std::move(metrics)});
    } else {
      other.metrics.merge(metrics);
      any_other = true;
    }
  }
  if (any_other) totals.push_back(std::move(other));
  return totals;
}

void render_requests(Out out, const std::vector<Total>& totals) {
  render_type(out, "dirigent_requests_started_total", "counter", "Requests whose head has arrived.");
  for (const Total& total : totals) {
    fmt::format_to(out, "dirigent_requests_started_total{{{}}} {}\n", total.revision_labels(), total.metrics.started);
  }
  render_type(out, "dirigent_requests_total", "counter", "Requests answered, by status and the platform's reason.");
  for (const Total& total : totals) {
    for (const auto& [key, times] : total.metrics.answered) {
      fmt::format_to(out, "dirigent_requests_total{{{},code=\"{}\",reason=\"{}\"}} {}\n", total.revision_labels(), key.first,
                     key.second == Reason::none ? "" : to_string(key.second), times);
    }
  }
  render_type(out, "dirigent_request_seconds", "histogram", "From the request's head to the last byte of the response.");
  for (const Total& total : totals) {
    render_histogram(out, "dirigent_request_seconds", total.revision_labels() + ",cold=\"no\"", total.metrics.warm);
    render_histogram(out, "dirigent_request_seconds", total.revision_labels() + ",cold=\"yes\"", total.metrics.cold);
  }
  render_type(out, "dirigent_queue_wait_seconds", "histogram", "Waiting for a slot, of the requests that had to.");
  for (const Total& total : totals) {
    render_histogram(out, "dirigent_queue_wait_seconds", total.labels, total.metrics.queue_wait);
  }
  render_type(out, "dirigent_phase_seconds", "histogram", "The phases of Server-Timing; those of a start for cold requests only.");
  for (const Total& total : totals) {
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      render_histogram(out, "dirigent_phase_seconds", fmt::format("phase=\"{}\",{}", kPhaseNames[phase], total.labels),
                       total.metrics.phases[phase]);
    }
  }
}

void render_loads(Out out, const std::vector<MetricsSnapshot>& shards, const std::vector<Total>& totals) {
  std::map<FunctionName, std::pair<std::uint64_t, std::uint64_t>> loads;
  for (const Total& total : totals) loads[total.metrics.function];
  std::pair<std::uint64_t, std::uint64_t> other;
  for (const MetricsSnapshot& shard : shards) {
    for (const auto& load : shard.loads) {
      const auto known = loads.find(load.function);
      auto& sum = known == loads.end() ? other : known->second;
      sum.first += load.waiting;
      sum.second += load.in_flight;
    }
  }
  render_type(out, "dirigent_queue_depth", "gauge", "Requests waiting for a slot.");
  for (const auto& [function, load] : loads) {
    if (!function.empty()) fmt::format_to(out, "dirigent_queue_depth{{{}}} {}\n", function_labels(function), load.first);
  }
  fmt::format_to(out, "dirigent_queue_depth{{fn=\"_other\",ns=\"\"}} {}\n", other.first);
  render_type(out, "dirigent_inflight", "gauge", "Requests in sandboxes.");
  for (const auto& [function, load] : loads) {
    if (!function.empty()) fmt::format_to(out, "dirigent_inflight{{{}}} {}\n", function_labels(function), load.second);
  }
  fmt::format_to(out, "dirigent_inflight{{fn=\"_other\",ns=\"\"}} {}\n", other.second);
}

}  // namespace

void LatencyHistogram::record(Duration duration) {
  const std::int64_t us = duration.count() / 1000;
  std::size_t bucket = 0;
  while (bucket < kBoundsUs.size() && us > kBoundsUs[bucket]) ++bucket;
  ++counts[bucket];
  ++count;
  sum_ns += duration.count();
}

void LatencyHistogram::merge(const LatencyHistogram& other) {
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  count += other.count;
  sum_ns += other.sum_ns;
}

std::string_view to_string(Phase phase) { return kPhaseNames[static_cast<std::size_t>(phase)]; }

void RevisionMetrics::count_answer(int status, Reason reason) {
  const std::pair<std::uint16_t, Reason> key{static_cast<std::uint16_t>(status), reason};
  for (auto& [known, times] : answered) {
    if (known == key) {
      ++times;
      return;
    }
  }
  answered.emplace_back(key, 1);
}

void RevisionMetrics::merge(const RevisionMetrics& other) {
  started += other.started;
  for (const auto& [key, times] : other.answered) {
    auto known = std::find_if(answered.begin(), answered.end(), [&](const auto& entry) { return entry.first == key; });
    if (known == answered.end()) {
      answered.emplace_back(key, times);
    } else {
      known->second += times;
    }
  }
  warm.merge(other.warm);
  cold.merge(other.cold);
  queue_wait.merge(other.queue_wait);
  for (std::size_t i = 0; i < kPhases; ++i) phases[i].merge(other.phases[i]);
}

ShardMetrics::ShardMetrics() { other_.function = FunctionName{"_other"}; }

RevisionMetrics* ShardMetrics::of(const core::RoutedFunction& function) {
  auto known = by_function_.find(function.shared);
  if (known != by_function_.end() && known->second->revision == function.route.revision) return known->second;
  if (by_name_.size() >= kRevisionsMax && !by_name_.contains({function.route.function, function.route.revision})) {
    return &other_;
  }
  std::unique_ptr<RevisionMetrics>& place = by_name_[{function.route.function, function.route.revision}];
  if (!place) {
    place = std::make_unique<RevisionMetrics>();
    place->function = function.route.function;
    place->revision = function.route.revision;
  }
  by_function_[function.shared] = place.get();
  return place.get();
}

std::vector<RevisionMetrics> ShardMetrics::copy() const {
  std::vector<RevisionMetrics> all;
  all.reserve(by_name_.size() + 2);
  for (const auto& [key, metrics] : by_name_) all.push_back(*metrics);
  if (unrouted_.started > 0) all.push_back(unrouted_);
  if (other_.started > 0) all.push_back(other_);
  return all;
}

std::string render_metrics(std::vector<MetricsSnapshot> shards, std::size_t functions_max, std::size_t sandboxes,
                           std::string_view version) {
  std::string text;
  Out out(text);
  const std::vector<Total> totals = add_up(shards, functions_max);
  render_requests(out, totals);
  render_loads(out, shards, totals);
  MetricsSnapshot sum;
  for (const MetricsSnapshot& shard : shards) {
    sum.connections += shard.connections;
    sum.connections_accepted += shard.connections_accepted;
    sum.connections_refused += shard.connections_refused;
    sum.upstream_connects += shard.upstream_connects;
    sum.upstream_reuses += shard.upstream_reuses;
    sum.upstream_retries += shard.upstream_retries;
    sum.http2_connections += shard.http2_connections;
    sum.http2_floods += shard.http2_floods;
    sum.memory_in_use = std::max(sum.memory_in_use, shard.memory_in_use);
  }
  const auto single = [&](std::string_view name, std::string_view type, std::string_view help, std::uint64_t value) {
    render_type(out, name, type, help);
    fmt::format_to(out, "{} {}\n", name, value);
  };
  single("dirigent_client_connections", "gauge", "Open client connections.", sum.connections);
  single("dirigent_client_connections_total", "counter", "Client connections accepted.", sum.connections_accepted);
  single("dirigent_client_connections_refused_total", "counter", "Client connections over the limit.", sum.connections_refused);
  single("dirigent_http2_connections_total", "counter", "Client connections that speak HTTP/2.", sum.http2_connections);
  single("dirigent_http2_floods_total", "counter", "HTTP/2 connections ended for flooding.", sum.http2_floods);
  single("dirigent_request_memory_bytes", "gauge", "Memory that requests and their buffers hold.", sum.memory_in_use);
  single("dirigent_sandbox_connects_total", "counter", "Connections made to sandboxes.", sum.upstream_connects);
  single("dirigent_sandbox_connection_reuses_total", "counter", "Requests sent on a kept connection.", sum.upstream_reuses);
  single("dirigent_request_retries_total", "counter", "Requests sent again because none of it had reached a sandbox.",
         sum.upstream_retries);
  render_type(out, "dirigent_sandboxes", "gauge", "Sandboxes in the routes of this data plane.");
  fmt::format_to(out, "dirigent_sandboxes{{state=\"ready\"}} {}\n", sandboxes);
  render_type(out, "dirigent_build_info", "gauge", "Always 1.");
  fmt::format_to(out, "dirigent_build_info{{version=\"{}\"}} 1\n", version);
  return text;
}

}  // namespace dirigent::roles
