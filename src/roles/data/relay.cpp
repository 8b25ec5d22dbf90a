// SPDX-License-Identifier: MIT
//
// The exchange of a ClientConnection with a sandbox: sending the request, relaying the response, and what goes wrong.
#include <sys/socket.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "dirigent/base/assert.h"
#include "roles/data/client_connection.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {

constexpr int kInterimMax = 8;        // interim responses that are passed on
constexpr int kInterimSeenMax = 100;  // ... and that are read at all: more is a sandbox that never comes to the point

// "1f40\r\n"
std::string_view write_chunk_size(std::array<char, 20>& to, std::size_t size) {
  const auto result = std::to_chars(to.data(), to.data() + 16, size, 16);
  result.ptr[0] = '\r';
  result.ptr[1] = '\n';
  return {to.data(), static_cast<std::size_t>(result.ptr - to.data()) + 2};
}

void add_text(Output& output, std::string_view text) { output.add(text.data(), text.size()); }

}  // namespace

// --- beginning ----------------------------------------------------------------------------------------------------

void ClientConnection::start_exchange() {
  cold_ = lease_.cold();
  last_activity_ = body_wait_since_ = shard_.read_clock();
  if (expects_continue_ && !sent_continue_ && !request_body_.done()) {
    // Promised only now that somebody is there to take the body. The socket's buffer is empty at this point.
    sent_continue_ = true;
    Output promise;
    add_text(promise, "HTTP/1.1 100 Continue\r\n\r\n");
    if (send(promise).io != Io::done) {
      client_left();
      return;
    }
  }
  open_upstream(true);
}

void ClientConnection::open_upstream(bool kept_allowed) {
  upstream_ = kept_allowed ? shard_.upstreams_->take_idle(*lease_.sandbox, *this) : nullptr;
  upstream_was_kept_ = upstream_ != nullptr;
  bytes_to_sandbox_ = bytes_from_sandbox_ = 0;
  if (upstream_was_kept_) {
    ++shard_.metrics_.upstream_reuses;
    state_ = State::relaying;
  } else {
    ++shard_.metrics_.upstream_connects;
    Result<UpstreamConnection*> connected = shard_.upstreams_->connect(*lease_.sandbox, *this);
    if (!connected) {
      if (connected.error().code == ErrorCode::exhausted) {
        // Our own descriptors have run out: no other sandbox would change that.
        fail_exchange(Reason::internal, connected.error().message);
      } else {
        retry_elsewhere(connected.error().message);
      }
      return;
    }
    upstream_ = *connected;
    state_ = State::connecting;
    connect_deadline_ = shard_.now() + shard_.options_.limits.connect_timeout;
  }
  to_sandbox_.clear();
  to_sandbox_.add(sandbox_head_->data(), sandbox_head_size_);
  queue_request_body(first_body_);
  pump();
}

void ClientConnection::on_upstream_ready() {
  shard_.read_clock();
  pump();
}

void ClientConnection::pump() {
  // Without upstream: the response is complete and a slow client is still taking it.
  if (upstream_ != nullptr && !request_sent_ && !request_broken_ && !pump_request()) return;
  pump_response();
  if (state_ == State::relaying || state_ == State::connecting) set_deadline();
}

// --- client -> sandbox --------------------------------------------------------------------------------------------

void ClientConnection::queue_request_body(std::string_view payload) {
  if (!chunked_to_sandbox_) {
    add_text(to_sandbox_, payload);
    return;
  }
  if (!payload.empty()) {
    add_text(to_sandbox_, write_chunk_size(request_chunk_, payload.size()));
    add_text(to_sandbox_, payload);
    add_text(to_sandbox_, "\r\n");
  }
  if (request_body_.done()) {
    add_text(to_sandbox_, "0\r\n");
    add_text(to_sandbox_, request_body_.trailers());
    add_text(to_sandbox_, "\r\n");
  }
}

