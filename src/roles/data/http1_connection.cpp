// SPDX-License-Identifier: MIT
#include "roles/data/http1_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "dirigent/base/assert.h"
#include "roles/data/http2_connection.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {
constexpr Duration kLingerTimeout = 2s;  // for a client to notice that it should stop sending
}  // namespace

Http1Connection::Http1Connection(ProxyShard& shard) : shard_(shard) {
  timer_.owner = this;
  timer_.fire = &Http1Connection::on_timer;
}

// --- a connection -------------------------------------------------------------------------------------------------

void Http1Connection::begin(const ClientPeer& peer) {
  peer_ = peer;
  requests_ = 0;
  half_closed_ = false;
  scanner_.reset();
  state_ = State::head;
  quiet_since_ = shard_.now();
  // The first event brings what there is to read together with the news of an end, which a recv now would not.
  set_deadline();
}

void Http1Connection::turn_away(const ClientPeer& peer, std::string_view detail) {
  begin(peer);
  begin_request();
  body_.begin(Framing::none, 0);
  exchange_->refuse(*this, Reason::max_inflight, detail, shard_.now(), false);
}

void Http1Connection::on_ready() {
  shard_.read_clock();
  switch (state_) {
    case State::closed: return;
    case State::head: read_heads(); return;
    case State::busy: {
      const bool client_is_gone = broken() || (peer_closed() && !half_closed_ && !exchange_->is_tunnel());
      // Half a tunnel may end before the other, and an answer of our own is worth the attempt.
      if (client_is_gone && (exchange_->holds_work() || broken())) {
        exchange_->client_left();
      } else {
        exchange_->on_client_ready();
      }
      return;
    }
    case State::lingering: discard_input(); return;
  }
}

void Http1Connection::on_timer(void* self, Instant) { static_cast<Http1Connection*>(self)->on_deadline(); }

void Http1Connection::set_deadline() {
  const DataLimits& limits = shard_.options_.limits;
  switch (state_) {
    case State::closed:
    case State::busy: return;
    case State::head: {
      const bool in_head = requests_ == 0 || input_begin_ != input_end_;
      shard_.wheel_.set(timer_, quiet_since_ + (in_head ? limits.head_timeout : limits.keep_alive_timeout));
      return;
    }
    case State::lingering: shard_.wheel_.set(timer_, linger_until_); return;
  }
}

void Http1Connection::on_deadline() {
  switch (state_) {
    case State::closed:
    case State::busy: return;
    case State::head:
      if (input_begin_ == input_end_) {
        shut();
        return;
      }
      begin_request();
      body_.begin(Framing::until_close, 0);
      exchange_->refuse(*this, Reason::request_timeout,
                        fmt::format("the head of the request did not arrive within {}",
                                    format_duration(shard_.options_.limits.head_timeout)),
                        quiet_since_, false);
      return;
    case State::lingering: shut(); return;
  }
}

void Http1Connection::close_if_idle() {
  if (state_ == State::head && input_begin_ == input_end_) shut();
}

void Http1Connection::finish_now() {
  keep_alive_ = false;
  if (exchange_ != nullptr) exchange_->finish_now();
  if (state_ != State::closed) shut();
}

// --- reading requests ---------------------------------------------------------------------------------------------

void Http1Connection::read_heads() {
  if (reading_heads_) return;
  reading_heads_ = true;
  while (state_ == State::head) {
    if (input_begin_ < input_end_) {
      const std::string_view bytes(input_->data() + input_begin_, input_end_ - input_begin_);
      if (requests_ == 0 && may_be_http2()) {
        if (bytes.size() >= Http2Connection::kPreface.size()) {
          reading_heads_ = false;
          shard_.become_http2(*this, bytes, {}, 0);
          return;
        }
      } else {
        const HeadScanner::Verdict verdict = scanner_.scan(bytes);
        if (verdict == HeadScanner::Verdict::bad) {
          refuse_head(scanner_.problem());
          continue;
        }
        const std::size_t head_max = shard_.request_limits_.head_bytes_max;
        const bool complete = verdict == HeadScanner::Verdict::complete;
        if (complete ? scanner_.head_size() > head_max : bytes.size() >= head_max) {
          refuse_head(fmt::format("the head of the request is larger than {} bytes", head_max));
          continue;
        }
        if (complete) {
          take_request(scanner_.head_size());
          continue;
        }
      }
    }
    if (!fill_input()) break;
  }
  reading_heads_ = false;
  if (state_ != State::head) return;
  give_input_back();
  set_deadline();
}

