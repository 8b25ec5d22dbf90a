// SPDX-License-Identifier: MIT
//
// What remains of a request: its record among the last calls, and its line in the access log.
#include <algorithm>

#include "roles/data/access_log.h"
#include "roles/data/exchange.h"
#include "roles/data/proxy_shard.h"

namespace dirigent::roles {

namespace {
std::uint32_t microseconds(Duration duration) {
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(duration / 1us, 0, UINT32_MAX));
}
}  // namespace

void Exchange::note_call(int status, Reason reason) {
  if (function_.empty() && reason == Reason::none) return;  // our own /healthz: every second, and nobody's call
  const Duration took = shard_.now() - arrived_;
  CallRecord& record = shard_.calls_.next();
  record.started_us = (static_cast<std::int64_t>(shard_.wall_ns()) - took.count()) / 1000;
  record.duration_us = microseconds(took);
  record.sandbox = notes_.sandbox.value;
  record.sandboxes_tried = notes_.sandboxes_tried;
  record.bytes_in = body_bytes_;
  record.bytes_out = notes_.bytes_out;
  record.revision = revision_.value;
  record.status = static_cast<std::uint16_t>(status);
  record.reason = static_cast<std::uint8_t>(reason);
  record.cold = cold_;
  record.has_phases = response_head_done_;
  for (std::size_t phase = 0; phase < kPhases; ++phase) record.phases_us[phase] = microseconds(phases_[phase]);
  record.set_text({call_id_.data(), call_id_size_}, function_, notes_.node);

  AccessLog* log = shard_.shared_.access_log;
  if (log == nullptr || shard_.rng_.unit() >= shard_.options_.access_log_sample) return;
  RequestWords words;
  if (sandbox_head_ != nullptr) {
    words = words_of_head({sandbox_head_->data(), sandbox_head_size_});
  } else if (!async_line_.empty()) {
    words = words_of_head(async_line_);
  } else if (notes_.peer != nullptr) {
    // Answered while its head is still at hand.
    const RequestHead& head = shard_.request_head_;
    words.method = head.method;
    words.target = head.target;
  }
  if (notes_.peer != nullptr) words.remote_address = notes_.peer->address();
  write_access_line(record, words, shard_.log_line_);
  log->add(shard_.log_line_);
}

}  // namespace dirigent::roles
