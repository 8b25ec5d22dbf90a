// SPDX-License-Identifier: MIT
#include "cli/ctl/views.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace dirigent::cli {

namespace {

using Json = nlohmann::ordered_json;

template <class T>
void take(const Json& json, const char* name, T& out) {
  const auto found = json.find(name);
  if (found != json.end() && !found->is_null()) out = found->get<T>();
}
template <class T>
void take(const Json& json, const char* name, std::optional<T>& out) {
  const auto found = json.find(name);
  if (found != json.end() && !found->is_null()) out = found->get<T>();
}

// The templates below find these, whatever their order.
void read(const Json& json, EventRow& row);
void read(const Json& json, FunctionRow& row);
void read(const Json& json, NodeRow& row);
void read(const Json& json, LogRow& row);

void read(const Json& json, EndRow& row) {
  take(json, "cause", row.cause);
  take(json, "exit_code", row.exit_code);
  take(json, "signal", row.signal);
  take(json, "detail", row.detail);
  take(json, "last_output", row.last_output);
}
void read(const Json& json, ScalingRow& row) {
  take(json, "desired", row.desired);
  take(json, "stable_average", row.stable_average);
  take(json, "panic_average", row.panic_average);
  take(json, "target", row.target);
  take(json, "panicking", row.panicking);
  take(json, "note", row.note);
}
void read(const Json& json, SandboxRow& row) {
  take(json, "id", row.id);
  take(json, "state", row.state);
  take(json, "node", row.node);
  take(json, "address", row.address);
  take(json, "revision", row.revision);
  take(json, "age_ms", row.age_ms);
  if (const auto start = json.find("start"); start != json.end()) take(*start, "total_ms", row.start_ms);
}

template <class Row>
void read_rows(const Json& json, const char* name, std::vector<Row>& rows) {
  const auto found = json.find(name);
  if (found == json.end() || found->is_null()) return;
  for (const auto& element : *found) read(element, rows.emplace_back());
}
template <class Row>
void read_part(const Json& json, const char* name, std::optional<Row>& row) {
  const auto found = json.find(name);
  if (found != json.end() && !found->is_null()) read(*found, row.emplace());
}

void read(const Json& json, EventRow& row) {
  take(json, "sequence", row.sequence);
  take(json, "at_us", row.at_us);
  take(json, "kind", row.kind);
  take(json, "revision", row.revision);
  take(json, "text", row.text);
  read_part(json, "end", row.end);
}

void read(const Json& json, SpecRow& row) {
  take(json, "image", row.image);
  take(json, "scale_metric", row.scale_metric);
  take(json, "scale_min", row.scale_min);
  take(json, "scale_max", row.scale_max);
  take(json, "warm", row.warm);
  take(json, "concurrency_limit", row.concurrency_limit);
  take(json, "queue_depth", row.queue_depth);
  take(json, "scale_target", row.scale_target);
  take(json, "scale_utilization_percent", row.scale_utilization_percent);
  take(json, "scale_window_ms", row.scale_window_ms);
  take(json, "timeout_ms", row.timeout_ms);
  take(json, "first_byte_timeout_ms", row.first_byte_timeout_ms);
  take(json, "idle_timeout_ms", row.idle_timeout_ms);
  take(json, "queue_timeout_ms", row.queue_timeout_ms);
  take(json, "cpu_milli", row.cpu_milli);
  take(json, "memory_bytes", row.memory_bytes);
}

void read(const Json& json, FunctionRow& row) {
  take(json, "name", row.name);
  take(json, "url", row.url);
  take(json, "revision_name", row.revision_name);
  take(json, "created_at_us", row.created_at_us);
  take(json, "revision", row.revision);
  take(json, "serving", row.serving);
  take(json, "candidate", row.candidate);
  take(json, "manual_scale", row.manual_scale);
  if (const auto revisions = json.find("revisions"); revisions != json.end()) {
    for (const auto& revision : *revisions) {
      std::uint32_t number = 0;
      take(revision, "revision", number);
      row.newest_revision = std::max(row.newest_revision, number);
      if (number == row.revision && revision.contains("spec")) read(revision.at("spec"), row.spec);
    }
  }
  if (const auto status = json.find("status"); status != json.end()) {
    take(*status, "invocable", row.invocable);
    take(*status, "reason", row.reason);
    take(*status, "wanted", row.wanted);
    take(*status, "ready", row.ready);
    take(*status, "starting", row.starting);
    take(*status, "draining", row.draining);
    take(*status, "waiting", row.waiting);
    take(*status, "in_flight", row.in_flight);
    take(*status, "requests_per_second", row.requests_per_second);
    read_rows(*status, "sandboxes", row.sandboxes);
    read_part(*status, "last_scaling", row.last_scaling);
    read_part(*status, "last_failure", row.last_failure);
  }
  read_rows(json, "events", row.events);
}

void read(const Json& json, DeployedRow& row) {
  read(json, row.function);
  take(json, "deployed_revision", row.revision);
  take(json, "changed", row.changed);
  take(json, "event_sequence", row.event_sequence);
}

void read_amounts(const Json& json, const char* name, std::int64_t& cpu, std::int64_t& memory) {
  const auto found = json.find(name);
  if (found == json.end()) return;
  take(*found, "cpu_milli", cpu);
  take(*found, "memory_bytes", memory);
}

void read(const Json& json, NodeRow& row) {
  take(json, "name", row.name);
  take(json, "status", row.status);
  take(json, "runtime", row.runtime);
  take(json, "version", row.version);
  if (json.contains("labels")) row.labels = json.at("labels").get<std::map<std::string, std::string>>();
  read_amounts(json, "capacity", row.cpu_capacity, row.memory_capacity);
  read_amounts(json, "reserved", row.cpu_reserved, row.memory_reserved);
  read_amounts(json, "used", row.cpu_used, row.memory_used);
  take(json, "sandboxes", row.sandboxes);
  take(json, "last_heard_ms", row.last_heard_ms);
  take(json, "joined_for_ms", row.joined_for_ms);
  take(json, "start_p50_ms", row.start_p50_ms);
  take(json, "images", row.images);
  take(json, "failed_prefetches", row.failed_prefetches);
}

void read(const Json& json, LogRow& row) {
  take(json, "sandbox", row.sandbox);
  take(json, "node", row.node);
  take(json, "stream", row.stream);
  take(json, "text", row.text);
  take(json, "at_us", row.at_us);
}

// Runs `reader` on the parsed body; every mismatch becomes one error.
template <class T, class Reader>
Result<T> read_body(std::string_view body, Reader reader) {
  try {
    const Json json = Json::parse(body.begin(), body.end());
    T value;
    reader(json, value);
    return value;
  } catch (const nlohmann::json::exception& exception) {
    return failure(ErrorCode::corrupt,
                   "the control plane's answer cannot be read (is it another program, or another version?): {}",
                   exception.what());
  }
}

template <class Row>
Result<std::vector<Row>> read_list(std::string_view body, const char* name) {
  return read_body<std::vector<Row>>(body,
                                     [&](const Json& json, std::vector<Row>& rows) { read_rows(json, name, rows); });
}

}  // namespace

