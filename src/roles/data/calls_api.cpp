// SPDX-License-Identifier: MIT
#include "roles/data/calls_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "dirigent/base/text.h"
#include "dirigent/io/http.h"
#include "roles/data/problem.h"

namespace dirigent::roles {

namespace {

constexpr std::size_t kLimitMax = 10'000;
constexpr std::size_t kPointsMax = 256;  // order statistics told per function

Result<bool> parse_flag(std::string_view name, std::string_view value) {
  if (value == "true" || value == "1" || value.empty()) return true;
  if (value == "false" || value == "0") return false;
  return failure(ErrorCode::invalid_argument, "{}=\"{}\" is neither true nor false", name, value);
}

Result<std::int64_t> parse_count(std::string_view name, std::string_view value, std::int64_t low, std::int64_t high) {
  const auto number = parse_integer(value);
  if (!number || *number < low || *number > high) {
    return failure(ErrorCode::invalid_argument, "{}=\"{}\" is not a number in {}..{}", name, value, low, high);
  }
  return *number;
}

void add(std::string& text, std::string_view key, std::string_view value) {
  text.append(",\"").append(key).append("\":");
  append_json_string(text, value);
}

std::string revision_text(std::string_view function, std::uint32_t revision) {
  return revision == 0 ? "" : revision_name(FunctionName{std::string(function)}, RevisionNumber{revision});
}

void add_call(std::string& text, const CallRecord& call) {
  text += "{\"call_id\":";
  append_json_string(text, call.call_id());
  add(text, "function", call.function());
  add(text, "revision", revision_text(call.function(), call.revision));
  add(text, "sandbox", call.sandbox == 0 ? "" : to_string(SandboxId{call.sandbox}));
  add(text, "node", call.node());
  add(text, "reason", call.why() == Reason::none ? "" : to_string(call.why()));
  fmt::format_to(std::back_inserter(text),
                 ",\"status\":{},\"cold\":{},\"started_us\":{},\"duration_us\":{},\"bytes_in\":{},\"bytes_out\":{},"
                 "\"sandboxes_tried\":{}",
                 call.status, call.cold, call.started_us, call.duration_us, call.bytes_in, call.bytes_out,
                 call.sandboxes_tried);
  text += ",\"phases_us\":{";
  bool first = true;
  for (std::size_t phase = 0; call.has_phases && phase < kPhases; ++phase) {
    const bool of_every_call =
        phase == static_cast<std::size_t>(Phase::queue) || phase >= static_cast<std::size_t>(Phase::proxy);
    if (!call.cold && !of_every_call) continue;
    fmt::format_to(std::back_inserter(text), "{}\"{}\":{}", first ? "" : ",", to_string(static_cast<Phase>(phase)),
                   call.phases_us[phase]);
    first = false;
  }
  text += "}}";
}

struct Sum {
  std::uint32_t revision = 0;
  std::uint64_t count = 0, errors = 0, cold = 0;
  double rate = 0;  // per second
  double cold_rate = 0;
  std::uint64_t waiting = 0, in_flight = 0;
  std::vector<std::uint32_t> durations_us;
};

std::map<std::string, Sum> add_up(const std::vector<RecentWindow>& shards, const std::vector<MetricsSnapshot>& loads) {
  std::map<std::string, Sum> sums;
  for (const RecentWindow& shard : shards) {
    // A busy shard's log may reach less far back than a quiet one's.
    const double seconds = std::max(to_seconds(shard.span), 1e-3);
    for (const auto& [function, calls] : shard.functions) {
      Sum& sum = sums[function];
      sum.revision = std::max(sum.revision, calls.revision.value);
      sum.count += calls.count;
      sum.errors += calls.errors;
      sum.cold += calls.cold;
      sum.rate += static_cast<double>(calls.count) / seconds;
      sum.cold_rate += static_cast<double>(calls.cold) / seconds;
      sum.durations_us.insert(sum.durations_us.end(), calls.durations_us.begin(), calls.durations_us.end());
    }
  }
  for (const MetricsSnapshot& shard : loads) {
    for (const auto& load : shard.loads) {
      if (load.waiting == 0 && load.in_flight == 0) continue;
      Sum& sum = sums[load.function.value];
      sum.waiting += load.waiting;
      sum.in_flight += load.in_flight;
    }
  }
  return sums;
}

}  // namespace

Result<CallsRequest> parse_calls_query(std::string_view query) {
  auto pairs = io::parse_form(query);
  if (!pairs) return failure(pairs.error());
  CallsRequest request;
  for (const auto& [name, value] : *pairs) {
    if (name == "id") {
      request.query.call_id = value;
    } else if (name == "function") {
      request.query.function = canonical_name(value);
    } else if (name == "errors" || name == "cold") {
      const Result<bool> flag = parse_flag(name, value);
      if (!flag) return failure(flag.error());
      (name == "errors" ? request.query.errors_only : request.query.cold_only) = *flag;
    } else if (name == "limit") {
      const auto limit = parse_count(name, value, 1, kLimitMax);
      if (!limit) return failure(limit.error());
      request.query.limit = static_cast<std::size_t>(*limit);
    } else if (name == "after") {
      for (const std::string_view part : split(value, '.')) {
        const auto sequence = parse_count(name, part, 0, INT64_MAX);
        if (!sequence) return failure(sequence.error());
        request.after.push_back(static_cast<std::uint64_t>(*sequence));
      }
    } else {
      return failure(ErrorCode::invalid_argument, "\"{}\" is unknown: use id, function, errors, cold, limit or after",
                     name);
    }
  }
  return request;
}

Result<Duration> parse_recent_query(std::string_view query) {
  auto pairs = io::parse_form(query);
  if (!pairs) return failure(pairs.error());
  Duration window = 10s;
  for (const auto& [name, value] : *pairs) {
    if (name != "window_ms") return failure(ErrorCode::invalid_argument, "\"{}\" is unknown: use window_ms", name);
    const auto number = parse_count(name, value, 1, 3'600'000);
    if (!number) return failure(number.error());
    window = *number * 1ms;
  }
  return window;
}

std::string calls_json(const DataPlane::Calls& calls, std::size_t limit) {
  std::vector<const CallRecord*> order;
  for (const auto& shard : calls.by_shard) {
    for (const CallRecord& call : shard) order.push_back(&call);
  }
  const auto end_of = [](const CallRecord* call) { return call->started_us + call->duration_us; };
  std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) { return end_of(a) < end_of(b); });
  if (order.size() > limit && calls.by_shard.size() > 1)
    order.erase(order.begin(), order.end() - static_cast<std::ptrdiff_t>(limit));
  std::string text = "{\"calls\":[";
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i > 0) text += ',';
    add_call(text, *order[i]);
  }
  text += "],\"cursor\":\"";
  for (std::size_t i = 0; i < calls.cursor.size(); ++i) {
    fmt::format_to(std::back_inserter(text), "{}{}", i == 0 ? "" : ".", calls.cursor[i]);
  }
  return text + "\"}\n";
}

