// SPDX-License-Identifier: MIT
#include "roles/data/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "dirigent/base/assert.h"
#include "roles/data/problem.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {
constexpr Duration kAnswerTimeout = 10s;  // for an answer of our own to leave

// The smaller of two limits, of which 0 is none.
std::uint64_t body_limit(Bytes of_function, Bytes of_data_plane) {
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
  for (const Bytes each : {of_function, of_data_plane}) {
    if (each.value > 0) limit = std::min(limit, static_cast<std::uint64_t>(each.value));
  }
  return limit;
}

bool is_grpc(const RequestHead& head) {
  constexpr std::string_view kGrpc = "application/grpc";
  for (const HeaderField& field : head) {
    if (field.kind == HeaderKind::other && equals_ignoring_case(field.name, "content-type")) {
      return equals_ignoring_case(field.value.substr(0, kGrpc.size()), kGrpc);
    }
  }
  return false;
}
}  // namespace

Exchange::Exchange(ProxyShard& shard, std::uint32_t index)
    : shard_(shard), index_(index), http1_leg_(shard), http2_leg_(shard, *this) {
  timer_.owner = this;
  timer_.fire = &Exchange::on_timer;
}

// --- time limits --------------------------------------------------------------------------------------------------

void Exchange::on_timer(void* self, Instant now) { static_cast<Exchange*>(self)->on_deadline(now); }

