// SPDX-License-Identifier: MIT
#include "roles/data/call_log.h"

#include <algorithm>
#include <cstring>

#include "dirigent/base/assert.h"

namespace dirigent::roles {

void CallRecord::set_text(std::string_view call_id, std::string_view function, std::string_view node) {
  // None is longer where it comes from; a longer one would be cut, not overflow.
  call_id = call_id.substr(0, kCallIdMax);
  function = function.substr(0, 127);
  node = node.substr(0, 64);
  call_id_size = static_cast<std::uint8_t>(call_id.size());
  function_size = static_cast<std::uint8_t>(function.size());
  node_size = static_cast<std::uint8_t>(node.size());
  char* at = text;
  for (const std::string_view part : {call_id, function, node}) {
    if (!part.empty()) std::memcpy(at, part.data(), part.size());
    at += part.size();
  }
}

CallLog::CallLog(std::size_t capacity)
    : capacity_(capacity), records_(std::make_unique_for_overwrite<CallRecord[]>(capacity)) {
  ASSERT(capacity > 0);
}

CallRecord& CallLog::next() {
  CallRecord& record = records_[sequence_ % capacity_];
  record.sequence = ++sequence_;
  return record;
}

std::vector<CallRecord> CallLog::find(const CallQuery& query) const {
  const auto matches = [&query](const CallRecord& record) {
    if (!query.call_id.empty() && record.call_id() != query.call_id) return false;
    if (!query.function.empty() && record.function() != query.function) return false;
    return (!query.errors_only || record.is_error()) && (!query.cold_only || record.cold);
  };
  std::vector<CallRecord> found;
  if (query.after != 0) {
    for (std::uint64_t sequence = std::max(oldest(), query.after + 1);
         sequence <= sequence_ && found.size() < query.limit; ++sequence) {
      if (matches(at(sequence))) found.push_back(at(sequence));
    }
    return found;
  }
  for (std::uint64_t sequence = sequence_; sequence >= oldest() && sequence > 0 && found.size() < query.limit;
       --sequence) {
    if (matches(at(sequence))) found.push_back(at(sequence));
  }
  std::reverse(found.begin(), found.end());
  return found;
}

RecentWindow CallLog::recent(std::int64_t now_us, Duration window) const {
  const std::int64_t window_us = window / 1us;
  RecentWindow result;
  result.span = window;
  for (std::uint64_t sequence = sequence_; sequence >= oldest() && sequence > 0; --sequence) {
    const CallRecord& record = at(sequence);
    const std::int64_t age_us = now_us - (record.started_us + record.duration_us);
    if (age_us > window_us) return result;
    RecentCalls& calls = result.functions.try_emplace(std::string(record.function())).first->second;
    if (calls.count++ == 0) calls.revision = RevisionNumber{record.revision};
    calls.errors += record.is_error() ? 1 : 0;
    calls.cold += record.cold ? 1 : 0;
    calls.durations_us.push_back(record.duration_us);
    // More calls than the log holds: what it holds is the window.
    if (sequence == oldest() && sequence_ >= capacity_) result.span = std::clamp<Duration>(age_us * 1us, 1ms, window);
  }
  return result;
}

void CallNotes::clear() {
  peer = nullptr;
  sandbox = SandboxId{};
  node.clear();
  sandboxes_tried = 0;
  bytes_out = 0;
}

void CallNotes::granted(SandboxId id, const NodeId& node_id) {
  sandbox = id;
  node = node_id.value;
  if (sandboxes_tried < UINT8_MAX) ++sandboxes_tried;
}

}  // namespace dirigent::roles
