// SPDX-License-Identifier: MIT
//
// The front that speaks HTTP/2: one client connection, one Http2Request with one Exchange per stream. Streams of one
// connection share nothing but its socket: each waits, runs and fails by itself, and nghttp2 sends their frames in
// turn.
//
// Owned by its ProxyShard, which uses both kinds of objects again. One thread.
#pragma once

#include <cstdint>
#include <string_view>

#include "roles/data/exchange.h"
#include "roles/data/front.h"
#include "roles/data/http2_session.h"
#include "dirigent/base/timer_wheel.h"

namespace dirigent::roles {

class Http2Connection;

// One stream of a client: the request on it.
class Http2Request final : public Http2Stream, private ExchangeFront {
 public:
  explicit Http2Request(ProxyShard& shard) : shard_(shard) {}

 private:
  friend class Http2Connection;

  // --- Http2Stream
  void on_head(bool ended) override;
  void on_progress() override;
  void on_broken(std::uint32_t error_code) override;

  // --- ExchangeFront
  BodyPart read_body() override;
  [[nodiscard]] std::string_view body_trailers() const override { return trailers_; }
  bool send_continue() override;
  void send_interim(char* head, std::size_t size) override;
  void send_head(char* head, TextWriter& writer, const AnswerFraming& framing) override;
  void send_body(std::string_view payload, bool last, std::string_view trailers) override;
  void drop_queued() override;
  [[nodiscard]] bool is_partly_sent() const override { return false; }  // frames are whole or not begun
  PolledSocket::Transfer flush() override;
  void parked() override {}
  [[nodiscard]] bool is_http10() const override { return false; }
  void begin_tunnel() override {}
  void exchange_done() override;
  void exchange_cut() override;
  void exchange_left() override;

  void start(std::size_t head_size, bool ended);
  void refuse(Reason reason, std::string_view detail);
  void end(std::uint32_t error_code);

  ProxyShard& shard_;
  Http2Connection* connection_ = nullptr;
  Exchange* exchange_ = nullptr;
  char* head_ = nullptr;            // of the answer; not handed to nghttp2 yet
  std::size_t head_size_ = 0;
  bool ends_with_head_ = false;
};

class Http2Connection final : public Http2Session {
 public:
  static constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

  explicit Http2Connection(ProxyShard& shard);

  // Before it has a socket. `settings`: the value of HTTP2-Settings of a request that asked for the upgrade, "" for
  // prior knowledge. False: they are malformed, and the connection stays closed.
  bool open(const ClientPeer& peer, std::string_view settings, bool is_head);
  // It has a socket. `upgraded`: the size of the head, in the shard's request head, that is stream 1; 0 = none.
  // `bytes`: what came behind.
  void begin(std::size_t upgraded, std::string_view bytes);

  // Draining: no new streams. The connection ends with its last stream.
  void drain();
  // The end of the drain.
  void finish_now();
  [[nodiscard]] const ClientPeer& peer() const { return peer_; }

 private:
  friend class Http2Request;

  void on_ready() override;
  Http2Stream* on_new_stream(std::int32_t id) override;
  void build_head(bool ended, Http2Stream& stream) override;
  void on_goaway(std::int32_t last_stream_id) override;
  void on_ping_ack() override;
  void on_dead() override;
  void on_flushed() override;
  static void on_timer(void* self, Instant now);
  void on_deadline(Instant now);
  void refuse_new_streams();
  void stream_ended();
  void close_socket();
  [[nodiscard]] const char* head_problem() const;

  TimerNode timer_;
  ClientPeer peer_;
  Instant quiet_since_{};           // without a stream
  bool draining_ = false;           // the client has been warned
  bool refusing_ = false;           // new streams are refused; ends with the last one
  bool lingering_ = false;          // the session has ended; the client has not noticed yet
  bool closes_at_once_ = false;
  bool websocket_ = false;          // the head just built asks for a tunnel
};

}  // namespace dirigent::roles