// When the client has been too slow with its body, if nothing comes until then: silent for body_timeout, or on average
// below body_rate_min over the time that the sandbox waited, which is looked at once that is more than body_timeout.
Instant Exchange::body_deadline() const {
  const DataLimits& limits = shard_.options_.limits;
  const Instant silent = body_wait_since_ + limits.body_timeout;
  if (limits.body_rate_min.value <= 0) return silent;
  const auto per_second = static_cast<std::uint64_t>(limits.body_rate_min.value);
  // A day's worth of bytes is enough: arithmetic in nanoseconds must not overflow.
  const std::uint64_t seconds = std::min<std::uint64_t>(body_bytes_ / per_second, 86'400);
  const Duration allowed = std::max<Duration>(limits.body_timeout, std::chrono::seconds(seconds));
  return std::min(silent, body_wait_since_ + std::max(Duration::zero(), allowed - body_waited_));
}

void Exchange::set_deadline() {
  Instant deadline = arrived_ + limits_.timeout;
  switch (state_) {
    case State::idle: return;
    case State::parked: break;
    case State::connecting: deadline = std::min(deadline, connect_deadline_); break;
    case State::relaying:
      if (!response_head_done_ && request_sent_ && limits_.first_byte_timeout > Duration::zero()) {
        deadline = std::min(deadline, sent_at_ + limits_.first_byte_timeout);
      }
      if (limits_.idle_timeout > Duration::zero()) deadline = std::min(deadline, last_activity_ + limits_.idle_timeout);
      if (awaits_body_ && !is_stream_ && !response_head_done_) deadline = std::min(deadline, body_deadline());
      break;
    case State::answering: deadline = quiet_since_ + kAnswerTimeout; break;
    case State::collecting:
      if (awaits_body_) deadline = std::min(deadline, body_deadline());
      break;
    case State::storing: break;
  }
  shard_.wheel_.set(timer_, deadline);
}

void Exchange::on_deadline(Instant now) {
  const bool total_is_over = now >= arrived_ + limits_.timeout;
  switch (state_) {
    case State::idle: return;
    case State::parked:
      shard_.dispatcher_.abandon(token_, now, shard_.effects_);
      answer_problem(Reason::queue_timeout, fmt::format("no sandbox had room within the request's time limit of {}",
                                                        format_duration(limits_.timeout)));
      return;
    case State::connecting:
      if (now >= connect_deadline_ && !total_is_over) {
        upstream_broke(ETIMEDOUT);
        return;
      }
      [[fallthrough]];
    case State::relaying: {
      Reason reason = Reason::none;
      std::string detail;
      if (total_is_over) {
        reason = Reason::max_duration;
        detail = fmt::format("the request took longer than its limit of {}", format_duration(limits_.timeout));
      } else if (!response_head_done_ && request_sent_ && limits_.first_byte_timeout > Duration::zero() &&
                 now >= sent_at_ + limits_.first_byte_timeout) {
        reason = Reason::response_start_timeout;
        detail =
            fmt::format("the function did not begin to answer within {}", format_duration(limits_.first_byte_timeout));
      } else if (limits_.idle_timeout > Duration::zero() && now >= last_activity_ + limits_.idle_timeout) {
        reason = Reason::idle_timeout;
        detail = fmt::format("no byte went either way for {}", format_duration(limits_.idle_timeout));
      } else if (awaits_body_ && !is_stream_ && !response_head_done_ && now >= body_deadline()) {
        const DataLimits& limits = shard_.options_.limits;
        reason = Reason::request_timeout;
        detail = now >= body_wait_since_ + limits.body_timeout
                     ? fmt::format("no byte of the request's body arrived for {}", format_duration(limits.body_timeout))
                     : fmt::format("the request's body arrived more slowly than {} bytes a second",
                                   limits.body_rate_min.value);
      }
      if (reason == Reason::none) {
        set_deadline();
      } else if (response_head_done_) {
        cut(reason);
      } else {
        fail_exchange(reason, detail);
      }
      return;
    }
    case State::collecting:
      if (total_is_over || (awaits_body_ && now >= body_deadline())) {
        answer_problem(Reason::request_timeout, "the request's body did not arrive in time");
      } else {
        set_deadline();
      }
      return;
    case State::storing:
      answer_problem(Reason::store_unavailable,
                     fmt::format("the call was not stored within {}; whether it will run is not known (is the disk stuck?)",
                                 format_duration(limits_.timeout)));
      return;
    case State::answering: {
      ExchangeFront* front = front_;
      release_all();
      front->exchange_cut();
      return;
    }
  }
}

// --- a request ----------------------------------------------------------------------------------------------------

void Exchange::reset(ExchangeFront& front) {
  ASSERT(state_ == State::idle && !has_lease_ && leg_ == nullptr);
  front_ = &front;
  lease_ = core::Lease{};
  has_lease_ = counted_ = false;
  is_head_ = is_idempotent_ = wants_upgrade_ = expects_continue_ = sent_continue_ = false;
  chunked_to_sandbox_ = speaks_http2_ = is_stream_ = false;
  replayable_ = true;
  request_sent_ = request_broken_ = request_read_ = first_is_all_ = awaits_body_ = false;
  response_head_done_ = response_done_ = reusable_ = tunnel_ = cold_ = false;
  interim_responses_ = reconnects_ = 0;
  status_ = 0;
  metrics_ = shard_.metrics_.unrouted();
  revision_ = RevisionNumber{};
  function_.clear();
  call_id_size_ = 0;
  limits_ = RequestLimits{};
  first_body_ = {};
  body_waited_ = Duration::zero();
  body_bytes_ = 0;
  notes_.clear();
  phases_ = {};
  async_line_.clear();
  prefers_async_ = false;
}

Duration Exchange::waited() const {
  return lease_.sandbox != nullptr ? lease_.granted - arrived_ : shard_.now() - arrived_;
}

void Exchange::take_call_id(const RequestHead& head) {
  for (const HeaderField& field : head) {
    if (field.kind != HeaderKind::x_call_id || !is_call_id(field.value)) continue;
    std::memcpy(call_id_.data(), field.value.data(), field.value.size());
    call_id_size_ = static_cast<std::uint8_t>(field.value.size());
  }
}

void Exchange::ensure_call_id() {
  if (call_id_size_ != 0) return;
  write_ulid(call_id_.data(), WallTime(std::chrono::microseconds(shard_.wall_ns() / 1000)), shard_.rng_);
  call_id_size_ = kUlidSize;
}

void Exchange::begin(ExchangeFront& front, const ClientPeer& peer, std::size_t head_size, std::string_view first_body,
                     bool body_done) {
  const RequestHead& head = shard_.request_head_;
  reset(front);
  notes_.peer = &peer;
  arrived_ = shard_.read_clock();
  is_head_ = head.is_head;
  is_idempotent_ = head.is_idempotent;
  expects_continue_ = head.expect_continue;
  wants_upgrade_ = head.minor_version == 1 && head.connection_upgrade && !head.upgrade.empty() &&
                   head.framing == Framing::none && !equals_ignoring_case(head.upgrade, "h2c");
  chunked_to_sandbox_ = head.framing == Framing::chunked;
  is_stream_ = !body_done && is_grpc(head);
  first_body_ = first_body;
  first_is_all_ = request_read_ = body_done;
  body_bytes_ = first_body.size();
  take_call_id(head);

  const NamedPath path = name_by_path(head.target, head.method);
  if (is_for_desk(path)) {
    begin_async(path, peer);
    return;
  }
  const core::RoutedFunction* function = path.kind == PathKind::reserved ? nullptr : find_function(path, head.tag);
  if (function == nullptr) {
    answer_unrouted(path);
    return;
  }
  body_max_ = body_limit(function->route.limits.body_max, shard_.options_.limits.body_max);
  if ((head.framing == Framing::length ? head.content_length : body_bytes_) > body_max_) {
    note_function(*function);
    answer_problem(Reason::body_too_large,
                   fmt::format("the request's body is larger than the limit of {} bytes", body_max_));
    return;
  }
  write_sandbox_head(path, peer, head_size);
  admit(*function);
}

void Exchange::refuse(ExchangeFront& front, Reason reason, std::string_view detail, Instant arrived,
                      bool counted_as_request) {
  reset(front);
  arrived_ = arrived;
  if (counted_as_request) ++metrics_->started;
  answer_problem(reason, detail, 1s);
}

void Exchange::answer_unrouted(const NamedPath& path) {
  ++metrics_->started;
  if (path.kind == PathKind::health) {
    const bool has_routes = shard_.shared_.routes_complete.load(std::memory_order_relaxed);
    if (shard_.shared_.leaving.load(std::memory_order_relaxed)) {
      answer_own(503, "text/plain", "leaving\n");
    } else if (!has_routes) {
      answer_own(503, "text/plain", "no routes yet: waiting for a control plane\n");
    } else {
      answer_own(200, "text/plain", "ok\n");
    }
  } else if (path.kind == PathKind::reserved) {
    answer_problem(Reason::not_found, "this path belongs to the platform and is not served on this port");
  } else if (!shard_.shared_.routes_complete.load(std::memory_order_relaxed)) {
    answer_problem(Reason::no_capacity, "this data plane has not heard from a control plane yet; try again", 1s);
  } else {
    const std::string_view name = path.names_function() ? path.name : shard_.request_head_.authority;
    if (path.kind != PathKind::health && lacks_tag_only(path)) {
      const std::string_view tag = shard_.request_head_.tag;
      answer_problem(Reason::tag_not_found,
                     tag.empty() ? fmt::format("the function has no tag as in \"{}\" (TAG--NAME)", name)
                                 : fmt::format("function \"{}\" has no tag \"{}\"", name, tag));
      return;
    }
    answer_problem(Reason::not_found,
                   fmt::format("function \"{}\" not found (dirigent ctl list shows what there is)", name));
  }
}

const core::RoutedFunction* Exchange::find_function(const NamedPath& path, std::string_view tag) const {
  std::array<char, 256> text;
  const auto find = [&](std::string_view name) {
    return shard_.dispatcher_.find(tag.empty() ? name : tagged_name(tag, name, text));
  };
  if (path.names_function()) return find(canonical_name(path.name));
  const HostNames names(shard_.request_head_.authority);
  for (const std::string_view name : names) {
    if (const core::RoutedFunction* function = find(name)) return function;
  }
  return nullptr;
}

// The function is there, but has no such tag: it was named by header, or as TAG--NAME.
bool Exchange::lacks_tag_only(const NamedPath& path) const {
  if (!shard_.request_head_.tag.empty()) return find_function(path, {}) != nullptr;
  const auto untagged_is_known = [this](std::string_view name) {
    const std::size_t at = name.find(kTagSeparator);
    return at != std::string_view::npos && shard_.dispatcher_.find(name.substr(at + kTagSeparator.size())) != nullptr;
  };
  if (path.names_function()) return untagged_is_known(canonical_name(path.name));
  const HostNames names(shard_.request_head_.authority);
  return std::any_of(names.begin(), names.end(), untagged_is_known);
}

void Exchange::note_function(const core::RoutedFunction& function) {
  metrics_ = shard_.metrics_.of(function);
  ++metrics_->started;
  revision_ = function.route.revision;
  function_ = function.route.function.value;
}

void Exchange::admit(const core::RoutedFunction& function) {
  note_function(function);
  limits_ = function.route.limits;
  speaks_http2_ = function.route.protocol == HttpProtocol::h2c;
  if (const std::uint64_t used = shard_.memory_in_use(); shard_.is_short_of_memory(used)) {
    answer_problem(Reason::overloaded, fmt::format("requests hold {} bytes of this data plane's memory, limit {}", used,
                                                   shard_.options_.limits.memory_max.value), 1s);
    return;
  }
  token_ = shard_.new_token(*this);
  follow(shard_.dispatcher_.arrive(function, token_, arrived_, shard_.effects_));
}

void Exchange::follow(const core::Admission& admission) {
  switch (admission.kind) {
    case core::Admission::Kind::forward: granted(admission.lease); return;
    case core::Admission::Kind::refused: refused(admission.refusal); return;
    case core::Admission::Kind::parked:
      state_ = State::parked;
      front_->parked();
      set_deadline();
      return;
  }
}

void Exchange::granted(const core::Lease& lease) {
  lease_ = lease;
  has_lease_ = true;
  notes_.granted(lease.sandbox->sandbox.id, lease.sandbox->sandbox.node);
  start_exchange();
}

void Exchange::refused(const core::Refusal& refusal) {
  answer_problem(refusal.reason, refusal.detail, refusal.retry_after);
}

void Exchange::on_client_ready() {
  switch (state_) {
    case State::idle:
    case State::parked: return;
    case State::connecting:
    case State::relaying: pump(); return;
    case State::answering: continue_answer(); return;
    case State::collecting: collect_body(); return;
    case State::storing: return;
  }
}

// --- answers of our own -------------------------------------------------------------------------------------------

void Exchange::answer_own(int status, std::string_view content_type, std::string_view body) {
  client_head_ = shard_.blocks_.take(512 + ExchangeFront::kHeadRoom);
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(status)).add(" OK\r\n");
  writer.add_header("Date", shard_.date()).add_header("Content-Type", content_type);
  notes_.bytes_out = is_head_ ? 0 : body.size();
  record_outcome(status, Reason::none);
  send_own(client_head_->data(), writer, status, body);
}