// False: the exchange has left this connection to the sandbox; nothing may be assumed.
bool ClientConnection::pump_request() {
  for (;;) {
    if (to_sandbox_.pending()) {
      const Transfer transfer = upstream_->send(to_sandbox_);
      if (transfer.bytes > 0) {
        bytes_to_sandbox_ += transfer.bytes;
        last_activity_ = body_wait_since_ = shard_.now();
        state_ = State::relaying;
      }
      if (transfer.io == Io::blocked) return true;
      if (transfer.io == Io::failed) {
        to_sandbox_.clear();
        if (bytes_to_sandbox_ == 0) {
          upstream_broke(transfer.error);
          return false;
        }
        // It may have answered before it hung up ("413 and close"): what it said is still there to be read.
        request_broken_ = true;
        return true;
      }
    }
    if (request_body_.done()) {
      request_sent_ = true;
      sent_at_ = shard_.read_clock();
      if (tunnel_) ::shutdown(upstream_->fd(), SHUT_WR);
      return true;
    }
    switch (read_request_body()) {
      case Progress::made: break;
      case Progress::needs_more: return true;
      case Progress::gone: return false;
    }
  }
}

ClientConnection::Progress ClientConnection::read_request_body() {
  if (input_begin_ == input_end_) {
    if (!readable()) return Progress::needs_more;
    replayable_ = false;
    const std::size_t wanted = request_body_.expected() > BlockPool::kMedium ? BlockPool::kLarge : BlockPool::kMedium;
    if (input_ == nullptr || input_->capacity < wanted) {
      shard_.blocks_.give(input_);
      input_ = shard_.blocks_.take(wanted);
    }
    input_begin_ = input_end_ = 0;
    const Transfer transfer = receive(input_->data(), input_->capacity);
    switch (transfer.io) {
      case Io::done: input_end_ = transfer.bytes; break;
      case Io::blocked: return Progress::needs_more;
      case Io::ended:
        if (tunnel_) {
          request_body_.end_of_input();
          return Progress::made;
        }
        client_left();
        return Progress::gone;
      case Io::failed: client_left(); return Progress::gone;
    }
    last_activity_ = body_wait_since_ = shard_.now();
  }
  char* data = input_->data() + input_begin_;
  const BodyDecoder::Step step = request_body_.decode(data, input_end_ - input_begin_);
  input_begin_ += step.consumed;
  if (request_body_.problem() != nullptr) {
    keep_alive_ = false;
    if (response_head_done_) {
      cut(Reason::bad_request);
    } else {
      fail_exchange(Reason::bad_request, request_body_.problem());
    }
    return Progress::gone;
  }
  queue_request_body({data, step.produced});
  return Progress::made;
}

// --- sandbox -> client --------------------------------------------------------------------------------------------

void ClientConnection::pump_response() {
  for (;;) {
    if (to_client_.pending()) {
      const Transfer transfer = send(to_client_);
      if (transfer.bytes > 0) last_activity_ = shard_.now();
      if (transfer.io == Io::failed) {
        client_left();
        return;
      }
      if (transfer.io == Io::blocked) {
        // The sandbox has done its part: a slow client does not hold its slot.
        if (response_head_done_ && response_body_.done()) release_upstream(core::Outcome::answered);
        return;
      }
    }
    if (response_head_done_ && response_body_.done()) {
      end_exchange();
      return;
    }
    if (response_begin_ < response_end_) {
      if (response_head_done_) {
        take_response_body();
        if (response_body_.problem() != nullptr) {
          cut(Reason::bad_response);
          return;
        }
        continue;
      }
      const Progress progress = take_response_head();
      if (progress == Progress::gone) return;
      if (progress == Progress::made) continue;
    }
    if (read_response() != Progress::made) return;
  }
}

