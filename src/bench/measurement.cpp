// SPDX-License-Identifier: MIT
#include "dirigent/bench/measurement.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "dirigent/base/text.h"

namespace dirigent::bench {

namespace {

// The value behind "name": in a flat JSON object; "" when there is none. Only for the answers of trace functions, whose
// form is fixed; nothing else is decided by it.
std::string_view json_value(std::string_view json, std::string_view name) {
  const auto at = json.find(name);
  if (at == std::string_view::npos) return {};
  json.remove_prefix(at + name.size());
  json = trim(json);
  if (json.empty() || json.front() != ':') return {};
  json.remove_prefix(1);
  json = trim(json);
  if (!json.empty() && json.front() == '"') {
    const auto end = json.find('"', 1);
    return end == std::string_view::npos ? std::string_view() : json.substr(1, end - 1);
  }
  return trim(json.substr(0, json.find_first_of(",}")));
}

std::int64_t microseconds(Duration d) { return std::chrono::duration_cast<std::chrono::microseconds>(d).count(); }

}  // namespace

std::string_view to_string(Fault fault) {
  switch (fault) {
    case Fault::none: return "none";
    case Fault::connect_failed: return "connect-failed";
    case Fault::connection_ended: return "connection-ended";
    case Fault::stream_reset: return "stream-reset";
    case Fault::timed_out: return "timed-out";
    case Fault::bad_response: return "bad-response";
  }
  return "none";
}

std::string_view answering_function(std::string_view body) {
  return body.starts_with('{') ? json_value(body, "\"Function\"") : std::string_view();
}

Duration time_inside(const Answer& answer) {
  if (answer.body.starts_with('{')) {
    const auto text = json_value(answer.body, "\"ExecutionTime\"");
    std::int64_t us = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), us);
    if (!text.empty() && error == std::errc() && end == text.data() + text.size() && us >= 0)
      return std::chrono::microseconds(us);
  }
  return from_seconds(answer.timing.ms[static_cast<std::size_t>(Phase::function)] / 1000);
}

Measurement::Measurement(std::size_t targets, bool needs_body, bool keep_records)
    : functions(targets), needs_body_(needs_body), keep_records_(keep_records) {}

bool Measurement::is_good(const Answer& answer) const {
  if (answer.fault != Fault::none) return false;
  return needs_body_ ? answer.status == 200 && answer.body_bytes > 0 : answer.status < 400;
}

void Measurement::count_error(const Answer& answer) {
  std::string reason;
  if (answer.fault != Fault::none) reason = to_string(answer.fault);
  else if (!answer.reason.empty()) reason = answer.reason;
  else if (answer.status < 400)
    reason = answer.body_bytes == 0 ? "empty-answer" : fmt::format("status-{}", answer.status);
  else reason = fmt::format("status-{}", answer.status);
  // A peer may name as many reasons as it likes; a table of them does not grow without end.
  constexpr std::size_t kReasonsMax = 100;
  if (errors.size() >= kReasonsMax && !errors.contains(reason)) reason = "other";
  ++errors[reason];
}

void Measurement::record(const Call& call, const Answer& answer, WallTime intended_wall) {
  const bool good = is_good(answer);
  const Duration inside = good ? time_inside(answer) : Duration::zero();
  if (keep_records_) keep(call, answer, inside, intended_wall);
  if (!call.is_measured) return;
  ++measured;
  first = std::min(first, call.intended);
  last = std::max(last, answer.end_at);
  body_bytes += answer.body_bytes;
  if (answer.fault == Fault::none) ++statuses[answer.status];
  if (call.sent != Instant{}) late.record(call.sent - call.intended);
  if (good) {
    record_good(call, answer, inside);
  } else {
    count_error(answer);
  }
}

void Measurement::record_good(const Call& call, const Answer& answer, Duration inside) {
  ++succeeded;
  const Duration response = answer.end_at - call.intended;
  latency.record(response);
  service.record(answer.end_at - call.sent);
  const bool knows_inside = answer.timing.is_present || inside > Duration::zero();
  if (knows_inside) {
    function.record(inside);
    overhead.record(std::max(Duration::zero(), response - inside));
  }
  if (answer.timing.is_present) {
    ++timed;
    for (std::size_t i = 0; i < kPhases; ++i) phase_ms[i] += answer.timing.ms[i];
    if (answer.timing.is_cold) {
      ++cold;
      cold_latency.record(response);
      for (std::size_t i = 0; i < kPhases; ++i) cold_phases[i].record(from_seconds(answer.timing.ms[i] / 1000));
    }
  }
  FunctionTotals& totals = functions[call.target];
  ++totals.calls;
  totals.latency_ms += to_milliseconds(response - inside);
  if (call.run_time > Duration::zero()) {
    // The definition of the original's evaluation: values below 1 are left out.
    const double slowdown = to_seconds(response) / to_seconds(call.run_time);
    if (slowdown >= 1) {
      ++totals.slowdowns;
      totals.log_slowdown += std::log(slowdown);
    }
  }
}

void Measurement::keep(const Call& call, const Answer& answer, Duration inside, WallTime intended_wall) {
  Record record;
  record.start_us = intended_wall.time_since_epoch().count();
  record.head_us = answer.head_at == Instant{} ? 0 : microseconds(answer.head_at - call.intended);
  record.response_us = microseconds(answer.end_at - call.intended);
  record.requested_us = microseconds(call.run_time);
  record.actual_us = microseconds(inside);
  record.target = call.target;
  record.minute = call.minute;
  record.ordinal = call.ordinal;
  record.is_warm_up = !call.is_measured;
  record.connection_timeout = answer.fault != Fault::none;
  record.function_timeout = answer.fault == Fault::none && (answer.status != 200 || answer.body_bytes == 0);
  record.memory_failure = answer.body.starts_with("FAILURE - mem_alloc");
  records.push_back(record);
}

void Measurement::merge(const Measurement& other) {
  measured += other.measured;
  succeeded += other.succeeded;
  cold += other.cold;
  timed += other.timed;
  not_sent += other.not_sent;
  body_bytes += other.body_bytes;
  for (const auto& [reason, count] : other.errors) errors[reason] += count;
  for (const auto& [status, count] : other.statuses) statuses[status] += count;
  latency.merge(other.latency);
  service.merge(other.service);
  late.merge(other.late);
  overhead.merge(other.overhead);
  function.merge(other.function);
  cold_latency.merge(other.cold_latency);
  for (std::size_t i = 0; i < kPhases; ++i) {
    cold_phases[i].merge(other.cold_phases[i]);
    phase_ms[i] += other.phase_ms[i];
  }
  for (std::size_t i = 0; i < functions.size(); ++i) {
    functions[i].calls += other.functions[i].calls;
    functions[i].latency_ms += other.functions[i].latency_ms;
    functions[i].slowdowns += other.functions[i].slowdowns;
    functions[i].log_slowdown += other.functions[i].log_slowdown;
  }
  records.insert(records.end(), other.records.begin(), other.records.end());
  first = std::min(first, other.first);
  last = std::max(last, other.last);
}

}  // namespace dirigent::bench
