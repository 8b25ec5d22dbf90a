// SPDX-License-Identifier: MIT
//
// The last calls as the admin port of a data plane tells them: GET /v1/calls and GET /v1/recent, in JSON.
//
//   /v1/calls?id=ID&function=NAME&errors=true&cold=true&limit=N   the newest that match, the oldest of them first
//   /v1/calls?after=CURSOR&...                                    those that ended since the answer with this cursor
//   /v1/recent?window_ms=N                                        rates, quantiles and waiting requests by function
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "roles/data/call_log.h"
#include "roles/data/data_plane.h"
#include "roles/data/metrics.h"

namespace dirigent::roles {

struct CallsRequest {
  CallQuery query;
  std::vector<std::uint64_t> after;  // empty: the newest
};
// Errors: invalid_argument names the parameter.
Result<CallsRequest> parse_calls_query(std::string_view query);
Result<Duration> parse_recent_query(std::string_view query);

std::string calls_json(const DataPlane::Calls& calls, std::size_t limit);
// `loads`: who waits and who is in flight now.
std::string recent_json(const std::vector<RecentWindow>& shards, const std::vector<MetricsSnapshot>& loads,
                        Duration window);

}  // namespace dirigent::roles
