// SPDX-License-Identifier: MIT
#include "roles/data/http2_connection.h"

#include <nghttp2/nghttp2.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <array>
#include <utility>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"
#include "roles/data/proxy_shard.h"
#include "roles/data/text_writer.h"

namespace dirigent::roles {

namespace {

constexpr Duration kLingerTimeout = 2s;  // for a client to notice that it should stop sending
constexpr Duration kWarningTime = 1s;  // from the first GOAWAY of a drain to the last, when the client answers no ping

// base64url without padding, as HTTP2-Settings is written. False: it is something else.
bool decode_base64url(std::string_view text, std::string& bytes) {
  std::uint32_t bits = 0;
  int count = 0;
  bytes.clear();
  for (const char c : text) {
    std::uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<std::uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<std::uint32_t>(c - 'a') + 26;
    } else if (c >= '0' && c <= '9') {
      value = static_cast<std::uint32_t>(c - '0') + 52;
    } else if (c == '-' || c == '_') {
      value = c == '-' ? 62 : 63;
    } else {
      return false;
    }
    bits = bits << 6 | value;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>(bits >> count & 0xff));
  }
  return text.size() % 4 != 1;
}

// 16 random bytes in base64, as Sec-WebSocket-Key is written.
void append_websocket_key(std::string& text, Rng& rng) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::uint64_t random = 0;
  for (int i = 0; i < 21; ++i) {
    if (i % 10 == 0) random = rng();
    text.push_back(kDigits[random & 63]);
    random >>= 6;
  }
  // 128 bits are 21 digits and two bits: the last digit has four zero bits behind them.
  text.push_back(kDigits[(rng() & 3) << 4]);
  text.append("==");
}

}  // namespace

// --- a stream -----------------------------------------------------------------------------------------------------

void Http2Request::on_head(bool ended) {
  const char* wrong = connection_->head_problem();
  HeadScanner scanner;
  const std::string& text = connection_->text();
  if (wrong == nullptr && scanner.scan(text) != HeadScanner::Verdict::complete) wrong = scanner.problem();
  if (wrong == nullptr) wrong = parse_request_head(text, shard_.request_limits_, shard_.request_head_);
  if (wrong != nullptr) {
    refuse(Reason::bad_request, wrong);
  } else {
    start(text.size(), ended || connection_->websocket_);
  }
}

void Http2Request::start(std::size_t head_size, bool ended) {
  exchange_ = shard_.take_exchange();
  exchange_->begin(*this, connection_->peer_, head_size, {}, ended);
}

void Http2Request::refuse(Reason reason, std::string_view detail) {
  exchange_ = shard_.take_exchange();
  exchange_->refuse(*this, reason, detail, shard_.now(), true);
}

void Http2Request::on_progress() {
  if (exchange_ != nullptr) exchange_->on_client_ready();
}

void Http2Request::on_broken(std::uint32_t) {
  if (exchange_ != nullptr) {
    exchange_->client_left();
  } else {
    end(NGHTTP2_NO_ERROR);  // its head never came
  }
}

BodyPart Http2Request::read_body() { return read_input(shard_.blocks_); }

bool Http2Request::send_continue() {
  char head[] = "HTTP/1.1 100 Continue\r\n\r\n";
  return !closed_ && session_->submit_interim(*this, head, sizeof head - 1);
}

void Http2Request::send_interim(char* head, std::size_t size) {
  if (!closed_) session_->submit_interim(*this, head, size);
}

void Http2Request::send_head(char* head, TextWriter& writer, const AnswerFraming& framing) {
  if (framing.status == 101) {
    std::copy_n("200", 3, head + 9);  // what an extended CONNECT is granted with
  } else if (framing.has_content_length) {
    writer.add("Content-Length: ").add_number(framing.content_length).add("\r\n");
  }
  head_ = head;
  head_size_ = writer.size();
  ends_with_head_ = framing.complete;
}

void Http2Request::send_body(std::string_view payload, bool last, std::string_view trailers) {
  queue_output(payload, last, trailers);
}

void Http2Request::drop_queued() {
  head_ = nullptr;
  output_ = output_trailers_ = {};
  last_ = false;
}

PolledSocket::Transfer Http2Request::flush() {
  // Before its head an answer has nothing to send.
  if (head_ == nullptr && !submitted_) return {closed_ ? PolledSocket::Io::failed : PolledSocket::Io::done, 0, error_};
  if (head_ != nullptr) {
    if (closed_ || !session_->submit_answer(*this, std::exchange(head_, nullptr), head_size_, ends_with_head_)) {
      return {PolledSocket::Io::failed, 0, error_};
    }
  }
  return output_state();
}

void Http2Request::exchange_done() { end(NGHTTP2_NO_ERROR); }
void Http2Request::exchange_cut() { end(NGHTTP2_INTERNAL_ERROR); }
void Http2Request::exchange_left() { end(NGHTTP2_CANCEL); }

void Http2Request::end(std::uint32_t error_code) {
  if (exchange_ != nullptr) shard_.give_exchange(exchange_);
  exchange_ = nullptr;
  head_ = nullptr;
  connection_->detach(*this, error_code);
  input_.clear(shard_.blocks_);
  Http2Connection* connection = std::exchange(connection_, nullptr);
  shard_.give_http2_request(this);
  connection->stream_ended();
}

// --- a connection -------------------------------------------------------------------------------------------------

Http2Connection::Http2Connection(ProxyShard& shard) : Http2Session(shard, Side::server) {
  timer_.owner = this;
  timer_.fire = &Http2Connection::on_timer;
}