void Exchange::answer_problem(Reason reason, std::string_view detail, Duration retry_after) {
  ASSERT(!has_lease_ && leg_ == nullptr);
  if (state_ == State::collecting) {
    shard_.stored_bytes_ -= submission_.request.body.size();
    submission_ = {};
    state_ = State::idle;
  }
  if (front_->is_partly_sent()) {
    // Half an interim response is out: whatever followed would be taken for the rest of it.
    record_outcome(traits(reason).http_status, reason);
    ExchangeFront* front = front_;
    release_all();
    front->exchange_cut();
    return;
  }
  if (traits(reason).retry_after && retry_after <= Duration::zero()) retry_after = 1s;
  ensure_call_id();
  Problem problem;
  problem.reason = reason;
  problem.function = function_;
  problem.revision = revision_;
  problem.call_id = {call_id_.data(), call_id_size_};
  problem.detail = detail;
  problem.retry_after = retry_after;
  write_problem_body(problem, shard_.text_);

  const ReasonTraits& reason_traits = traits(reason);
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(1024 + ExchangeFront::kHeadRoom);
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(reason_traits.http_status)).add(" ");
  writer.add(reason_phrase(reason_traits.http_status)).add("\r\n");
  writer.add_header("Date", shard_.date()).add("Content-Type: application/problem+json\r\n");
  writer.add_header("X-Dirigent-Reason", reason_traits.name).add_header("X-Call-Id", problem.call_id);
  if (reason_traits.retry_after) writer.add("Retry-After: ").add_number(retry_after_seconds(retry_after)).add("\r\n");
  const Duration took = shard_.now() - arrived_;
  writer.add("X-Duration-Seconds: ")
      .add_decimal(static_cast<std::uint64_t>(std::max<std::int64_t>(0, took.count() / 1000)), 6);
  writer.add("\r\n");
  if (shard_.options_.expose_timing) {
    const Duration queue = lease_.sandbox != nullptr ? lease_.granted - arrived_ : took;
    writer.add("Server-Timing: cold;desc=\"no\", queue;dur=").add_milliseconds(queue);
    writer.add(", proxy;dur=").add_milliseconds(took - queue).add("\r\n");
  }
  notes_.bytes_out = is_head_ ? 0 : shard_.text_.size();
  record_outcome(reason_traits.http_status, reason);
  front_->drop_queued();
  send_own(client_head_->data(), writer, reason_traits.http_status, shard_.text_);
}

