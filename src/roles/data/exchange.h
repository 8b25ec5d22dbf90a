// SPDX-License-Identifier: MIT
//
// One request: its name and limits, the slot it waits for or holds, the connection to a sandbox, the relay of both
// bodies, its time limits, and its outcome. Driven by a front (which speaks the client's protocol) and a leg (the
// sandbox's).
//
//   begin --> (a name and a slot) --> connecting --> relaying --> done
//     |  \-> parked --granted-----/                     |   \-> tunnel (after 101)
//     |         \--refused--\                           \--> cut, when part of the answer is out
//     |-- collecting --> storing (an asynchronous call: exchange_async.cpp) --> answering
//     \-- answering (an answer of our own) --> done
//
// Every step is tried inline first: a request that finds a slot and a kept connection is rewritten and sent on within
// the event that brought it, and its answer within another. At most one block of memory per direction is held, so a
// slow side stops the fast one.
//
// Owned by the ProxyShard, lent to a front for one request and used again for another. One thread.
// exchange.cpp has the life of a request, relay.cpp the exchange with the sandbox, exchange_heads.cpp what heads say.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/core/dispatcher.h"
#include "roles/data/async_record.h"
#include "roles/data/block_pool.h"
#include "roles/data/call_log.h"
#include "roles/data/front.h"
#include "roles/data/http1_leg.h"
#include "roles/data/http2_leg.h"
#include "roles/data/metrics.h"
#include "roles/data/naming.h"
#include "roles/data/peers.h"
#include "dirigent/base/timer_wheel.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

class ProxyShard;

class Exchange final : public UpstreamUser {
 public:
  Exchange(ProxyShard& shard, std::uint32_t index);

  // --- for the front
  // Takes the request whose head the shard has just parsed. `first_body`: payload that came with it, which stays until
  // the first read_body(). May end the exchange before it returns.
  void begin(ExchangeFront& front, const ClientPeer& peer, std::size_t head_size, std::string_view first_body,
             bool body_done);
  // Answers something that is no request, or none we want. `counted_as_request`: it had a head.
  void refuse(ExchangeFront& front, Reason reason, std::string_view detail, Instant arrived, bool counted_as_request);
  // The client's socket or stream is ready again for what was blocked. May end the exchange.
  void on_client_ready();
  // The client is gone: everything is given back, and exchange_left() called.
  void client_left();
  // The end of the drain: refuses what is parked, cuts what is in flight.
  void finish_now();
  // The front closes for its own reasons: everything is given back, and the front is not called.
  void drop();
  [[nodiscard]] bool is_tunnel() const { return tunnel_; }
  // The function's answer is still wanted; false while an answer of our own is on its way.
  [[nodiscard]] bool holds_work() const { return state_ != State::idle && state_ != State::answering; }

  // --- for the shard
  // The dispatcher's answers for the request with this token, which was parked.
  [[nodiscard]] core::RequestToken token() const { return token_; }
  [[nodiscard]] bool is_parked() const { return state_ == State::parked; }
  void granted(const core::Lease& lease);
  void refused(const core::Refusal& refusal);

  // Waits for the desk of asynchronous calls, and its reply.
  [[nodiscard]] bool is_storing() const { return state_ == State::storing; }
  void async_replied(AsyncReply reply);
  // For a slot; all the time if it has had none.
  [[nodiscard]] Duration waited() const;

  // --- for the leg
  void on_upstream_ready() override;

 private:
  enum class State : std::uint8_t { idle, parked, connecting, relaying, answering, collecting, storing };

  // --- the life of a request: exchange.cpp
  static void on_timer(void* self, Instant now);
  void on_deadline(Instant now);
  void set_deadline();
  [[nodiscard]] Instant body_deadline() const;
  void reset(ExchangeFront& front);
  void take_call_id(const RequestHead& head);
  void ensure_call_id();
  [[nodiscard]] const core::RoutedFunction* find_function(const NamedPath& path, std::string_view tag) const;
  [[nodiscard]] bool lacks_tag_only(const NamedPath& path) const;
  void answer_unrouted(const NamedPath& path);
  void note_function(const core::RoutedFunction& function);
  void admit(const core::RoutedFunction& function);
  void follow(const core::Admission& admission);
  void answer_own(int status, std::string_view content_type, std::string_view body);
  void answer_problem(Reason reason, std::string_view detail, Duration retry_after = {});
  void send_own(char* head, class TextWriter& writer, int status, std::string_view body);
  void continue_answer();
  void record_outcome(int status, Reason reason);
  void note_call(int status, Reason reason);  // exchange_log.cpp
  void release_all();