std::string recent_json(const std::vector<RecentWindow>& shards, const std::vector<MetricsSnapshot>& loads,
                        Duration window) {
  std::string text = fmt::format("{{\"window_ms\":{},\"functions\":[", window / 1ms);
  bool first = true;
  for (auto& [function, sum] : add_up(shards, loads)) {
    text += first ? "{\"name\":" : ",{\"name\":";
    first = false;
    append_json_string(text, function);
    add(text, "revision", revision_text(function, sum.revision));
    fmt::format_to(std::back_inserter(text),
                   ",\"rate\":{:.3f},\"cold_per_minute\":{:.3f},\"count\":{},\"errors\":{},\"cold\":{},\"waiting\":{},"
                   "\"in_flight\":{},\"durations_us\":[",
                   sum.rate, sum.cold_rate * 60, sum.count, sum.errors, sum.cold, sum.waiting, sum.in_flight);
    // Evenly spaced order statistics with the extremes: enough for any quantile that a screen shows, and they can be
    // merged.
    std::vector<std::uint32_t> sorted = sum.durations_us;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t points = std::min(sorted.size(), kPointsMax);
    for (std::size_t i = 0; i < points; ++i) {
      const std::size_t at = points == 1 ? 0 : i * (sorted.size() - 1) / (points - 1);
      fmt::format_to(std::back_inserter(text), "{}{}", i == 0 ? "" : ",", sorted[at]);
    }
    text += "]}";
  }
  return text + "]}\n";
}

}  // namespace dirigent::roles