void Exchange::send_own(char* head, TextWriter& writer, int status, std::string_view body) {
  AnswerFraming framing;
  framing.status = status;
  framing.framing = is_head_ ? Framing::none : Framing::length;
  framing.has_content_length = true;
  framing.content_length = body.size();
  framing.complete = is_head_;
  front_->send_head(head, writer, framing);
  if (!is_head_) {
    shard_.blocks_.give(own_body_);
    own_body_ = shard_.blocks_.take(body.size());
    std::memcpy(own_body_->data(), body.data(), body.size());
    front_->send_body({own_body_->data(), body.size()}, true, {});
  }
  state_ = State::answering;
  quiet_since_ = shard_.now();
  continue_answer();
}

void Exchange::continue_answer() {
  const PolledSocket::Transfer transfer = front_->flush();
  if (transfer.io == PolledSocket::Io::blocked) {
    set_deadline();
    return;
  }
  ExchangeFront* front = front_;
  release_all();
  if (transfer.io == PolledSocket::Io::done) {
    front->exchange_done();
  } else {
    front->exchange_left();
  }
}

// --- the end ------------------------------------------------------------------------------------------------------

// How the request ended, once: the one place where everything about it is known. `reason` is none when the function's
// own answer was relayed.
void Exchange::record_outcome(int status, Reason reason) {
  if (counted_) return;
  counted_ = true;
  metrics_->count_answer(status, reason);
  note_call(status, reason);
  if (lease_.sandbox == nullptr) return;
  (cold_ ? metrics_->cold : metrics_->warm).record(shard_.now() - arrived_);
  if (lease_.granted != arrived_) metrics_->queue_wait.record(lease_.granted - arrived_);
  if (!response_head_done_) return;
  for (std::size_t phase = 0; phase < kPhases; ++phase) {
    const bool of_every_request =
        phase == static_cast<std::size_t>(Phase::queue) || phase >= static_cast<std::size_t>(Phase::proxy);
    if (cold_ || of_every_request) metrics_->phases[phase].record(phases_[phase]);
  }
}

