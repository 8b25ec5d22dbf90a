// SPDX-License-Identifier: MIT
//
// What data planes say of their last calls (their admin port's /v1/calls and /v1/recent), and how a shell gets at it:
// the control plane knows the data planes and where their admin ports are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/ctl/verb.h"

namespace dirigent::cli {

struct DataPlaneRow {
  std::string id, invoke_address, admin_address;
};

struct CallRow {
  std::string call_id, function, revision, sandbox, node, reason;
  int status = 0;
  bool cold = false;
  std::int64_t started_us = 0, duration_us = 0;
  std::uint64_t bytes_in = 0, bytes_out = 0;
  std::uint32_t sandboxes_tried = 0;
  std::vector<std::pair<std::string, double>> phases_ms;  // in the order of Server-Timing
  std::string json;                                       // as it came
};
struct CallsAnswer {
  std::vector<CallRow> calls;
  std::string cursor;
};

struct RecentRow {
  std::string name, revision;  // name "": requests that named no function
  double rate = 0, cold_per_minute = 0;
  std::uint64_t count = 0, errors = 0, cold = 0, waiting = 0, in_flight = 0;
  std::vector<double> durations_ms;  // order statistics, ascending
};

struct ClusterRow {
  std::string version;
  double uptime_ms = 0;
};

// Errors: corrupt, when the text is not what the port answers.
Result<std::vector<DataPlaneRow>> read_data_planes(std::string_view body);
Result<CallsAnswer> read_calls(std::string_view body);
Result<std::vector<RecentRow>> read_recent(std::string_view body);
Result<ClusterRow> read_cluster(std::string_view body);

// The data planes that have an admin port. Says on stderr which have none; a failure when that is all of them.
Outcome<std::vector<DataPlaneRow>> planes_with_admin(VerbContext& context);
// Any exchange with a data plane's admin port.
Result<io::HttpResponse> exchange_with_plane(VerbContext& context, const DataPlaneRow& plane, std::string method, std::string target);
// The body of a 200 of a data plane's admin port. Failures name the data plane and say what to do.
Outcome<std::string> ask_plane(VerbContext& context, const DataPlaneRow& plane, std::string target);

}  // namespace dirigent::cli
