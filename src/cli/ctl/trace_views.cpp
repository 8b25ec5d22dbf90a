// SPDX-License-Identifier: MIT
#include "cli/ctl/trace_views.h"

#include <algorithm>

#include "cli/ctl/view_reading.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

void read_call(const Json& json, CallRow& row) {
  take(json, "call_id", row.call_id);
  take(json, "function", row.function);
  take(json, "revision", row.revision);
  take(json, "sandbox", row.sandbox);
  take(json, "node", row.node);
  take(json, "reason", row.reason);
  take(json, "status", row.status);
  take(json, "cold", row.cold);
  take(json, "started_us", row.started_us);
  take(json, "duration_us", row.duration_us);
  take(json, "bytes_in", row.bytes_in);
  take(json, "bytes_out", row.bytes_out);
  take(json, "sandboxes_tried", row.sandboxes_tried);
  if (const auto phases = json.find("phases_us"); phases != json.end()) {
    for (const auto& [name, us] : phases->items()) row.phases_ms.emplace_back(name, us.get<double>() / 1000);
  }
  row.json = json.dump();
}

void read_recent_row(const Json& json, RecentRow& row) {
  take(json, "name", row.name);
  take(json, "revision", row.revision);
  take(json, "rate", row.rate);
  take(json, "cold_per_minute", row.cold_per_minute);
  take(json, "count", row.count);
  take(json, "errors", row.errors);
  take(json, "cold", row.cold);
  take(json, "waiting", row.waiting);
  take(json, "in_flight", row.in_flight);
  take(json, "durations_us", row.durations_ms);
  for (double& duration : row.durations_ms) duration /= 1000;
}

// An admin port on every address of its machine is at the machine's own: the one that clients use.
std::string reachable_address(const DataPlaneRow& plane) {
  const std::size_t colon = plane.admin_address.rfind(':');
  const std::string host = plane.admin_address.substr(0, colon);
  if (host != "0.0.0.0" && host != "[::]") return plane.admin_address;
  return plane.invoke_address.substr(0, plane.invoke_address.rfind(':')) + plane.admin_address.substr(colon);
}

}  // namespace

Result<std::vector<DataPlaneRow>> read_data_planes(std::string_view body) {
  return parsed<std::vector<DataPlaneRow>>(body, "a list of data planes", [](const Json& json, auto& rows) {
    for (const auto& element : json.at("data_planes")) {
      DataPlaneRow& row = rows.emplace_back();
      take(element, "id", row.id);
      take(element, "invoke_address", row.invoke_address);
      take(element, "admin_address", row.admin_address);
    }
  });
}

Result<CallsAnswer> read_calls(std::string_view body) {
  return parsed<CallsAnswer>(body, "a list of calls", [](const Json& json, CallsAnswer& answer) {
    for (const auto& element : json.at("calls")) read_call(element, answer.calls.emplace_back());
    take(json, "cursor", answer.cursor);
  });
}

Result<std::vector<RecentRow>> read_recent(std::string_view body) {
  return parsed<std::vector<RecentRow>>(body, "what became of recent calls", [](const Json& json, auto& rows) {
    for (const auto& element : json.at("functions")) read_recent_row(element, rows.emplace_back());
  });
}

Result<ClusterRow> read_cluster(std::string_view body) {
  return parsed<ClusterRow>(body, "a description of the cluster", [](const Json& json, ClusterRow& row) {
    take(json, "version", row.version);
    take(json, "uptime_ms", row.uptime_ms);
  });
}

Outcome<std::vector<DataPlaneRow>> planes_with_admin(VerbContext& context) {
  auto body = context.client.call("GET", "/v1/data-planes");
  if (!body) return tl::unexpected(body.error());
  auto planes = read_data_planes(*body);
  if (!planes) return tl::unexpected(failure_of(planes.error()));
  if (planes->empty()) {
    return tl::unexpected(
        failure_of(Error{ErrorCode::unavailable, "no data plane is connected: there are no calls to show"},
                   {"start one:  dirigent data"}));
  }
  std::erase_if(*planes, [&](const DataPlaneRow& plane) {
    if (!plane.admin_address.empty()) return false;
    context.terminal.talk("data plane {} has no admin port, its calls cannot be read (set data.admin_listen)\n",
                          printable(plane.id));
    return true;
  });
  if (planes->empty())
    return tl::unexpected(failure_of(Error{ErrorCode::unavailable, "no data plane has an admin port"}));
  return std::move(*planes);
}

Result<io::HttpResponse> exchange_with_plane(VerbContext& context, const DataPlaneRow& plane, std::string method, std::string target) {
  io::HttpCall call;
  call.server = reachable_address(plane);
  call.method = std::move(method);
  call.target = std::move(target);
  call.timeout = 10s;
  call.headers.emplace_back("User-Agent", "dirigent-ctl");
  return context.client.exchange(std::move(call));
}

Outcome<std::string> ask_plane(VerbContext& context, const DataPlaneRow& plane, std::string target) {
  auto response = exchange_with_plane(context, plane, "GET", std::move(target));
  if (!response) {
    Error error = response.error().within(fmt::format("data plane {}", plane.id));
    return tl::unexpected(
        Failure{std::move(error),
                {"an admin port listens on its own machine only, unless data.admin_listen says otherwise"},
                4});
  }
  if (response->status != 200) {
    return tl::unexpected(
        failure_of(Error{ErrorCode::invalid_argument, fmt::format("data plane {} answered {}: {}", plane.id,
                                                                  response->status, trim(response->body))}));
  }
  return std::move(response->body);
}

}  // namespace dirigent::cli