  // --- asynchronous calls: exchange_async.cpp
  [[nodiscard]] bool is_for_desk(const NamedPath& path) const;
  void begin_async(const NamedPath& path, const ClientPeer& peer);
  void collect_body();
  void refuse_async_body();
  void ask_desk(const NamedPath& path, AsyncDoor& desk);

  // --- heads: exchange_heads.cpp
  void write_sandbox_head(const NamedPath& path, const ClientPeer& peer, std::size_t head_size);
  void write_forwarded(class TextWriter& writer, const ClientPeer& peer);
  void relay_interim(const ResponseHead& head);
  void write_client_head(const ResponseHead& head);
  void write_timing(class TextWriter& writer);
  void compute_phases(Instant head_at);

  // --- the exchange with the sandbox: relay.cpp
  enum class Progress { made, needs_more, gone };  // gone: the exchange is over or elsewhere
  void start_exchange();
  void open_upstream(bool kept_allowed);
  bool take_leg(bool kept_allowed);
  void pump();
  bool pump_request();
  Progress read_request_body();
  void pump_response();
  Progress take_response_head();
  Progress take_response_body();
  bool begin_tunnel();
  void release_upstream(core::Outcome outcome);
  void end_exchange();
  void upstream_broke(int error);
  void retry_elsewhere(std::string_view detail);
  void fail_exchange(Reason reason, std::string_view detail);
  void cut(Reason reason);
  [[nodiscard]] std::string sandbox_in_words() const;
  [[nodiscard]] bool response_is_complete() const { return response_head_done_ && response_done_; }

  friend class ProxyShard;
  ProxyShard& shard_;
  const std::uint32_t index_;       // among the shard's exchanges
  TimerNode timer_;
  State state_ = State::idle;
  ExchangeFront* front_ = nullptr;

  // The request.
  core::RequestToken token_{};
  core::Lease lease_;
  bool has_lease_ = false;
  bool counted_ = true;             // its outcome is recorded
  bool is_head_ = false;
  bool is_idempotent_ = false;
  bool wants_upgrade_ = false;
  bool expects_continue_ = false;
  bool sent_continue_ = false;
  bool chunked_to_sandbox_ = false;
  bool speaks_http2_ = false;       // the function does
  bool is_stream_ = false;          // gRPC, or a tunnel: silence of the client is no fault
  bool replayable_ = false;         // the head block and `first_body_` are the whole request so far
  RevisionMetrics* metrics_ = nullptr;
  RevisionNumber revision_{};
  std::string function_;
  std::array<char, kCallIdMax> call_id_{};
  std::uint8_t call_id_size_ = 0;
  RequestLimits limits_;
  CallNotes notes_;
  Instant arrived_{};
  Instant last_activity_{};
  Instant quiet_since_{};           // answering: since when

  // The request's body.
  std::string_view first_body_;     // payload that came with the head
  bool first_is_all_ = false;
  bool request_read_ = false;       // the front has given all of it
  bool awaits_body_ = false;        // the sandbox waits for the client
  Instant body_wait_since_{};
  Duration body_waited_{};          // before that
  std::uint64_t body_bytes_ = 0;
  std::uint64_t body_max_ = 0;

  // An asynchronous call that is being accepted, or asked about.
  AsyncSubmission submission_;
  std::string async_line_;          // method and target, for the access log
  bool prefers_async_ = false;

  // The exchange.
  SandboxLeg* leg_ = nullptr;
  Http1Leg http1_leg_;
  Http2Leg http2_leg_;
  bool request_sent_ = false;       // to its last byte
  bool request_broken_ = false;     // the sandbox takes no more of it; its answer is still read
  bool response_head_done_ = false;
  bool response_done_ = false;      // its last byte has arrived
  bool reusable_ = false;           // the response's head does not forbid to keep the connection
  bool tunnel_ = false;
  std::uint8_t interim_responses_ = 0;
  std::uint8_t reconnects_ = 0;     // to the same sandbox, which had not seen the request
  int status_ = 0;
  Instant connect_deadline_{};
  Instant sent_at_{};
  Block* sandbox_head_ = nullptr;   // the rewritten request head
  std::size_t sandbox_head_size_ = 0;
  Block* client_head_ = nullptr;    // the rewritten response head
  Block* own_body_ = nullptr;       // of an answer of our own
  std::array<Duration, kPhases> phases_{};
  bool cold_ = false;
};

}  // namespace dirigent::roles