// What has come so far is how HTTP/2 with prior knowledge begins; no HTTP/1 request does.
bool Http1Connection::may_be_http2() const {
  const std::size_t size = std::min(input_end_ - input_begin_, Http2Connection::kPreface.size());
  return std::memcmp(input_->data() + input_begin_, Http2Connection::kPreface.data(), size) == 0;
}

// Reads once. False: there is nothing to read, or the connection is closed.
bool Http1Connection::fill_input() {
  if (!readable()) return false;
  if (input_ == nullptr) input_ = shard_.blocks_.take(BlockPool::kSmall);
  const std::size_t used = input_end_ - input_begin_;
  reserve_room(used);
  const Transfer transfer = receive(input_->data() + input_end_, input_->capacity - input_end_);
  switch (transfer.io) {
    case Io::done:
      if (used == 0) quiet_since_ = shard_.now();
      input_end_ += transfer.bytes;
      return true;
    case Io::blocked: return false;
    case Io::ended:
    case Io::failed: shut(); return false;
  }
  return false;
}

void Http1Connection::reserve_room(std::size_t used) {
  if (used == 0) {
    input_begin_ = input_end_ = 0;
  } else if (input_end_ == input_->capacity) {
    Block* target = input_begin_ == 0 ? shard_.blocks_.take(2 * input_->capacity) : input_;
    std::memmove(target->data(), input_->data() + input_begin_, used);
    if (target != input_) shard_.blocks_.give(input_);
    input_ = target;
    input_begin_ = 0;
    input_end_ = used;
  }
}

void Http1Connection::give_input_back() {
  if (input_ == nullptr || input_begin_ != input_end_) return;
  shard_.blocks_.give(input_);
  input_ = nullptr;
  input_begin_ = input_end_ = 0;
}

void Http1Connection::begin_request() {
  exchange_ = shard_.take_exchange();
  state_ = State::busy;
  keep_alive_ = is_http10_ = tunnel_ = payload_in_input_ = chunked_ = end_says_nothing_ = false;
  output_.clear();
}

void Http1Connection::refuse_head(std::string_view detail) {
  ++requests_;
  // Where this request ends cannot be known, so nothing behind it can be read either.
  input_begin_ = input_end_;
  begin_request();
  body_.begin(Framing::until_close, 0);
  exchange_->refuse(*this, Reason::bad_request, detail, shard_.now(), true);
}

void Http1Connection::take_request(std::size_t head_size) {
  RequestHead& head = shard_.request_head_;
  const char* wrong = parse_request_head({input_->data() + input_begin_, head_size}, shard_.request_limits_, head);
  if (wrong != nullptr) {
    refuse_head(wrong);
    return;
  }
  if (upgrade_to_http2(head_size)) return;
  begin_request();
  ++requests_;
  half_closed_ = peer_closed();
  is_http10_ = head.minor_version == 0;
  const std::uint32_t requests_max = shard_.options_.limits.requests_per_connection_max;
  keep_alive_ = (is_http10_ ? head.connection_keep_alive : !head.connection_close) && !shard_.draining_ &&
                !half_closed_ && (requests_max == 0 || requests_ < requests_max);
  input_begin_ += head_size;
  scanner_.reset();
  body_.begin(head.framing, head.content_length);
  body_.withhold_listed(head);
  char* payload = input_->data() + input_begin_;
  const BodyDecoder::Step step = body_.decode(payload, input_end_ - input_begin_);
  if (body_.problem() != nullptr) {
    keep_alive_ = false;
    input_begin_ = input_end_;
    exchange_->refuse(*this, Reason::bad_request, body_.problem(), shard_.now(), true);
    return;
  }
  input_begin_ += step.consumed;
  payload_in_input_ = step.produced > 0;
  exchange_->begin(*this, peer_, head_size, {payload, step.produced}, body_.done());
}

