// SPDX-License-Identifier: MIT
#include "cli/ctl/async_views.h"

#include <fmt/format.h>

#include "cli/ctl/view_reading.h"
#include "dirigent/base/time.h"

namespace dirigent::cli {

namespace {

void read_call(const Json& json, AsyncCallRow& row) {
  take(json, "id", row.id);
  take(json, "function", row.function);
  take(json, "state", row.state);
  take(json, "end", row.end);
  take(json, "reason", row.reason);
  take(json, "callback", row.callback);
  take(json, "status", row.status);
  take(json, "attempts", row.attempts);
  take(json, "attempts_max", row.attempts_max);
  take(json, "callback_status", row.callback_status);
  take(json, "callback_attempts", row.callback_attempts);
  take(json, "age_ms", row.age_ms);
  take(json, "due_in_ms", row.due_in_ms);
  take(json, "waited_ms", row.waited_ms);
  take(json, "ran_ms", row.ran_ms);
  take(json, "accepted_at_us", row.accepted_at_us);
  take(json, "request_bytes", row.request_bytes);
  take(json, "result_bytes", row.result_bytes);
  take(json, "truncated", row.truncated);
  take(json, "request_head", row.request_head);
  take(json, "request_body", row.request_body);
  take(json, "request_problem", row.request_problem);
  take(json, "callback_url", row.callback_url);
  take(json, "answer", row.answer);
  row.json = json.dump();
}

std::string milliseconds(double ms) {
  return ms < 1000 ? fmt::format("{:.1f} ms", ms) : format_duration(from_seconds(ms / 1000));
}

}  // namespace

Result<AsyncAnswer> read_async(std::string_view body) {
  return parsed<AsyncAnswer>(body, "about asynchronous calls", [](const Json& json, AsyncAnswer& answer) {
    for (const auto& element : json.at("calls")) read_call(element, answer.calls.emplace_back());
    for (const auto& element : json.at("stores")) {
      AsyncStoreRow& row = answer.stores.emplace_back();
      take(element, "store", row.store);
      take(element, "directory", row.directory);
      take(element, "problem", row.problem);
      take(element, "adopted", row.adopted);
      take(element, "calls", row.calls);
      take(element, "disk_bytes", row.disk_bytes);
      take(element, "live_bytes", row.live_bytes);
      take(element, "damaged_bytes", row.damaged_bytes);
      take(element, "findings", row.findings);
    }
  });
}

Result<AsyncCallRow> read_async_call(std::string_view body) {
  return parsed<AsyncCallRow>(body, "about asynchronous calls", [](const Json& json, AsyncCallRow& row) { read_call(json, row); });
}

Result<ChangedAnswer> read_changed(std::string_view body) {
  return parsed<ChangedAnswer>(body, "about asynchronous calls", [](const Json& json, ChangedAnswer& answer) {
    take(json, "changed", answer.changed);
    take(json, "attempts_max", answer.attempts_max);
  });
}

std::string last_text(const AsyncCallRow& call) {
  if (call.end == "corrupt") return "stored bytes damaged";
  if (!call.reason.empty()) return call.reason;
  if (call.status != 0) return fmt::format("{} from fn", call.status);
  return call.end.empty() ? "-" : call.end;
}

std::string call_line(const AsyncCallRow& call) {
  std::string line = call.state;
  if (call.state == "expired" && !call.end.empty() && call.end != "answered") line += fmt::format(" ({})", call.end);
  if (call.status != 0) line += fmt::format("  {}", call.status);
  if (!call.reason.empty()) line += fmt::format(" ({})", call.reason);
  if (call.attempts > 0) line += fmt::format("  attempt {} of {}", call.attempts, call.attempts_max);
  if (call.state == "waiting") line += fmt::format("  next in {}", milliseconds(std::max(0.0, call.due_in_ms)));
  if (call.state == "queued") line += fmt::format("  for {}", milliseconds(call.age_ms));
  if (call.state == "done" || (call.state == "dead" && call.attempts > 0)) {
    line += fmt::format("  waited {}  ran {}", milliseconds(call.waited_ms), milliseconds(call.ran_ms));
  }
  if (call.truncated) line += "  answer cut";
  if (call.callback == "delivered" || call.callback == "failed") {
    line += fmt::format("  callback {}{}", call.callback, call.callback_status == 0 ? "" : fmt::format(" ({})", call.callback_status));
  } else if (call.callback == "due") {
    line += call.callback_attempts == 0 ? "  callback due" : fmt::format("  callback due (tried {} times)", call.callback_attempts);
  }
  return line;
}

}  // namespace dirigent::cli
