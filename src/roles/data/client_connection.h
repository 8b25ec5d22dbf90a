// SPDX-License-Identifier: MIT
//
// One HTTP/1 client connection and the request it carries: the forwarding path, as a state machine driven by readiness.
//
//   head --> (a name and a slot) --> relaying --> head ...
//     |  \-> parked --granted-----/     |   \-> tunnel (after 101)
//     |         \--refused--\           |
//     \-- answering (an answer of our own) --> head, or lingering --> closed
//
// Every byte is tried inline first: a request that finds a slot and a kept connection is read, rewritten and sent on
// within one event, and its response within another. At most one block of memory per direction is held, so a slow side
// stops the fast one.
//
// Owned by its ProxyShard, which uses it again for another client after it is closed. One thread.
// client_connection.cpp has the client's side, relay.cpp the exchange with the sandbox.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/core/dispatcher.h"
#include "roles/data/block_pool.h"
#include "roles/data/body_decoder.h"
#include "roles/data/http_head.h"
#include "roles/data/metrics.h"
#include "roles/data/naming.h"
#include "roles/data/poller.h"
#include "roles/data/timer_wheel.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

class ProxyShard;

class ClientConnection final : public PolledSocket, public UpstreamUser {
 public:
  ClientConnection(ProxyShard& shard, std::uint32_t index);

  // Right after the shard put it into its poller.
  void begin(const SocketAddress& peer);
  // Over the limit of connections: says so and closes.
  void turn_away();

  // The dispatcher's answers for the request with this token, which was parked.
  [[nodiscard]] core::RequestToken token() const { return token_; }
  [[nodiscard]] bool is_parked() const { return state_ == State::parked; }
  void granted(const core::Lease& lease);
  void refused(const core::Refusal& refusal);

  void on_upstream_ready() override;

  // Draining: closes the connection if it carries no request.
  void close_if_idle();
  // The end of the drain: refuses what is parked, cuts what is in flight.
  void finish_now();

 private:
  enum class State : std::uint8_t { closed, head, parked, connecting, relaying, answering, lingering };

  // --- the client's side: client_connection.cpp
  void on_ready() override;
  static void on_timer(void* self, Instant now);
  void on_deadline(Instant now);
  void set_deadline();
  void read_heads();
  bool fill_input();
  void take_request(std::size_t head_size);
  const core::RoutedFunction* find_function(const NamedPath& path) const;
  void write_sandbox_head(const NamedPath& path, std::size_t head_size);
  void write_forwarded(class TextWriter& writer);
  void admit(const core::RoutedFunction& function);
  void follow(const core::Admission& admission);
  void reset_request();
  void answer_own(int status, std::string_view content_type, std::string_view body);
  void answer_problem(Reason reason, std::string_view detail, Duration retry_after = {});
  void refuse_head(std::string_view detail);
  void send_answer();
  void next_request();
  void linger();
  void discard_input();
  void count_request(int status, Reason reason);
  void give_input_back();
  void shut();   // closes; the peer sees an orderly end
  void abort();  // closes; the peer sees a reset
  void release_all();

  // --- the exchange with the sandbox: relay.cpp
  enum class Progress { made, needs_more, gone };  // gone: the exchange is over or elsewhere
  void start_exchange();
  void open_upstream(bool kept_allowed);
  void queue_request();
  void pump();
  bool pump_request();
  void pump_response();
  Progress read_request_body();
  void queue_request_body(std::string_view payload);
  void queue_response_body(std::string_view payload);
  Progress read_response();
  Progress take_response_head();
  void relay_interim(const ResponseHead& head);
  bool begin_tunnel();
  void write_client_head(const ResponseHead& head);
  void write_timing(class TextWriter& writer);
  void take_response_body();
  void compute_phases(Instant head_at);
  void release_upstream(core::Outcome outcome);
  void end_exchange();
  void upstream_broke(int error);
  void retry_elsewhere(std::string_view detail);
  void fail_exchange(Reason reason, std::string_view detail);
  void cut(Reason reason);
  void break_off();
  void client_left();

  friend class ProxyShard;
  ProxyShard& shard_;
  const std::uint32_t index_;       // among the shard's connections
  TimerNode timer_;
  State state_ = State::closed;

  // The connection.
  std::array<char, 48> peer_text_{};
  std::uint8_t peer_text_size_ = 0;
  bool peer_trusted_ = false;
  bool reading_heads_ = false;      // read_heads() is on the stack: answers do not call it again
  bool half_closed_ = false;        // the client ended its half with the request itself, and still wants the answer
  std::uint32_t requests_ = 0;
  Block* input_ = nullptr;          // what the client sent: [input_begin_, input_end_) is not used yet
  std::size_t input_begin_ = 0;
  std::size_t input_end_ = 0;
  HeadScanner scanner_;             // of requests
  Instant quiet_since_{};           // start of the head, or of the silence before it
  Instant linger_until_{};

  // The request.
  core::RequestToken token_{};
  core::Lease lease_;
  bool has_lease_ = false;
  bool counted_ = true;             // the metrics know how it ended
  bool keep_alive_ = false;
  bool is_http10_ = false;
  bool is_head_ = false;
  bool is_idempotent_ = false;
  bool wants_upgrade_ = false;
  bool expects_continue_ = false;
  bool sent_continue_ = false;
  bool chunked_to_sandbox_ = false;
  bool replayable_ = false;         // the head block and `first_body_` are the whole request so far
  RevisionMetrics* metrics_ = nullptr;
  RevisionNumber revision_{};
  std::string function_;
  std::array<char, kCallIdMax> call_id_{};
  std::uint8_t call_id_size_ = 0;
  RequestLimits limits_;
  Instant arrived_{};
  Instant last_activity_{};
  Instant body_wait_since_{};

  // The exchange.
  UpstreamConnection* upstream_ = nullptr;
  bool upstream_was_kept_ = false;
  bool upstream_reusable_ = false;
  bool request_sent_ = false;       // to its last byte
  bool request_broken_ = false;     // the sandbox takes no more of it; its answer is still read
  bool response_head_done_ = false;
  bool tunnel_ = false;
  bool chunked_to_client_ = false;
  std::uint8_t interim_responses_ = 0;
  int status_ = 0;
  Instant connect_deadline_{};
  Instant sent_at_{};
  std::uint64_t bytes_to_sandbox_ = 0;   // on the present upstream connection
  std::uint64_t bytes_from_sandbox_ = 0;
  BodyDecoder request_body_;
  BodyDecoder response_body_;
  std::string_view first_body_;     // payload that came with the head
  Block* sandbox_head_ = nullptr;   // the rewritten request head
  std::size_t sandbox_head_size_ = 0;
  Block* client_head_ = nullptr;    // the rewritten response head, or an answer of our own
  Block* response_ = nullptr;       // what the sandbox sent
  std::size_t response_begin_ = 0;
  std::size_t response_end_ = 0;
  HeadScanner response_scanner_;
  Output to_sandbox_;
  Output to_client_;
  std::array<char, 20> request_chunk_{};   // "1000\r\n"
  std::array<char, 20> response_chunk_{};
  std::array<Duration, kPhases> phases_{};
  bool cold_ = false;
};

}  // namespace dirigent::roles
