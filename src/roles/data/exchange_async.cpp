// SPDX-License-Identifier: MIT
//
// An Exchange whose request is to be kept and run later, or that asks about one that is kept: it collects the body, hands
// everything to the desk of asynchronous calls, waits, and answers. No slot is taken and no sandbox is involved.
//
//   begin_async --> collecting --(whole body)--> storing --(the desk's reply)--> answering
#include <fmt/format.h>

#include <algorithm>

#include "dirigent/base/assert.h"
#include "roles/data/exchange.h"
#include "roles/data/problem.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {

constexpr std::size_t kIdempotencyKeyMax = 255;
constexpr std::size_t kCallbackUrlMax = 2048;

bool is_ours(std::string_view name) {
  return equals_ignoring_case(name, "x-retry") || equals_ignoring_case(name, "x-retry-max");
}

// What the function will see, but for what is made anew with every attempt.
std::string stored_head(const RequestHead& head, const NamedPath& path) {
  std::string text;
  text.reserve(256);
  text.append(head.method).append(" ");
  if (path.kind == PathKind::async_call) {
    text.append("/function/").append(path.name).append(path.rest);
  } else {
    text.append(head.target);
  }
  text.append(" HTTP/1.1\r\n");
  for (const HeaderField& field : head) {
    switch (field.kind) {
      case HeaderKind::content_length: case HeaderKind::transfer_encoding: case HeaderKind::expect:
      case HeaderKind::x_call_id: case HeaderKind::x_dirigent:
        continue;
      default: break;
    }
    if (head.is_hop_by_hop(field) || is_ours(field.name)) continue;
    text.append(field.name).append(": ").append(field.value).append("\r\n");
  }
  if (head.authority.empty()) text.append("Host: ").append(path.name.empty() ? "dirigent" : path.name).append("\r\n");
  return text;
}

}  // namespace

bool Exchange::is_for_desk(const NamedPath& path) const {
  if (front_->is_stored()) return false;
  switch (path.kind) {
    case PathKind::async_call: case PathKind::async_result: case PathKind::async_cancel: return true;
    case PathKind::by_path: case PathKind::by_host: break;
    default: return false;
  }
  const AsyncDoor* desk = shard_.shared_.async.load(std::memory_order_acquire);
  // A preference that cannot be honoured is ignored (RFC 7240 section 2).
  return desk != nullptr && !wants_upgrade_ && (desk->limits().takes_everything || shard_.request_head_.respond_async);
}

void Exchange::begin_async(const NamedPath& path, const ClientPeer& peer) {
  const RequestHead& head = shard_.request_head_;
  async_line_ = fmt::format("{} {} HTTP/1.1\r\n\r\n", head.method, head.target);
  AsyncDoor* desk = shard_.shared_.async.load(std::memory_order_acquire);
  if (desk == nullptr) {
    ++metrics_->started;
    answer_problem(Reason::store_unavailable,
                   "this data plane takes no asynchronous calls (set async_dir, or async_durability to \"memory\")", 60s);
    return;
  }
  if (path.kind != PathKind::async_call && path.kind != PathKind::by_path && path.kind != PathKind::by_host) {
    ask_desk(path, *desk);
    return;
  }
  const core::RoutedFunction* function = find_function(path, head.tag);
  if (function == nullptr) {
    answer_unrouted(path);
    return;
  }
  note_function(*function);
  limits_ = function->route.limits;
  body_max_ = desk->limits().body_max;
  if (function->route.limits.body_max.value > 0) {
    body_max_ = std::min(body_max_, static_cast<std::uint64_t>(function->route.limits.body_max.value));
  }
  if ((head.framing == Framing::length ? head.content_length : body_bytes_) > body_max_) {
    refuse_async_body();
    return;
  }
  if (const std::uint64_t used = shard_.memory_in_use(); shard_.is_short_of_memory(used)) {
    answer_problem(Reason::overloaded, fmt::format("requests hold {} bytes of this data plane's memory, limit {}", used,
                                                   shard_.options_.limits.memory_max.value), 1s);
    return;
  }
  submission_ = {};
  submission_.function = function->route.function;
  for (const HeaderField& field : head) {
    if (field.kind != HeaderKind::other) continue;
    if (equals_ignoring_case(field.name, "idempotency-key")) submission_.idempotency_key = field.value;
    if (equals_ignoring_case(field.name, "x-callback-url")) submission_.request.callback_url = field.value;
  }
  if (submission_.idempotency_key.size() > kIdempotencyKeyMax || submission_.request.callback_url.size() > kCallbackUrlMax) {
    answer_problem(Reason::bad_request, fmt::format("Idempotency-Key may have {} characters, X-Callback-Url {}",
                                                    kIdempotencyKeyMax, kCallbackUrlMax));
    return;
  }
  submission_.request.head = stored_head(head, path);
  submission_.request.has_body = head.framing != Framing::none || head.has_content_length;
  submission_.request.peer = peer.address();
  submission_.request.peer_trusted = peer.trusted;
  submission_.request.body = first_body_;
  prefers_async_ = head.respond_async;
  shard_.stored_bytes_ += submission_.request.body.size();
  first_body_ = {};
  state_ = State::collecting;
  last_activity_ = body_wait_since_ = shard_.now();
  if (expects_continue_ && !request_read_) {
    sent_continue_ = true;
    if (!front_->send_continue()) {
      client_left();
      return;
    }
  }
  collect_body();
}

