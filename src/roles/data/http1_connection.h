// SPDX-License-Identifier: MIT
//
// One client connection that speaks HTTP/1.1 (or 1.0): reads heads, lends each request to an Exchange, writes its
// answer.
//
//   head --> busy (an Exchange has it) --> head ...  or  lingering --> closed
//     \--> handed over to an Http2Connection: at once (preface), or after 101 (Upgrade: h2c)
//
// Owned by its ProxyShard, which uses it again for another client after it is closed. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "roles/data/block_pool.h"
#include "roles/data/body_decoder.h"
#include "roles/data/exchange.h"
#include "roles/data/front.h"
#include "roles/data/http_head.h"
#include "roles/data/poller.h"
#include "dirigent/base/timer_wheel.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

class ProxyShard;

class Http1Connection final : public PolledSocket, private ExchangeFront {
 public:
  explicit Http1Connection(ProxyShard& shard);

  // Right after the shard put it into its poller.
  void begin(const ClientPeer& peer);
  // Over a limit of connections: says so and closes.
  void turn_away(const ClientPeer& peer, std::string_view detail);

  // Draining: closes the connection if it carries no request.
  void close_if_idle();
  // The end of the drain.
  void finish_now();
  // Another object has the socket now: gives back everything else.
  void hand_over() { release_all(); }
  [[nodiscard]] const ClientPeer& peer() const { return peer_; }

 private:
  enum class State : std::uint8_t { closed, head, busy, lingering };

  // --- the connection
  void on_ready() override;
  static void on_timer(void* self, Instant now);
  void on_deadline();
  void set_deadline();
  void read_heads();
  [[nodiscard]] bool may_be_http2() const;
  bool fill_input();
  void reserve_room(std::size_t used);
  void take_request(std::size_t head_size);
  void refuse_head(std::string_view detail);
  void begin_request();
  bool upgrade_to_http2(std::size_t head_size);
  void next_request();
  void linger();
  void discard_input();
  void give_input_back();
  void shut();   // closes; the peer sees an orderly end
  void abort();  // closes; the peer sees a reset
  void release_all();

  // --- ExchangeFront
  BodyPart read_body() override;
  [[nodiscard]] std::string_view body_trailers() const override { return body_.trailers(); }
  bool send_continue() override;
  void send_interim(char* head, std::size_t size) override;
  void send_head(char* head, TextWriter& writer, const AnswerFraming& framing) override;
  void send_body(std::string_view payload, bool last, std::string_view trailers) override;
  void drop_queued() override;
  [[nodiscard]] bool is_partly_sent() const override { return output_.is_partly_sent(); }
  Transfer flush() override;
  void parked() override;
  [[nodiscard]] bool is_http10() const override { return is_http10_; }
  void begin_tunnel() override;
  void exchange_done() override;
  void exchange_cut() override;
  void exchange_left() override;

  ProxyShard& shard_;
  TimerNode timer_;
  State state_ = State::closed;
  ClientPeer peer_;
  bool reading_heads_ = false;      // read_heads() is on the stack: answers do not call it again
  bool half_closed_ = false;        // the client ended its half with the request itself, and still wants the answer
  std::uint32_t requests_ = 0;
  Block* input_ = nullptr;          // what the client sent: [input_begin_, input_end_) is not used yet
  std::size_t input_begin_ = 0;
  std::size_t input_end_ = 0;
  HeadScanner scanner_;
  Instant quiet_since_{};           // start of the head, or of the silence before it
  Instant linger_until_{};

  // The request.
  Exchange* exchange_ = nullptr;
  BodyDecoder body_;
  bool keep_alive_ = false;
  bool is_http10_ = false;
  bool tunnel_ = false;
  bool payload_in_input_ = false;   // payload that came with the head is still needed
  bool chunked_ = false;            // the answer
  bool end_says_nothing_ = false;   // the end of the connection is the end of the answer
  Output output_;
  std::array<char, 20> chunk_size_{};
};

}  // namespace dirigent::roles
