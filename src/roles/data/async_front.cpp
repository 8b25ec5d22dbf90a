// SPDX-License-Identifier: MIT
#include "roles/data/async_front.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "dirigent/base/text.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {

// Of an answer's head, what is the platform's about this very exchange and would be wrong about another.
bool is_kept(std::string_view name) {
  switch (header_kind(name)) {
    case HeaderKind::x_call_id: case HeaderKind::x_duration_seconds: case HeaderKind::x_served_by:
    case HeaderKind::content_length: case HeaderKind::transfer_encoding: case HeaderKind::connection:
      return false;
    default: return !equals_ignoring_case(name, "server-timing");
  }
}

Reason parse_reason(std::string_view name) {
  for (const ReasonTraits& traits : all_reasons()) {
    if (traits.name == name) return traits.reason;
  }
  return Reason::internal;
}

}  // namespace

// --- beginning ----------------------------------------------------------------------------------------------------

void StoredFront::build_head(const StoredRun& run) {
  head_ = run.request.head;
  if (run.request.has_body) head_ += fmt::format("Content-Length: {}\r\n", run.request.body.size());
  head_ += fmt::format("X-Call-Id: {}\r\nX-Retry: {}\r\n\r\n", to_string(run.id), run.attempt);
}

void StoredFront::begin(StoredRun run) {
  id_ = run.id;
  build_head(run);
  body_ = std::move(run.request.body);
  result_max_ = run.result_max;
  result_ = {};
  outcome_ = {};
  peer_ = {};
  peer_.size = static_cast<std::uint8_t>(std::min(run.request.peer.size(), peer_.text.size()));
  std::memcpy(peer_.text.data(), run.request.peer.data(), peer_.size);
  peer_.trusted = run.request.peer_trusted;
  begun_ = shard_.read_clock();
  exchange_ = shard_.take_exchange();
  // It was judged when it was accepted, with fewer headers; nothing of it is too long for one that may have 256.
  HeadLimits limits;
  limits.head_bytes_max = head_.size();
  limits.headers_max = MessageHead::kHeadersMax;
  limits.target_bytes_max = head_.size();
  const char* wrong = parse_request_head(head_, limits, shard_.request_head_);
  if (wrong != nullptr) {
    exchange_->refuse(*this, Reason::bad_request, fmt::format("the stored request: {}", wrong), begun_, true);
    return;
  }
  exchange_->begin(*this, peer_, head_.size(), body_, true);
}

void StoredFront::finish_now() {
  if (exchange_ != nullptr) exchange_->finish_now();
}

// --- the request --------------------------------------------------------------------------------------------------

BodyPart StoredFront::read_body() {
  // All of it was given at the beginning.
  BodyPart part;
  part.state = BodyPart::State::ready;
  part.last = true;
  return part;
}

// --- the answer ---------------------------------------------------------------------------------------------------

void StoredFront::send_head(char* head, TextWriter& writer, const AnswerFraming& framing) {
  std::string_view text(head, writer.size());
  result_.status = static_cast<std::uint16_t>(framing.status);
  result_.headers.clear();
  text.remove_prefix(std::min(text.find("\r\n") + 2, text.size()));
  while (!text.empty()) {
    const std::size_t end = text.find("\r\n");
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 2);
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = trim(line.substr(colon + 1));
    if (equals_ignoring_case(name, "x-dirigent-reason")) outcome_.reason = parse_reason(value);
    if (equals_ignoring_case(name, "retry-after")) {
      if (const auto seconds = parse_integer(value); seconds && *seconds > 0 && *seconds < 86'400) {
        outcome_.retry_after = std::chrono::seconds(*seconds);
      }
    }
    if (is_kept(name)) result_.headers.append(line).append("\r\n");
  }
  outcome_.status = result_.status;
  outcome_.waited = exchange_->waited();
}

void StoredFront::send_body(std::string_view payload, bool, std::string_view) {
  const std::size_t room = result_max_ - std::min<std::size_t>(result_.body.size(), result_max_);
  result_.body.append(payload.substr(0, room));
  outcome_.truncated = outcome_.truncated || payload.size() > room;
}

void StoredFront::drop_queued() {
  result_ = {};
  outcome_ = {};
}

// --- the end ------------------------------------------------------------------------------------------------------

void StoredFront::exchange_done() { end(outcome_); }

// The answer broke off, or the platform had to give up in the middle of it: what came of it is no answer.
void StoredFront::exchange_cut() {
  core::AttemptOutcome outcome;
  outcome.status = 502;
  outcome.reason = Reason::sandbox_reset;
  outcome.waited = outcome_.waited;
  result_ = {};
  result_.status = 502;
  end(outcome);
}

void StoredFront::exchange_left() {
  core::AttemptOutcome outcome;
  outcome.status = 503;
  outcome.reason = Reason::draining;
  end(outcome);
}

void StoredFront::end(core::AttemptOutcome outcome) {
  shard_.give_exchange(exchange_);
  exchange_ = nullptr;
  outcome.ran = std::max(Duration::zero(), shard_.now() - begun_ - outcome.waited);
  outcome.result_bytes = static_cast<std::uint32_t>(result_.body.size());
  head_.clear();
  body_ = {};
  shard_.stored_ended(*this, id_, outcome, std::move(result_));
  result_ = {};
}

}  // namespace dirigent::roles