ClientConnection::Progress ClientConnection::read_response() {
  if (!upstream_->readable() && !request_broken_) return Progress::needs_more;
  if (response_begin_ == response_end_) {
    response_begin_ = response_end_ = 0;
    const bool is_large = response_head_done_ && response_body_.expected() > BlockPool::kMedium;
    const std::size_t wanted = is_large ? BlockPool::kLarge : BlockPool::kMedium;
    if (response_ == nullptr || response_->capacity < wanted) {
      shard_.blocks_.give(response_);
      response_ = shard_.blocks_.take(wanted);
    }
  } else if (response_end_ == response_->capacity) {
    // Only a head that has not ended yet is kept while more is read.
    Block* larger = shard_.blocks_.take(response_->capacity + 1);
    std::memcpy(larger->data(), response_->data() + response_begin_, response_end_ - response_begin_);
    response_end_ -= response_begin_;
    response_begin_ = 0;
    shard_.blocks_.give(response_);
    response_ = larger;
  }
  const Transfer transfer = upstream_->receive(response_->data() + response_end_, response_->capacity - response_end_);
  switch (transfer.io) {
    case Io::done:
      response_end_ += transfer.bytes;
      bytes_from_sandbox_ += transfer.bytes;
      last_activity_ = shard_.now();
      return Progress::made;
    case Io::blocked:
      if (!request_broken_) return Progress::needs_more;
      upstream_broke(EPIPE);
      return Progress::gone;
    case Io::ended:
      // A send that failed has taken the error of a reset away: an end behind it may be none, and then the response whose
      // end it would be is not complete.
      if (request_broken_ && response_head_done_ && response_body_.framing() == Framing::until_close) {
        upstream_broke(ECONNRESET);
        return Progress::gone;
      }
      if (response_head_done_ && response_body_.end_of_input()) {
        queue_response_body({});
        return Progress::made;
      }
      upstream_broke(0);
      return Progress::gone;
    case Io::failed: upstream_broke(transfer.error); return Progress::gone;
  }
  return Progress::gone;
}

ClientConnection::Progress ClientConnection::take_response_head() {
  const std::string_view bytes(response_->data() + response_begin_, response_end_ - response_begin_);
  const HeadScanner::Verdict verdict = response_scanner_.scan(bytes);
  const std::size_t head_max = shard_.response_limits_.head_bytes_max;
  if (verdict == HeadScanner::Verdict::need_more && bytes.size() < head_max) return Progress::needs_more;
  const char* wrong = nullptr;
  ResponseHead& head = shard_.response_head_;
  const std::size_t head_size = response_scanner_.head_size();
  if (verdict == HeadScanner::Verdict::bad) {
    wrong = response_scanner_.problem();
  } else if (verdict == HeadScanner::Verdict::need_more || head_size > head_max) {
    wrong = "its head is too large";
  } else {
    wrong = parse_response_head(bytes.substr(0, head_size), shard_.response_limits_, is_head_, head);
  }
  if (wrong == nullptr && head.status == 101 && !wants_upgrade_) wrong = "it switches protocols without being asked";
  if (wrong == nullptr && head.status < 200 && ++interim_responses_ > kInterimSeenMax) wrong = "it sends interim responses only";
  if (wrong != nullptr) {
    fail_exchange(Reason::bad_response, fmt::format("sandbox {}: {}", to_string(lease_.sandbox->sandbox.id), wrong));
    return Progress::gone;
  }
  response_begin_ += head_size;
  response_scanner_.reset();
  if (head.status < 200 && head.status != 101) {
    relay_interim(head);
    return Progress::made;
  }
  compute_phases(shard_.read_clock());
  status_ = head.status;
  response_head_done_ = true;
  upstream_reusable_ = !head.connection_close && (head.minor_version == 1 || head.connection_keep_alive) &&
                       head.framing != Framing::until_close && head.status != 101;
  write_client_head(head);
  response_body_.begin(head.status == 101 ? Framing::until_close : head.framing, head.content_length);
  response_body_.withhold_listed(head);
  if (head.status == 101) {
    if (!begin_tunnel()) return Progress::gone;
  } else if (response_begin_ < response_end_ && !response_body_.done()) {
    // Head and body leave in one write when they came in one read.
    take_response_body();
    if (response_body_.problem() != nullptr) {
      // Nothing of the answer has left yet, so the truth can still be told.
      response_head_done_ = false;
      to_client_.clear();
      fail_exchange(Reason::bad_response, fmt::format("sandbox {}: {}", to_string(lease_.sandbox->sandbox.id),
                                                      response_body_.problem()));
      return Progress::gone;
    }
  }
  return Progress::made;
}

