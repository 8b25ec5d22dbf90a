// SPDX-License-Identifier: MIT
#include "roles/data/http2_leg.h"

#include <nghttp2/nghttp2.h>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "dirigent/base/assert.h"
#include "roles/data/problem.h"
#include "roles/data/proxy_shard.h"

namespace dirigent::roles {

using Io = PolledSocket::Io;

// --- the leg ------------------------------------------------------------------------------------------------------

Status Http2Leg::open(const core::SandboxSlots& sandbox, bool kept_allowed) {
  const Result<Http2Upstream*> taken = shard_.http2_upstreams().take(sandbox, kept_allowed);
  if (!taken) return failure(taken.error());
  Http2Upstream& upstream = **taken;
  input_.clear(shard_.blocks());
  begin_stream();
  head_ready_ = refused_ = has_received_ = false;
  head_problem_ = nullptr;
  kept_ = upstream.has_carried_;
  upstream.attach(*this, 0);
  return {};
}

void Http2Leg::send_head(char* head, std::size_t size, bool) {
  request_ = head;
  request_size_ = size;
  answers_head_ = std::string_view(head, size).starts_with("HEAD ");
}

void Http2Leg::send_body(std::string_view payload, bool last, std::string_view trailers) {
  if (closed_) return;  // flush() says so
  queue_output(payload, last, trailers);
}

PolledSocket::Transfer Http2Leg::flush() {
  if (request_ != nullptr && !closed_) {
    const bool ends = last_ && output_.empty() && output_trailers_.empty();
    if (!session_->submit_request(*this, std::exchange(request_, nullptr), request_size_, ends)) {
      closed_ = refused_ = true;  // its stream ids are used up
      error_ = ECONNRESET;
    }
  }
  PolledSocket::Transfer transfer = output_state();
  if (session_ == nullptr || session_->bytes_sent() == 0) transfer.bytes = 0;  // the connection is not made yet
  return transfer;
}

void Http2Leg::set_broken() {
  output_ = output_trailers_ = {};
  last_ = end_sent_ = head_sent_ = true;
}

bool Http2Leg::has_sent() const {
  return head_sent_ && !refused_ && (session_ == nullptr || session_->bytes_sent() > 0);
}

void Http2Leg::on_head(bool) {
  const std::string& text = session_->text();
  has_received_ = true;
  static_cast<Http2Upstream*>(session_)->has_carried_ = true;
  if (head_ != nullptr && head_->capacity < text.size()) {
    shard_.blocks().give(head_);
    head_ = nullptr;
  }
  if (head_ == nullptr) head_ = shard_.blocks().take(text.size());
  std::memcpy(head_->data(), text.data(), text.size());
  head_size_ = text.size();
  head_ready_ = true;
  user_.on_upstream_ready();
}

void Http2Leg::on_broken(std::uint32_t error_code) {
  refused_ = error_code == NGHTTP2_REFUSED_STREAM && !has_received_;
  user_.on_upstream_ready();
}

BodyPart Http2Leg::read_head() {
  BodyPart part;
  if (head_ready_) {
    head_ready_ = false;
    HeadScanner scanner;
    const std::string_view text(head_->data(), head_size_);
    const bool is_fine = head_problem_ == nullptr && scanner.scan(text) == HeadScanner::Verdict::complete;
    part.state = is_fine ? BodyPart::State::ready : BodyPart::State::bad;
    part.payload = text;
    if (!is_fine) part.problem = head_problem_ != nullptr ? head_problem_ : scanner.problem();
  } else if (closed_) {
    part.state = error_ == 0 ? BodyPart::State::ended : BodyPart::State::failed;
    part.error = error_;
  }
  return part;
}

void Http2Leg::begin_body(Framing framing, std::uint64_t) { is_bodiless_ = framing == Framing::none; }

BodyPart Http2Leg::read_body(bool) {
  BodyPart part = read_input(shard_.blocks());
  if (is_bodiless_ && !part.payload.empty()) {
    part.state = BodyPart::State::bad;
    part.problem = "a body where none may be";
  }
  return part;
}

void Http2Leg::release(bool) {
  request_ = nullptr;
  if (session_ == nullptr) return;
  auto* upstream = static_cast<Http2Upstream*>(session_);
  // An answer that is complete makes the rest of the request superfluous, nothing else.
  upstream->detach(*this, input_ended_ ? NGHTTP2_NO_ERROR : NGHTTP2_CANCEL);
  upstream->stream_ended();
}

void Http2Leg::forget() {
  lent_ = 0;
  input_.clear(shard_.blocks());
  shard_.blocks().give(head_);
  head_ = nullptr;
}

// --- a connection -------------------------------------------------------------------------------------------------

Http2Upstream::Http2Upstream(ProxyShard& shard) : Http2Session(shard, Side::client) {
  timer_.owner = this;
  timer_.fire = &Http2Upstream::on_timer;
}

// An HTTP/1.1 head, so that one parser judges all answers.
void Http2Upstream::build_head(bool, Http2Stream& stream) {
  auto& leg = static_cast<Http2Leg&>(stream);
  leg.head_problem_ = head_too_large_ ? "its head is too large" : nullptr;
  text_.assign("HTTP/1.1 ")
      .append(status_)
      .append(" ")
      .append(reason_phrase(std::atoi(status_.c_str())))
      .append("\r\n");
  text_.append(fields_);
  if (!cookie_.empty()) text_.append("cookie: ").append(cookie_).append("\r\n");
  const bool bodiless = leg.answers_head_ || status_.starts_with('1') || status_ == "204" || status_ == "304";
  if (!bodiless && !has_length_) text_.append("Transfer-Encoding: chunked\r\n");
  text_.append("\r\n");
}

void Http2Upstream::on_goaway(std::int32_t) {
  leaving_ = true;
  if (streams() == 0) want_flush();
}

void Http2Upstream::on_flushed() {
  if (leaving_ && streams() == 0) die(0);
}

void Http2Upstream::stream_ended() {
  if (streams() != 0 || !is_alive()) return;
  quiet_since_ = shard_.now();
  if (bytes_sent_ == 0) {
    // It was never made, and nobody waits for it any more. Not closed at once: nghttp2 may be on the stack.
    leaving_ = true;
    shard_.wheel_.set(timer_, quiet_since_);
  } else if (leaving_) {
    want_flush();
  } else {
    shard_.wheel_.set(timer_, quiet_since_ + shard_.options_.limits.sandbox_keep_alive);
  }
}

void Http2Upstream::on_timer(void* self, Instant now) {
  auto& upstream = *static_cast<Http2Upstream*>(self);
  if (!upstream.is_alive() || upstream.streams() != 0) return;
  const Instant deadline = upstream.quiet_since_ + upstream.shard_.options_.limits.sandbox_keep_alive;
  if (upstream.leaving_ || now >= deadline) {
    upstream.die(0);
  } else {
    upstream.shard_.wheel_.set(upstream.timer_, deadline);
  }
}

void Http2Upstream::on_dead() {
  shard_.wheel_.clear(timer_);
  close_session();
  shard_.poller_->close(*this);
  Http2Upstreams& pool = *shard_.http2_upstreams_;
  const auto place = pool.sandboxes_.find(sandbox_);
  std::erase(place->second, this);
  if (place->second.empty()) pool.sandboxes_.erase(place);
  pool.closed_.push_back(this);
}

// --- all connections ----------------------------------------------------------------------------------------------

Result<Http2Upstream*> Http2Upstreams::take(const core::SandboxSlots& sandbox, bool kept_allowed) {
  const SandboxId id = sandbox.sandbox.id;
  if (const auto known = sandboxes_.find(id); known != sandboxes_.end() && kept_allowed) {
    for (Http2Upstream* upstream : known->second) {
      if (!upstream->has_room()) continue;
      ++shard_.metrics_.upstream_reuses;
      return upstream;
    }
  }
  ++shard_.metrics_.upstream_connects;
  const Result<int> fd = shard_.upstreams().dial(sandbox);
  if (!fd) return failure(fd.error());
  if (free_.empty()) {
    all_.push_back(std::make_unique<Http2Upstream>(shard_));
    free_.push_back(all_.back().get());
  }
  Http2Upstream* upstream = free_.back();
  if (!upstream->open_session()) {
    ::close(*fd);
    return failure(ErrorCode::exhausted, "cannot begin an HTTP/2 session with sandbox {}: out of memory",
                   to_string(id));
  }
  if (Status added = shard_.poller_->add(*upstream, *fd); !added) {
    upstream->close_session();
    return failure(added.error());
  }
  free_.pop_back();
  upstream->sandbox_ = id;
  upstream->leaving_ = upstream->has_carried_ = false;
  sandboxes_[id].push_back(upstream);
  return upstream;
}

void Http2Upstreams::close_idle() {
  for (const auto& upstream : all_) {
    if (!upstream->is_alive()) continue;
    upstream->leaving_ = true;
    if (upstream->streams() == 0) upstream->die(0);
  }
}

void Http2Upstreams::after_batch() {
  free_.insert(free_.end(), closed_.begin(), closed_.end());
  closed_.clear();
}

}  // namespace dirigent::roles