// `Upgrade: h2c` on a first request without a body: the answer to it is stream 1 of the HTTP/2 connection. In every
// other place the offer is ignored, as it may be.
bool Http1Connection::upgrade_to_http2(std::size_t head_size) {
  const RequestHead& head = shard_.request_head_;
  if (!head.connection_upgrade || head.upgrade.empty() || !equals_ignoring_case(head.upgrade, "h2c")) return false;
  if (head.minor_version != 1 || head.framing != Framing::none || requests_ != 0 || shard_.draining_) return false;
  std::string_view settings;
  int found = 0;
  for (const HeaderField& field : head) {
    if (!equals_ignoring_case(field.name, "http2-settings")) continue;
    settings = field.value;
    ++found;
  }
  if (found != 1) return false;
  const std::string_view bytes(input_->data() + input_begin_, input_end_ - input_begin_);
  return shard_.become_http2(*this, bytes, settings, head_size);
}

// --- ExchangeFront: the request's body ------------------------------------------------------------------------------

BodyPart Http1Connection::read_body() {
  BodyPart part;
  payload_in_input_ = false;
  if (input_begin_ == input_end_) {
    if (!readable()) return part;
    const std::size_t wanted = body_.expected() > BlockPool::kMedium ? BlockPool::kLarge : BlockPool::kMedium;
    if (input_ == nullptr || input_->capacity < wanted) {
      shard_.blocks_.give(input_);
      input_ = shard_.blocks_.take(wanted);
    }
    input_begin_ = input_end_ = 0;
    const Transfer transfer = receive(input_->data(), input_->capacity);
    switch (transfer.io) {
      case Io::done: input_end_ = transfer.bytes; break;
      case Io::blocked: return part;
      case Io::ended:
        part.last = tunnel_ && body_.end_of_input();
        part.state = tunnel_ ? BodyPart::State::ready : BodyPart::State::ended;
        return part;
      case Io::failed:
        part.state = BodyPart::State::failed;
        part.error = transfer.error;
        return part;
    }
  }
  char* data = input_->data() + input_begin_;
  const BodyDecoder::Step step = body_.decode(data, input_end_ - input_begin_);
  input_begin_ += step.consumed;
  part.problem = body_.problem();
  part.state = part.problem == nullptr ? BodyPart::State::ready : BodyPart::State::bad;
  if (part.problem != nullptr) keep_alive_ = false;
  part.payload = {data, step.produced};
  part.last = body_.done();
  return part;
}

void Http1Connection::parked() {
  // The block stays while payload that came with the head is in it.
  if (!payload_in_input_) give_input_back();
}

void Http1Connection::begin_tunnel() {
  tunnel_ = true;
  keep_alive_ = false;
  body_.begin(Framing::until_close, 0);
}

// --- ExchangeFront: the answer --------------------------------------------------------------------------------------

// The socket's buffer is empty at this point.
bool Http1Connection::send_continue() {
  constexpr std::string_view kText = "HTTP/1.1 100 Continue\r\n\r\n";
  Output promise;
  promise.add(kText.data(), kText.size());
  return send(promise).io == Io::done;
}

void Http1Connection::send_interim(char* head, std::size_t size) { output_.add(head, size); }