// 100 and 103 tell the client something; the others, and more than a few, are noise.
void ClientConnection::relay_interim(const ResponseHead& head) {
  const bool is_wanted = head.status == 103 || (head.status == 100 && !sent_continue_);
  if (!is_wanted || is_http10_ || interim_responses_ > kInterimMax || to_client_.pending()) return;
  std::size_t size = 64 + head.reason.size();
  for (const HeaderField& field : head) size += field.name.size() + field.value.size() + 4;
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(size);
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(head.status)).add(" ").add(head.reason).add("\r\n");
  for (const HeaderField& field : head) {
    const bool is_ours = field.kind == HeaderKind::x_dirigent || field.kind == HeaderKind::content_length ||
                         field.kind == HeaderKind::x_call_id || field.kind == HeaderKind::x_served_by ||
                         field.kind == HeaderKind::x_duration_seconds;
    if (!is_ours && !head.is_hop_by_hop(field)) writer.add_header(field.name, field.value);
  }
  writer.add("\r\n");
  to_client_.add(client_head_->data(), writer.size());
}

// After 101: bytes both ways until both sides have ended. What the client sent behind its head is the tunnel's first.
bool ClientConnection::begin_tunnel() {
  tunnel_ = true;
  keep_alive_ = false;
  request_sent_ = false;
  chunked_to_sandbox_ = chunked_to_client_ = false;
  request_body_.begin(Framing::until_close, 0);
  return pump_request();
}

void ClientConnection::write_client_head(const ResponseHead& head) {
  std::size_t size = 1536 + head.reason.size();
  for (const HeaderField& field : head) size += field.name.size() + field.value.size() + 4;
  const RoutedSandbox& sandbox = lease_.sandbox->sandbox;
  shard_.blocks_.give(client_head_);
  client_head_ = shard_.blocks_.take(size + sandbox.node.value.size());
  TextWriter writer(client_head_->data(), client_head_->capacity);
  writer.add("HTTP/1.1 ").add_number(static_cast<std::uint64_t>(head.status)).add(" ").add(head.reason).add("\r\n");
  bool has_date = false;
  for (const HeaderField& field : head) {
    switch (field.kind) {
      case HeaderKind::content_length: case HeaderKind::x_dirigent: case HeaderKind::x_call_id:
      case HeaderKind::x_duration_seconds: case HeaderKind::x_served_by:
        continue;
      case HeaderKind::date: has_date = true; break;
      default: break;
    }
    if (!head.is_hop_by_hop(field)) writer.add_header(field.name, field.value);
  }
  if (!has_date) writer.add_header("Date", shard_.date());

  const bool may_have_length = head.status >= 200 && head.status != 204;
  if (head.status == 101) {
    writer.add("Connection: upgrade\r\n").add_header("Upgrade", head.upgrade);
  } else if (head.has_content_length && may_have_length) {
    writer.add("Content-Length: ").add_number(head.content_length).add("\r\n");
  } else if (head.framing == Framing::chunked || head.framing == Framing::until_close) {
    // A body whose length is not known: chunks for those who understand them, else the end of the connection.
    chunked_to_client_ = !is_http10_;
    if (chunked_to_client_) {
      writer.add("Transfer-Encoding: chunked\r\n");
    } else {
      keep_alive_ = false;
    }
  }
  if (!request_body_.done() || shard_.draining_) keep_alive_ = false;
  if (head.status != 101 && !keep_alive_) writer.add("Connection: close\r\n");
  if (keep_alive_ && is_http10_) writer.add("Connection: keep-alive\r\n");
  writer.add_header("X-Call-Id", {call_id_.data(), call_id_size_});
  writer.add("X-Duration-Seconds: ");
  writer.add_decimal(static_cast<std::uint64_t>(std::max<std::int64_t>(0, (shard_.now() - arrived_).count() / 1000)), 6);
  writer.add("\r\n");
  if (shard_.options_.expose_timing) {
    char id[16];
    std::uint64_t rest = sandbox.id.value;
    for (std::size_t i = 16; i-- > 0; rest >>= 4) id[i] = "0123456789abcdef"[rest & 15];
    writer.add("X-Served-By: ").add({id, sizeof id}).add("@").add(sandbox.node.value).add("\r\n");
    write_timing(writer);
  }
  writer.add("\r\n");
  to_client_.add(client_head_->data(), writer.size());
}

