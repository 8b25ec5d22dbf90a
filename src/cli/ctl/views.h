// SPDX-License-Identifier: MIT
//
// The answers of the control plane's API as plain values, so that JSON stays in one file. Reading is lenient: a field
// that an older or newer server does not send keeps its default.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::cli {

struct Problem {
  std::string reason;
  std::string detail;
  std::string hint;
};
// Empty when `body` is not a problem document.
Problem read_problem(std::string_view body);

struct EndRow {
  std::string cause;
  int exit_code = 0;
  int signal = 0;
  std::string detail;
  std::string last_output;
};

struct EventRow {
  std::uint64_t sequence = 0;
  std::int64_t at_us = 0;
  std::string kind;
  std::optional<std::uint32_t> revision;
  std::string text;
  std::optional<EndRow> end;
};

struct SandboxRow {
  std::string id, state, node, address;
  std::uint32_t revision = 0;
  double age_ms = 0;
  double start_ms = 0;  // all phases
};

struct ScalingRow {
  std::optional<std::uint32_t> desired;
  double stable_average = 0, panic_average = 0, target = 0;
  bool panicking = false;
  std::string note;
};

struct SpecRow {
  std::string image, scale_metric;
  std::uint32_t scale_min = 0, scale_max = 0, warm = 0, concurrency_limit = 0, queue_depth = 0;
  std::optional<double> scale_target;
  double scale_utilization_percent = 0, scale_window_ms = 0;
  double timeout_ms = 0, first_byte_timeout_ms = 0, idle_timeout_ms = 0, queue_timeout_ms = 0;
  std::int64_t cpu_milli = 0, memory_bytes = 0;
};

struct FunctionRow {
  std::string name, url, revision_name;
  std::int64_t created_at_us = 0;
  std::uint32_t revision = 0;          // shown: the one that serves, else the newest
  std::uint32_t newest_revision = 0;
  std::optional<std::uint32_t> serving, candidate, manual_scale;
  SpecRow spec;                        // of `revision`
  bool invocable = false;
  std::string reason;
  std::uint32_t wanted = 0, ready = 0, starting = 0, draining = 0, waiting = 0, in_flight = 0;
  double requests_per_second = 0;
  std::vector<SandboxRow> sandboxes;
  std::optional<ScalingRow> last_scaling;
  std::optional<EndRow> last_failure;
  std::vector<EventRow> events;
};

struct DeployedRow {
  FunctionRow function;
  std::uint32_t revision = 0;
  bool changed = true;
  std::uint64_t event_sequence = 0;
};

struct NodeRow {
  std::string name, status, runtime, version;
  std::map<std::string, std::string> labels;
  std::int64_t cpu_capacity = 0, cpu_reserved = 0, cpu_used = 0;           // milli
  std::int64_t memory_capacity = 0, memory_reserved = 0, memory_used = 0;  // bytes
  std::uint32_t sandboxes = 0;
  double last_heard_ms = 0, joined_for_ms = 0, start_p50_ms = 0;
  std::vector<std::string> images;
  std::map<std::string, std::string> failed_prefetches;
};

struct LogRow {
  std::string sandbox, node, stream, text;
  std::int64_t at_us = 0;
};

// Errors: corrupt, when the text is not what the API answers.
Result<FunctionRow> read_function(std::string_view body);
Result<std::vector<FunctionRow>> read_functions(std::string_view body);
Result<DeployedRow> read_deployed(std::string_view body);
Result<std::vector<EventRow>> read_events(std::string_view body);
Result<std::vector<NodeRow>> read_nodes(std::string_view body);
Result<std::vector<LogRow>> read_logs(std::string_view body);
Result<std::vector<std::string>> read_lines(std::string_view body);  // of an explanation
Result<std::vector<std::string>> read_names(std::string_view body);

// Indented, for -o json.
std::string pretty_json(std::string_view body);
// A string as JSON.
std::string quoted_json(std::string_view text);

}  // namespace dirigent::cli