Problem read_problem(std::string_view body) {
  const auto problem = read_body<Problem>(body, [](const Json& json, Problem& out) {
    take(json, "reason", out.reason);
    take(json, "detail", out.detail);
    take(json, "hint", out.hint);
  });
  return problem.value_or(Problem{});
}

Result<FunctionRow> read_function(std::string_view body) {
  return read_body<FunctionRow>(body, [](const Json& json, FunctionRow& row) { read(json, row); });
}
Result<std::vector<FunctionRow>> read_functions(std::string_view body) {
  return read_list<FunctionRow>(body, "functions");
}
Result<DeployedRow> read_deployed(std::string_view body) {
  return read_body<DeployedRow>(body, [](const Json& json, DeployedRow& row) { read(json, row); });
}
Result<std::vector<EventRow>> read_events(std::string_view body) { return read_list<EventRow>(body, "events"); }
Result<std::vector<NodeRow>> read_nodes(std::string_view body) { return read_list<NodeRow>(body, "nodes"); }
Result<std::vector<LogRow>> read_logs(std::string_view body) { return read_list<LogRow>(body, "lines"); }
Result<std::vector<std::string>> read_lines(std::string_view body) {
  using Lines = std::vector<std::string>;
  return read_body<Lines>(body, [](const Json& json, Lines& lines) { lines = json.at("lines").get<Lines>(); });
}
Result<std::vector<std::string>> read_names(std::string_view body) {
  using Names = std::vector<std::string>;
  return read_body<Names>(body, [](const Json& json, Names& names) { names = json.at("names").get<Names>(); });
}

std::string pretty_json(std::string_view body) {
  const Json json = Json::parse(body.begin(), body.end(), nullptr, false);
  if (json.is_discarded()) return std::string(body);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string quoted_json(std::string_view text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace dirigent::cli