void ClientConnection::write_timing(TextWriter& writer) {
  writer.add("Server-Timing: cold;desc=\"").add(cold_ ? std::string_view(lease_.sandbox->sandbox.node.value) : "no").add("\"");
  for (std::size_t phase = 0; phase < kPhases; ++phase) {
    const bool of_a_start = phase > static_cast<std::size_t>(Phase::queue) && phase < static_cast<std::size_t>(Phase::proxy);
    if (of_a_start && !cold_) continue;
    writer.add(", ").add(to_string(static_cast<Phase>(phase))).add(";dur=").add_milliseconds(phases_[phase]);
  }
  writer.add("\r\n");
}

// What happened between the request's arrival and the response's head, without gap or overlap:
//   arrived .. routed: the steps of the start, and `route` for the rest;  routed .. granted: `queue`;
//   granted .. head: `fn` from the last byte sent to the head, `proxy` for the rest.
// A request that came while the sandbox was being started has seen only the later part of the steps.
void ClientConnection::compute_phases(Instant head_at) {
  const auto set = [this](Phase phase, Duration duration) { phases_[static_cast<std::size_t>(phase)] = duration; };
  const Instant sent = request_sent_ ? sent_at_ : last_activity_;
  const Duration fn = std::max(Duration::zero(), head_at - sent);
  set(Phase::fn, fn);
  set(Phase::proxy, std::max(Duration::zero(), head_at - lease_.granted - fn));
  if (!cold_) {
    set(Phase::queue, lease_.granted - arrived_);
    return;
  }
  set(Phase::queue, lease_.granted - lease_.sandbox->routed_at);
  Duration left = lease_.sandbox->routed_at - arrived_;
  const StartPhases& start = lease_.sandbox->sandbox.phases;
  const auto take = [&](Phase phase, Duration duration) {
    const Duration seen = std::clamp(duration, Duration::zero(), left);
    left -= seen;
    set(phase, seen);
  };
  take(Phase::probe, start.probe);
  take(Phase::start, start.start);
  take(Phase::network, start.network);
  take(Phase::create, start.create);
  take(Phase::schedule, start.schedule);
  set(Phase::route, left);
}

void ClientConnection::take_response_body() {
  char* data = response_->data() + response_begin_;
  const BodyDecoder::Step step = response_body_.decode(data, response_end_ - response_begin_);
  response_begin_ += step.consumed;
  if (response_body_.problem() == nullptr) queue_response_body({data, step.produced});
}

void ClientConnection::queue_response_body(std::string_view payload) {
  if (!chunked_to_client_) {
    add_text(to_client_, payload);
    return;
  }
  if (!payload.empty()) {
    add_text(to_client_, write_chunk_size(response_chunk_, payload.size()));
    add_text(to_client_, payload);
    add_text(to_client_, "\r\n");
  }
  if (response_body_.done()) {
    add_text(to_client_, "0\r\n");
    add_text(to_client_, response_body_.trailers());
    add_text(to_client_, "\r\n");
  }
}

// --- endings ------------------------------------------------------------------------------------------------------

// Gives the slot back, and the connection to whoever comes next if it is in order.
void ClientConnection::release_upstream(core::Outcome outcome) {
  if (upstream_ != nullptr) {
    // Bytes beyond the response's own framing belong to nobody: never to the next request.
    const bool is_clean = upstream_reusable_ && request_sent_ && !tunnel_ && response_begin_ == response_end_;
    if (outcome == core::Outcome::answered && is_clean) {
      shard_.upstreams_->keep(upstream_, shard_.now());
    } else {
      shard_.upstreams_->close(upstream_);
    }
    upstream_ = nullptr;
  }
  to_sandbox_.clear();
  if (has_lease_) {
    has_lease_ = false;
    shard_.dispatcher_.finish(lease_, outcome, shard_.now(), shard_.effects_);
  }
}

