// SPDX-License-Identifier: MIT
//
// An Exchange's dealings with the sandbox: sending the request, relaying the response, and what goes wrong.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "dirigent/base/assert.h"
#include "roles/data/exchange.h"
#include "roles/data/proxy_shard.h"

namespace dirigent::roles {

using Io = PolledSocket::Io;

namespace {
constexpr int kInterimSeenMax = 100;  // more is a sandbox that never comes to the point
constexpr std::uint8_t kReconnectsMax = 3;  // a sandbox may refuse streams on every new connection
}  // namespace

// --- beginning ----------------------------------------------------------------------------------------------------

void Exchange::start_exchange() {
  cold_ = lease_.cold();
  last_activity_ = body_wait_since_ = shard_.read_clock();
  if (expects_continue_ && !sent_continue_ && !request_read_) {
    // Promised only now that somebody is there to take the body.
    sent_continue_ = true;
    if (!front_->send_continue()) {
      client_left();
      return;
    }
  }
  open_upstream(true);
}

void Exchange::open_upstream(bool kept_allowed) {
  if (!take_leg(kept_allowed)) return;
  state_ = leg_->was_kept() ? State::relaying : State::connecting;
  connect_deadline_ = shard_.now() + shard_.options_.limits.connect_timeout;
  request_read_ = first_is_all_;
  leg_->send_head(sandbox_head_->data(), sandbox_head_size_, chunked_to_sandbox_);
  leg_->send_body(first_body_, first_is_all_, first_is_all_ ? front_->body_trailers() : std::string_view{});
  if (!shard_.put_off(*this)) pump();
}

// False: there is none, and the exchange has gone on elsewhere.
bool Exchange::take_leg(bool kept_allowed) {
  Error error;
  if (speaks_http2_) {
    Status opened = http2_leg_.open(*lease_.sandbox, kept_allowed);
    if (opened) {
      leg_ = &http2_leg_;
      return true;
    }
    error = opened.error();
  } else {
    UpstreamConnection* connection = kept_allowed ? shard_.upstreams_->take_idle(*lease_.sandbox, *this) : nullptr;
    const bool is_kept = connection != nullptr;
    if (is_kept) {
      ++shard_.metrics_.upstream_reuses;
    } else {
      ++shard_.metrics_.upstream_connects;
      Result<UpstreamConnection*> connected = shard_.upstreams_->connect(*lease_.sandbox, *this);
      if (connected) {
        connection = *connected;
      } else {
        error = connected.error();
      }
    }
    if (connection != nullptr) {
      http1_leg_.attach(connection, is_kept);
      leg_ = &http1_leg_;
      return true;
    }
  }
  if (error.code == ErrorCode::exhausted) {
    // Our own descriptors have run out: no other sandbox would change that.
    fail_exchange(Reason::internal, error.message);
  } else {
    retry_elsewhere(error.message);
  }
  return false;
}

void Exchange::on_upstream_ready() {
  shard_.read_clock();
  pump();
}

void Exchange::pump() {
  // Without leg: the response is complete and a slow client is still taking it.
  if (leg_ != nullptr && !request_sent_ && !request_broken_ && !pump_request()) return;
  // A stream of a shared connection may have left with the frames of others, without a flush that said so.
  if (state_ == State::connecting && leg_ != nullptr && leg_->has_sent()) state_ = State::relaying;
  pump_response();
  if (state_ == State::relaying || state_ == State::connecting) set_deadline();
}

// --- client -> sandbox --------------------------------------------------------------------------------------------

// False: the exchange has left this leg; nothing may be assumed.
bool Exchange::pump_request() {
  for (;;) {
    if (leg_->pending()) {
      const PolledSocket::Transfer transfer = leg_->flush();
      if (transfer.bytes > 0) {
        last_activity_ = shard_.now();
        state_ = State::relaying;
      }
      if (transfer.io == Io::blocked) return true;
      if (transfer.io == Io::failed) {
        if (!leg_->has_sent()) {
          upstream_broke(transfer.error);
          return false;
        }
        // It may have answered before it hung up ("413 and close"): what it said is still there to be read.
        leg_->set_broken();
        request_broken_ = true;
        return true;
      }
    }
    if (request_read_) {
      request_sent_ = true;
      sent_at_ = shard_.read_clock();
      if (tunnel_) leg_->end_half();
      return true;
    }
    switch (read_request_body()) {
      case Progress::made: break;
      case Progress::needs_more: return true;
      case Progress::gone: return false;
    }
  }
}

Exchange::Progress Exchange::read_request_body() {
  const BodyPart part = front_->read_body();
  switch (part.state) {
    case BodyPart::State::wait:
      if (!awaits_body_) body_wait_since_ = shard_.now();
      awaits_body_ = true;
      return Progress::needs_more;
    case BodyPart::State::ended:
    case BodyPart::State::failed: client_left(); return Progress::gone;
    case BodyPart::State::bad:
      if (response_head_done_) {
        cut(Reason::bad_request);
      } else {
        fail_exchange(Reason::bad_request, part.problem);
      }
      return Progress::gone;
    case BodyPart::State::ready: break;
  }
  replayable_ = false;
  last_activity_ = shard_.now();
  if (awaits_body_) body_waited_ += shard_.now() - body_wait_since_;
  awaits_body_ = false;
  body_bytes_ += part.payload.size();
  if (body_bytes_ > body_max_ && !tunnel_) {
    if (response_head_done_) {
      cut(Reason::body_too_large);
    } else {
      fail_exchange(Reason::body_too_large,
                    fmt::format("the request's body is larger than the limit of {} bytes", body_max_));
    }
    return Progress::gone;
  }
  request_read_ = part.last;
  leg_->send_body(part.payload, part.last, part.last ? front_->body_trailers() : std::string_view{});
  return Progress::made;
}

// --- sandbox -> client --------------------------------------------------------------------------------------------

void Exchange::pump_response() {
  for (;;) {
    if (response_is_complete() && shard_.put_off(*this)) return;
    const PolledSocket::Transfer transfer = front_->flush();
    if (transfer.bytes > 0) last_activity_ = shard_.now();
    if (transfer.io == Io::failed) {
      client_left();
      return;
    }
    if (transfer.io == Io::blocked) {
      // The sandbox has done its part: a slow client does not hold its slot.
      if (response_is_complete()) release_upstream(core::Outcome::answered);
      return;
    }
    if (response_is_complete()) {
      end_exchange();
      return;
    }
    const Progress progress = response_head_done_ ? take_response_body() : take_response_head();
    if (progress != Progress::made) return;
  }
}

Exchange::Progress Exchange::take_response_head() {
  const BodyPart part = leg_->read_head();
  const char* wrong = part.problem;
  switch (part.state) {
    case BodyPart::State::wait: return Progress::needs_more;
    case BodyPart::State::ended: upstream_broke(0); return Progress::gone;
    case BodyPart::State::failed: upstream_broke(part.error); return Progress::gone;
    case BodyPart::State::bad: break;
    case BodyPart::State::ready: last_activity_ = shard_.now(); break;
  }
  ResponseHead& head = shard_.response_head_;
  if (wrong == nullptr) wrong = parse_response_head(part.payload, shard_.response_limits_, is_head_, head);
  if (wrong == nullptr && head.status == 101 && !wants_upgrade_) wrong = "it switches protocols without being asked";
  if (wrong == nullptr && head.status < 200 && ++interim_responses_ > kInterimSeenMax) wrong = "it sends interim responses only";
  if (wrong != nullptr) {
    fail_exchange(Reason::bad_response, fmt::format("{}: {}", sandbox_in_words(), wrong));
    return Progress::gone;
  }
  if (head.status < 200 && head.status != 101) {
    relay_interim(head);
    return Progress::made;
  }
  compute_phases(shard_.read_clock());
  status_ = head.status;
  response_head_done_ = true;
  reusable_ = !head.connection_close && (head.minor_version == 1 || head.connection_keep_alive) &&
              head.framing != Framing::until_close && head.status != 101;
  leg_->begin_body(head.status == 101 ? Framing::until_close : head.framing, head.content_length);
  if (!speaks_http2_) http1_leg_.withhold_listed(head);
  response_done_ = leg_->body_done();
  write_client_head(head);
  if (head.status == 101) return begin_tunnel() ? Progress::made : Progress::gone;
  if (response_done_) {
    if (!leg_->body_trailers().empty()) front_->send_body({}, true, leg_->body_trailers());
    return Progress::made;
  }
  // Head and body leave in one write when they came in one read.
  const BodyPart first = leg_->read_body(true);
  if (first.state == BodyPart::State::bad) {
    // Nothing of the answer has left yet, so the truth can still be told.
    response_head_done_ = false;
    fail_exchange(Reason::bad_response, fmt::format("{}: {}", sandbox_in_words(), first.problem));
    return Progress::gone;
  }
  if (first.state == BodyPart::State::ready) {
    response_done_ = first.last;
    notes_.bytes_out += first.payload.size();
    front_->send_body(first.payload, first.last, first.last ? leg_->body_trailers() : std::string_view{});
  }
  return Progress::made;
}

Exchange::Progress Exchange::take_response_body() {
  const BodyPart part = leg_->read_body(false);
  switch (part.state) {
    case BodyPart::State::wait: return Progress::needs_more;
    case BodyPart::State::bad: cut(Reason::bad_response); return Progress::gone;
    case BodyPart::State::ended: upstream_broke(0); return Progress::gone;
    case BodyPart::State::failed: upstream_broke(part.error); return Progress::gone;
    case BodyPart::State::ready: break;
  }
  last_activity_ = shard_.now();
  response_done_ = part.last;
  notes_.bytes_out += part.payload.size();
  front_->send_body(part.payload, part.last, part.last ? leg_->body_trailers() : std::string_view{});
  return Progress::made;
}

// After 101: bytes both ways until both sides have ended. What the client sent behind its head is the tunnel's first.
bool Exchange::begin_tunnel() {
  tunnel_ = is_stream_ = true;
  request_sent_ = request_read_ = false;
  chunked_to_sandbox_ = false;
  front_->begin_tunnel();
  return pump_request();
}

// --- endings ------------------------------------------------------------------------------------------------------

// Gives the slot back, and the connection to whoever comes next if it is in order.
void Exchange::release_upstream(core::Outcome outcome) {
  if (leg_ != nullptr) {
    leg_->release(outcome == core::Outcome::answered && reusable_ && request_sent_ && !tunnel_);
    leg_ = nullptr;
  }
  if (has_lease_) {
    has_lease_ = false;
    shard_.dispatcher_.finish(lease_, outcome, shard_.now(), shard_.effects_);
  }
}

void Exchange::end_exchange() {
  release_upstream(core::Outcome::answered);
  record_outcome(status_, Reason::none);
  ExchangeFront* front = front_;
  release_all();
  front->exchange_done();
}

std::string Exchange::sandbox_in_words() const {
  const RoutedSandbox& sandbox = lease_.sandbox->sandbox;
  return fmt::format("sandbox {} on node {}", to_string(sandbox.id), sandbox.node);
}

// The leg cannot be used any more. `error`: errno, or 0 when the sandbox ended it.
void Exchange::upstream_broke(int error) {
  const bool nothing_came_back = !response_head_done_ && !leg_->has_received();
  const bool may_repeat = replayable_ && reconnects_ < kReconnectsMax && (!leg_->has_sent() || is_idempotent_);
  if (nothing_came_back && leg_->was_kept() && may_repeat) {
    ++reconnects_;
    // The sandbox had closed the kept connection before it saw the request, or the request may be repeated.
    ++shard_.metrics_.upstream_retries;
    leg_->release(false);
    leg_ = nullptr;
    request_sent_ = request_broken_ = awaits_body_ = false;
    open_upstream(false);
    return;
  }
  const std::string_view why = error == 0 ? "it closed the connection" : std::string_view(::strerror(error));
  if (nothing_came_back && !leg_->was_kept() && !leg_->has_sent()) {
    if (error == ETIMEDOUT) {
      retry_elsewhere(fmt::format("{}: no connection within {}", sandbox_in_words(),
                                  format_duration(shard_.options_.limits.connect_timeout)));
    } else {
      retry_elsewhere(fmt::format("{}: cannot connect: {}", sandbox_in_words(), why));
    }
    return;
  }
  if (response_head_done_) {
    cut(Reason::sandbox_reset);
    return;
  }
  const char* when = leg_->has_received() ? "in the middle of its answer's head" : "before it answered";
  fail_exchange(lease_.sandbox->retired() ? Reason::sandbox_lost : Reason::sandbox_reset,
                fmt::format("{}: {} {}", sandbox_in_words(), why, when));
}

// Not one byte of the request has reached the sandbox.
void Exchange::retry_elsewhere(std::string_view detail) {
  ++shard_.metrics_.upstream_retries;
  if (leg_ != nullptr) {
    leg_->release(false);
    leg_ = nullptr;
  }
  request_sent_ = request_broken_ = awaits_body_ = false;
  has_lease_ = false;
  follow(shard_.dispatcher_.retry(lease_, token_, detail, shard_.now(), shard_.effects_));
}

// REQUIRES: no byte of a response head has been sent to the client.
void Exchange::fail_exchange(Reason reason, std::string_view detail) {
  ASSERT(!response_head_done_);
  const bool is_clients_fault =
      reason == Reason::bad_request || reason == Reason::request_timeout || reason == Reason::body_too_large;
  release_upstream(is_clients_fault ? core::Outcome::client_gone : core::Outcome::failed);
  answer_problem(reason, detail);
}

// Part of the response is out: the only honest end is one that the client sees to be none.
void Exchange::cut(Reason reason) {
  release_upstream(core::Outcome::failed);
  record_outcome(status_, reason);
  ExchangeFront* front = front_;
  release_all();
  front->exchange_cut();
}

}  // namespace dirigent::roles
