// SPDX-License-Identifier: MIT
//
// The figures of `dirigent ctl top`, put together from what the data planes and the control plane say, and their
// picture. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/ctl/trace_views.h"
#include "cli/ctl/views.h"

namespace dirigent::cli {

struct TopRow {
  std::string name, revision;
  double rate = 0;  // requests a second
  std::uint64_t in_flight = 0, waiting = 0;
  std::uint32_t sandboxes = 0, wanted = 0;
  std::string mode;  // "panic", "stable", "fixed"; "" when the control plane does not know the function
  double p50_ms = 0, p99_ms = 0;
  double cold_per_minute = 0;
  double errors_percent = 0;
};

enum class TopOrder { rate, p99, errors, waiting };
Result<TopOrder> parse_top_order(std::string_view word);

// `planes`: one answer per data plane. Functions without traffic and without sandboxes are left out. Busiest first.
std::vector<TopRow> top_rows(const std::vector<std::vector<RecentRow>>& planes,
                             const std::vector<FunctionRow>& functions, TopOrder order);

struct TopFrame {
  ClusterRow cluster;
  std::vector<NodeRow> nodes;
  std::vector<TopRow> rows;
};
// At most `rows_max` functions; says how many are not shown.
std::string draw_top(const TopFrame& frame, std::size_t rows_max, bool headers);
std::string top_json(const TopFrame& frame);

// Of order statistics of several populations, each standing for so many calls.
struct Weighted {
  double value = 0;
  double weight = 0;
};
double weighted_quantile(std::vector<Weighted> points, double q);

}  // namespace dirigent::cli