void ClientConnection::end_exchange() {
  release_upstream(core::Outcome::answered);
  count_request(status_, Reason::none);
  if (tunnel_) {
    shut();
  } else {
    next_request();
  }
}

// The connection to the sandbox cannot be used any more. `error`: errno, or 0 when the sandbox closed it.
void ClientConnection::upstream_broke(int error) {
  const bool nothing_came_back = !response_head_done_ && bytes_from_sandbox_ == 0;
  if (nothing_came_back && upstream_was_kept_ && replayable_ && (bytes_to_sandbox_ == 0 || is_idempotent_)) {
    // The sandbox had closed the kept connection before it saw the request, or the request may be repeated.
    ++shard_.metrics_.upstream_retries;
    shard_.upstreams_->close(upstream_);
    upstream_ = nullptr;
    request_sent_ = request_broken_ = false;
    response_scanner_.reset();
    response_begin_ = response_end_ = 0;
    open_upstream(false);
    return;
  }
  const core::SandboxSlots& slots = *lease_.sandbox;
  const std::string who = fmt::format("sandbox {} on node {}", to_string(slots.sandbox.id), slots.sandbox.node);
  const std::string_view why = error == 0 ? "it closed the connection" : std::string_view(::strerror(error));
  if (nothing_came_back && !upstream_was_kept_ && bytes_to_sandbox_ == 0) {
    if (error == ETIMEDOUT) {
      retry_elsewhere(fmt::format("{}: no connection within {}", who,
                                  format_duration(shard_.options_.limits.connect_timeout)));
    } else {
      retry_elsewhere(fmt::format("{}: cannot connect: {}", who, why));
    }
    return;
  }
  if (response_head_done_) {
    cut(Reason::sandbox_reset);
    return;
  }
  const char* when = bytes_from_sandbox_ == 0 ? "before it answered" : "in the middle of its answer's head";
  fail_exchange(slots.retired() ? Reason::sandbox_lost : Reason::sandbox_reset, fmt::format("{}: {} {}", who, why, when));
}

// Not one byte of the request has reached the sandbox.
void ClientConnection::retry_elsewhere(std::string_view detail) {
  ++shard_.metrics_.upstream_retries;
  if (upstream_ != nullptr) {
    shard_.upstreams_->close(upstream_);
    upstream_ = nullptr;
  }
  to_sandbox_.clear();
  has_lease_ = false;
  follow(shard_.dispatcher_.retry(lease_, token_, detail, shard_.now(), shard_.effects_));
}

// REQUIRES: no byte of a response head has been sent to the client.
void ClientConnection::fail_exchange(Reason reason, std::string_view detail) {
  ASSERT(!response_head_done_);
  release_upstream(reason == Reason::bad_request || reason == Reason::request_timeout ? core::Outcome::client_gone
                                                                                      : core::Outcome::failed);
  answer_problem(reason, detail);
}

// Part of the response is out: the only honest end is a connection that breaks.
void ClientConnection::cut(Reason reason) {
  release_upstream(core::Outcome::failed);
  count_request(status_, reason);
  break_off();
}

// Where neither chunks nor a length tell the client where its response ends, the end of the connection does, and must not
// look like one.
void ClientConnection::break_off() {
  const bool end_would_tell = response_head_done_ && !response_body_.done() && !chunked_to_client_ &&
                              response_body_.framing() != Framing::length;
  if (end_would_tell) {
    abort();
  } else {
    shut();
  }
}

void ClientConnection::client_left() {
  if (state_ == State::parked) {
    shard_.dispatcher_.abandon(token_, shard_.now(), shard_.effects_);
    state_ = State::head;
  }
  release_upstream(core::Outcome::client_gone);
  count_request(traits(Reason::client_gone).http_status, Reason::client_gone);
  break_off();  // it may have ended its half only, and still read
}

}  // namespace dirigent::roles