void Exchange::refuse_async_body() {
  answer_problem(Reason::body_too_large,
                 fmt::format("the body of an asynchronous call is larger than the limit of {} bytes", body_max_));
}

void Exchange::collect_body() {
  while (!request_read_) {
    const BodyPart part = front_->read_body();
    switch (part.state) {
      case BodyPart::State::wait:
        if (!awaits_body_) body_wait_since_ = shard_.now();
        awaits_body_ = true;
        set_deadline();
        return;
      case BodyPart::State::ended:
      case BodyPart::State::failed: client_left(); return;
      case BodyPart::State::bad: answer_problem(Reason::bad_request, part.problem); return;
      case BodyPart::State::ready: break;
    }
    if (awaits_body_) body_waited_ += shard_.now() - body_wait_since_;
    awaits_body_ = false;
    last_activity_ = shard_.now();
    body_bytes_ += part.payload.size();
    if (body_bytes_ > body_max_) {
      refuse_async_body();
      return;
    }
    submission_.request.body.append(part.payload);
    shard_.stored_bytes_ += part.payload.size();
    request_read_ = part.last;
  }
  state_ = State::storing;
  token_ = shard_.new_token(*this);
  shard_.stored_bytes_ -= submission_.request.body.size();
  front_->parked();
  set_deadline();
  shard_.shared_.async.load(std::memory_order_acquire)->submit(shard_.index_, token_, std::move(submission_));
  submission_ = {};
}

void Exchange::ask_desk(const NamedPath& path, AsyncDoor& desk) {
  ++metrics_->started;
  const auto id = parse_call_id(path.name);
  if (!id) {
    answer_problem(Reason::not_found, fmt::format("\"{}\" is no id of an asynchronous call", path.name.substr(0, 80)));
    return;
  }
  const std::string text = to_string(*id);
  call_id_size_ = static_cast<std::uint8_t>(text.size());
  std::copy(text.begin(), text.end(), call_id_.begin());
  state_ = State::storing;
  token_ = shard_.new_token(*this);
  set_deadline();
  desk.ask(shard_.index_, token_, path.kind == PathKind::async_cancel ? AsyncQuestion::cancel : AsyncQuestion::result, *id);
}

void Exchange::async_replied(AsyncReply reply) {
  ASSERT(is_storing());
  shard_.read_clock();
  if (!reply.call_id.empty()) {
    call_id_size_ = static_cast<std::uint8_t>(std::min(reply.call_id.size(), call_id_.size()));
    std::copy_n(reply.call_id.begin(), call_id_size_, call_id_.begin());
  }
  if (reply.reason != Reason::none) {
    answer_problem(reply.reason, reply.detail, reply.retry_after);
    return;
  }
  ensure_call_id();
  client_head_ = shard_.blocks_.take(768 + reply.headers.size() + ExchangeFront::kHeadRoom);
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(reply.status)).add(" ");
  writer.add(reason_phrase(reply.status)).add("\r\n");
  if (reply.headers.find("\r\nDate:") == std::string::npos && !reply.headers.starts_with("Date:")) {
    writer.add_header("Date", shard_.date());
  }
  writer.add_header("X-Call-Id", {call_id_.data(), call_id_size_});
  if (prefers_async_ && reply.status == 202) writer.add_header("Preference-Applied", "respond-async");
  writer.add(reply.headers);
  notes_.bytes_out = is_head_ ? 0 : reply.body.size();
  record_outcome(reply.status, Reason::none);
  send_own(client_head_->data(), writer, reply.status, reply.body);
}

}  // namespace dirigent::roles