bool Http2Connection::open(const ClientPeer& peer, std::string_view settings, bool is_head) {
  if (!open_session()) return false;
  peer_ = peer;
  draining_ = refusing_ = websocket_ = lingering_ = closes_at_once_ = false;
  quiet_since_ = shard_.now();
  std::string decoded;
  if (settings.empty() || (decode_base64url(settings, decoded) && upgrade(decoded, is_head))) return true;
  close_session();
  return false;
}

void Http2Connection::begin(std::size_t upgraded, std::string_view bytes) {
  shard_.wheel_.set(timer_, quiet_since_ + shard_.options_.limits.keep_alive_timeout);
  want_flush();
  if (upgraded != 0) {
    auto* request = static_cast<Http2Request*>(on_new_stream(1));
    request->input_ended_ = true;
    request->start(upgraded, true);
  }
  if (is_alive() && !bytes.empty()) feed(bytes);
}

Http2Stream* Http2Connection::on_new_stream(std::int32_t id) {
  Http2Request* request = shard_.take_http2_request();
  request->begin_stream();
  request->connection_ = this;
  request->ends_with_head_ = false;
  attach(*request, id);
  return request;
}

const char* Http2Connection::head_problem() const {
  if (head_too_large_) return "the head of the request is too large";
  if (bad_block_) return "more than one Host";
  if (!host_.empty() && !authority_.empty() && host_ != authority_) return "Host and :authority differ";
  if (method_ == "CONNECT" && protocol_ != "websocket") return "CONNECT is not served";
  return nullptr;
}

// An HTTP/1.1 head, so that one parser judges all requests.
void Http2Connection::build_head(bool ended, Http2Stream&) {
  websocket_ = method_ == "CONNECT" && protocol_ == "websocket";
  text_.assign(websocket_ ? "GET" : method_).append(" ").append(path_).append(" HTTP/1.1\r\nHost: ");
  text_.append(authority_.empty() ? host_ : authority_).append("\r\n").append(fields_);
  if (!cookie_.empty()) text_.append("cookie: ").append(cookie_).append("\r\n");
  if (websocket_) {
    text_.append("Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ");
    append_websocket_key(text_, shard_.rng_);
    text_.append("\r\n");
  } else if (!ended && !has_length_) {
    text_.append("Transfer-Encoding: chunked\r\n");
  }
  text_.append("\r\n");
}

void Http2Connection::stream_ended() {
  if (streams() != 0) return;
  quiet_since_ = shard_.now();
  if (!is_alive()) return;
  shard_.wheel_.set(timer_, quiet_since_ + shard_.options_.limits.keep_alive_timeout);
  if (refusing_) want_flush();
}

void Http2Connection::on_goaway(std::int32_t) {
  refusing_ = true;  // the client will ask for nothing more
  want_flush();
}

void Http2Connection::on_flushed() {
  if (refusing_ && streams() == 0) die(0);
}

// --- the end of a connection --------------------------------------------------------------------------------------

void Http2Connection::on_timer(void* self, Instant now) { static_cast<Http2Connection*>(self)->on_deadline(now); }

void Http2Connection::on_deadline(Instant now) {
  if (lingering_) {
    close_socket();
    return;
  }
  if (!is_alive()) return;
  if (draining_) {
    refuse_new_streams();
    return;
  }
  if (streams() != 0) return;  // stream_ended() sets it anew
  if (refusing_) {
    die(0);  // what it says does not leave
  } else if (now >= quiet_since_ + shard_.options_.limits.keep_alive_timeout) {
    refuse_new_streams();
    shard_.wheel_.set(timer_, now + kWarningTime);
  } else {
    shard_.wheel_.set(timer_, quiet_since_ + shard_.options_.limits.keep_alive_timeout);
  }
}

// The client is warned first: what it has sent meanwhile is still served. Its answer to the ping says that it knows.
void Http2Connection::drain() {
  if (!is_alive() || draining_) return;
  draining_ = true;
  if (streams() == 0) {
    refuse_new_streams();
    return;
  }
  submit_shutdown_notice();
  submit_ping();
  shard_.wheel_.set(timer_, shard_.now() + kWarningTime);
}

void Http2Connection::on_ping_ack() {
  if (draining_) refuse_new_streams();
}

void Http2Connection::refuse_new_streams() {
  if (refusing_) return;
  refusing_ = true;
  submit_goaway(NGHTTP2_NO_ERROR);
}

void Http2Connection::finish_now() {
  if (lingering_) close_socket();
  if (!is_alive()) return;
  closes_at_once_ = true;
  for (std::size_t i = streams_.size(); i-- > 0;) {
    if (i >= streams_.size()) continue;
    auto* request = static_cast<Http2Request*>(streams_[i]);
    if (request->exchange_ != nullptr) request->exchange_->finish_now();
  }
  if (!refusing_) submit_goaway(NGHTTP2_NO_ERROR);
  flush();
  die(0);
}

void Http2Connection::on_dead() {
  shard_.wheel_.clear(timer_);
  close_session();
  // Closing with unread bytes would reset the connection, and the client might lose what was said last.
  const bool may_listen = is_open() && !broken() && ::shutdown(fd(), SHUT_WR) == 0;
  if (!may_listen || !discard_input() || closes_at_once_) {
    close_socket();
    return;
  }
  lingering_ = true;
  shard_.wheel_.set(timer_, shard_.now() + kLingerTimeout);
}

void Http2Connection::on_ready() {
  if (!lingering_) {
    Http2Session::on_ready();
  } else if (!discard_input()) {
    close_socket();
  }
}

void Http2Connection::close_socket() {
  lingering_ = false;
  shard_.wheel_.clear(timer_);
  if (is_open()) shard_.poller_->close(*this);
  shard_.connection_closed(*this);
}

}  // namespace dirigent::roles