void Exchange::client_left() {
  ExchangeFront* front = front_;
  drop();
  front->exchange_left();
}

void Exchange::drop() {
  if (state_ == State::idle) return;
  if (state_ == State::parked) shard_.dispatcher_.abandon(token_, shard_.now(), shard_.effects_);
  release_upstream(core::Outcome::client_gone);
  record_outcome(traits(Reason::client_gone).http_status, Reason::client_gone);
  release_all();
}

void Exchange::finish_now() {
  if (state_ == State::parked) {
    shard_.dispatcher_.abandon(token_, shard_.now(), shard_.effects_);
    answer_problem(Reason::draining, "this data plane stopped before a sandbox had room", 1s);
  } else if (state_ == State::connecting || state_ == State::relaying) {
    if (response_head_done_) {
      cut(Reason::draining);
    } else {
      fail_exchange(Reason::sandbox_lost, "this data plane stopped before the function answered");
    }
  } else if (state_ == State::collecting || state_ == State::storing) {
    answer_problem(Reason::draining, "this data plane stopped before the call was stored", 1s);
  }
}

void Exchange::release_all() {
  ASSERT(!has_lease_ && leg_ == nullptr);
  // The timer stays where it is: the next request moves its deadline to a later instant, which is free.
  http1_leg_.forget();
  http2_leg_.forget();
  for (Block** block : {&sandbox_head_, &client_head_, &own_body_}) {
    shard_.blocks_.give(*block);
    *block = nullptr;
  }
  if (state_ == State::collecting) shard_.stored_bytes_ -= submission_.request.body.size();
  submission_ = {};
  state_ = State::idle;
}

}  // namespace dirigent::roles