void Http1Connection::send_head(char* head, TextWriter& writer, const AnswerFraming& framing) {
  const bool has_end = framing.status == 101 || framing.has_content_length || framing.framing == Framing::none;
  chunked_ = !has_end && !is_http10_;
  end_says_nothing_ = framing.status == 101 || (!has_end && is_http10_);
  if (!body_.done() || shard_.draining_ || end_says_nothing_) keep_alive_ = false;
  if (framing.status == 101) {
    writer.add("Connection: upgrade\r\n").add_header("Upgrade", framing.upgrade);
  } else if (framing.has_content_length) {
    writer.add("Content-Length: ").add_number(framing.content_length).add("\r\n");
  } else if (chunked_) {
    // A body whose length is not known: chunks for those who understand them, else the end of the connection.
    writer.add("Transfer-Encoding: chunked\r\n");
  }
  if (framing.status != 101 && !keep_alive_) writer.add("Connection: close\r\n");
  if (keep_alive_ && is_http10_) writer.add("Connection: keep-alive\r\n");
  writer.add("\r\n");
  output_.add(head, writer.size());
  // The end that the leg has reached before the head was written is told by nobody else.
  if (chunked_ && framing.complete) queue_chunk(output_, chunk_size_, {}, true, {});
}

void Http1Connection::send_body(std::string_view payload, bool last, std::string_view trailers) {
  if (chunked_) {
    queue_chunk(output_, chunk_size_, payload, last, trailers);
  } else {
    output_.add(payload.data(), payload.size());
  }
}

void Http1Connection::drop_queued() { output_.clear(); }

PolledSocket::Transfer Http1Connection::flush() {
  if (!output_.pending()) return {};
  return send(output_);
}

// --- the end of a request and of a connection ---------------------------------------------------------------------

void Http1Connection::exchange_done() {
  shard_.give_exchange(exchange_);
  exchange_ = nullptr;
  if (tunnel_) {
    shut();
  } else {
    next_request();
  }
}

void Http1Connection::exchange_cut() {
  shard_.give_exchange(exchange_);
  exchange_ = nullptr;
  if (end_says_nothing_) {
    abort();
  } else {
    shut();
  }
}

void Http1Connection::exchange_left() {
  shard_.give_exchange(exchange_);
  exchange_ = nullptr;
  // It may have ended its half only, and still read.
  if (end_says_nothing_ && !tunnel_) {
    abort();
  } else {
    shut();
  }
}

void Http1Connection::next_request() {
  if (!keep_alive_ || shard_.draining_) {
    // Closing with unread bytes would reset the connection, and the client might lose the answer.
    if (body_.done() && !readable()) {
      shut();
    } else {
      linger();
    }
    return;
  }
  state_ = State::head;
  quiet_since_ = shard_.now();
  if (!reading_heads_) read_heads();
}

void Http1Connection::linger() {
  ::shutdown(fd(), SHUT_WR);
  state_ = State::lingering;
  linger_until_ = shard_.now() + kLingerTimeout;
  discard_input();
}

void Http1Connection::discard_input() {
  if (input_ == nullptr) input_ = shard_.blocks_.take(BlockPool::kSmall);
  // Bounded per event, so that a client that floods us does not hold up the others.
  for (int reads = 0; readable() && reads < 64; ++reads) {
    const Transfer transfer = receive(input_->data(), input_->capacity);
    if (transfer.io == Io::ended || transfer.io == Io::failed) {
      shut();
      return;
    }
    if (transfer.io == Io::blocked) break;
  }
  if (readable()) {
    shut();
    return;
  }
  set_deadline();
}

void Http1Connection::shut() {
  release_all();
  shard_.poller_->close(*this);
  shard_.connection_closed(*this);
}

void Http1Connection::abort() {
  release_all();
  shard_.poller_->reset(*this);
  shard_.connection_closed(*this);
}

void Http1Connection::release_all() {
  if (exchange_ != nullptr) {
    exchange_->drop();
    shard_.give_exchange(exchange_);
    exchange_ = nullptr;
  }
  shard_.wheel_.clear(timer_);
  shard_.blocks_.give(input_);
  input_ = nullptr;
  input_begin_ = input_end_ = 0;
  output_.clear();
  state_ = State::closed;
}

}  // namespace dirigent::roles
