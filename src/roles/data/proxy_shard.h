// SPDX-License-Identifier: MIT
//
// One forwarding shard: a listener, its client connections, its connections to sandboxes, and the dispatcher that
// decides about their requests. Lives on one loop and is called on that loop's thread only; what it has to tell others
// goes out through ShardPorts.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/core/dispatcher.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "roles/data/async_front.h"
#include "roles/data/async_record.h"
#include "roles/data/block_pool.h"
#include "roles/data/call_log.h"
#include "roles/data/exchange.h"
#include "roles/data/http1_connection.h"
#include "roles/data/http2_connection.h"
#include "roles/data/http2_leg.h"
#include "roles/data/metrics.h"
#include "roles/data/peers.h"
#include "roles/data/poller.h"
#include "roles/data/proxy_options.h"
#include "dirigent/base/timer_wheel.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

class AccessLog;

// What the shards of one data plane share besides slots.
struct DataPlaneShared {
  std::atomic<std::uint32_t> connections{0};
  std::atomic<bool> routes_complete{false};  // an unknown name is really unknown
  std::atomic<bool> leaving{false};          // load balancers are being told to go elsewhere
  std::atomic<std::uint64_t> memory{0};      // what requests hold, as of every shard's last batch
  AddressCounts addresses;
  AccessLog* access_log = nullptr;           // nullptr: there is none
  std::atomic<AsyncDoor*> async{nullptr};    // nullptr: no asynchronous calls
};

// How a shard reaches the others. Called on the shard's thread; each takes over what it is given.
struct ShardPorts {
  std::function<void(std::uint32_t shard, std::vector<core::ShardMessage>)> post;
  std::function<void(std::vector<DataPlaneMessage>)> tell_control;
  std::function<void()> tell_released;  // the Switchboard waits for it: see DispatcherEffects::released
  std::function<void()> drained;  // draining, and the last client connection has gone
};

class ProxyShard {
 public:
  // Takes over the listening descriptor.
  static Result<std::unique_ptr<ProxyShard>> open(io::Loop& loop, const ProxyOptions& options, std::uint32_t index,
                                                  int listen_fd, DataPlaneShared& shared, ShardPorts ports);
  ProxyShard(const ProxyShard&) = delete;
  ProxyShard& operator=(const ProxyShard&) = delete;
  ~ProxyShard();

  void apply(const core::RouteTableChange& change);
  void receive(std::vector<core::ShardMessage> messages);
  // Reports every load at once: a new control plane has to learn it.
  void report_all();
  // Stops accepting and closes idle connections; the rest closes as it is answered.
  void drain();
  // Refuses what is parked and cuts what is in flight. After it the shard has no connection and no lease.
  void finish_now();

  // Asynchronous calls: an attempt to make, and the desk's reply to a client that waits for one.
  void run_stored(StoredRun run);
  void async_replied(core::RequestToken token, AsyncReply reply);
  // Requests of a function in its queue, of all shards; nullopt: it is not known.
  [[nodiscard]] std::optional<std::uint32_t> waiting(std::string_view function) const;

  [[nodiscard]] MetricsSnapshot snapshot() const;
  [[nodiscard]] const CallLog& calls() const { return calls_; }
  [[nodiscard]] std::size_t connections() const { return open_connections_; }
  // Requests that hold a slot, as of the last batch of events. Any thread.
  [[nodiscard]] std::uint32_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t parked() const { return dispatcher_.parked(); }

  // --- for the legs of exchanges
  [[nodiscard]] BlockPool& blocks() { return blocks_; }
  [[nodiscard]] UpstreamPool& upstreams() { return *upstreams_; }
  [[nodiscard]] Http2Upstreams& http2_upstreams() { return *http2_upstreams_; }
  [[nodiscard]] const HeadLimits& response_limits() const { return response_limits_; }
  // When the clock was read last.
  [[nodiscard]] Instant now() const { return now_; }

 private:
  friend class Exchange;
  friend class Http1Connection;
  friend class Http2Connection;
  friend class Http2Leg;
  friend class Http2Request;
  friend class Http2Session;
  friend class Http2Upstream;
  friend class Http2Upstreams;
  friend class StoredFront;
  class Listener;

  ProxyShard(io::Loop& loop, const ProxyOptions& options, std::uint32_t index, DataPlaneShared& shared,
             ShardPorts ports);

  void accept_all();
  static void on_accept_timer(void* self, Instant now);
  bool admit_peer(ClientPeer& peer, std::string& why_not);
  // A client has asked for HTTP/2: the connection gets another object. `bytes` begin with what it sent, of which
  // `head_size` are the head of the request that becomes stream 1 (0 = none). False: `settings` are malformed.
  bool become_http2(Http1Connection& from, std::string_view bytes, std::string_view settings, std::size_t head_size);
  void connection_closed(Http1Connection& connection);
  void connection_closed(Http2Connection& connection);
  void client_gone(const ClientPeer& peer);

  void stored_ended(StoredFront& front, const CallId& id, const core::AttemptOutcome& outcome, StoredResult result);
  Exchange* take_exchange();
  void give_exchange(Exchange* exchange) { free_exchanges_.push_back(exchange); }
  Http2Request* take_http2_request();
  void give_http2_request(Http2Request* request) { free_requests_.push_back(request); }
  Exchange* exchange_of(core::RequestToken token) const;
  core::RequestToken new_token(const Exchange& exchange);

  // What all shards hold, this one's as of now.
  [[nodiscard]] std::uint64_t memory_in_use() const;
  [[nodiscard]] bool is_short_of_memory(std::uint64_t used) const {
    return used > static_cast<std::uint64_t>(options_.limits.memory_max.value);
  }
  void tell_memory();

  // True while a batch of events is told: the exchange writes at the end of it, together with the others. Whoever is
  // written to wakes up once for a batch then, instead of once for each write, and a wake-up costs more than a write.
  bool put_off(Exchange& exchange);
  void resume_put_off();

  // HTTP/2 sessions that have something to send, to read on with later, or a window to give back.
  void flush_later(Http2Session& session) { to_flush_.push_back(&session); }
  void forget_flush(Http2Session& session);
  void read_on_later(Http2Session& session);
  void return_window_later(Http2Session& session) { starved_.push_back(&session); }
  void forget_session(Http2Session& session);
  void flush_sessions();

  // Reads the clock; now() is what it said last.
  Instant read_clock();
  [[nodiscard]] std::uint64_t wall_ns() const;
  std::string_view date();

  // Performs what the dispatcher wants, until it wants nothing more, and arms the timer. At the end of every batch of
  // events and of everything that others ask of this shard.
  void settle();
  void perform_effects();
  void send_effects();
  void on_wakeup();

  io::Loop& loop_;
  const ProxyOptions options_;
  const std::uint32_t index_;
  DataPlaneShared& shared_;
  ShardPorts ports_;
  PeerFilter trusted_;
  HeadLimits request_limits_;
  HeadLimits response_limits_;

  Instant now_;
  std::int64_t wall_offset_ns_ = 0;  // wall clock minus our clock
  Instant wall_read_{};
  std::int64_t date_second_ = -1;
  char date_text_[32] = {};

  Rng rng_;
  BlockPool blocks_;
  TimerWheel wheel_;
  std::unique_ptr<Poller> poller_;
  std::unique_ptr<UpstreamPool> upstreams_;
  std::unique_ptr<Http2Upstreams> http2_upstreams_;
  core::Dispatcher dispatcher_;
  core::DispatcherEffects effects_;     // what calls of the dispatcher add to
  core::DispatcherEffects performing_;  // what is being performed
  std::vector<std::vector<core::ShardMessage>> outbox_;  // by shard
  ShardMetrics metrics_;
  CallLog calls_;
  std::string log_line_;       // being written
  RequestHead request_head_;   // of the request being taken apart
  ResponseHead response_head_;
  std::string text_;           // for answers of our own

  std::unique_ptr<Listener> listener_;
  TimerNode accept_timer_;     // when descriptors ran out
  // Objects are used again: those of connections from the next batch on, because an event of this one may name them.
  template <class Connection>
  struct Pool {
    std::vector<std::unique_ptr<Connection>> all;
    std::vector<Connection*> free;
    std::vector<Connection*> closed;
    Connection* take(ProxyShard& shard);
    void after_batch();
  };
  Pool<Http1Connection> http1_;
  Pool<Http2Connection> http2_;
  std::vector<std::unique_ptr<Exchange>> exchanges_;
  std::vector<Exchange*> free_exchanges_;
  std::vector<std::unique_ptr<Http2Request>> requests_;
  std::vector<Http2Request*> free_requests_;
  std::vector<std::unique_ptr<StoredFront>> stored_;
  std::vector<StoredFront*> free_stored_;
  std::size_t stored_running_ = 0;
  std::size_t stored_bytes_ = 0;         // bodies of asynchronous calls that are being collected
  std::vector<Exchange*> put_off_;
  std::vector<Http2Session*> to_flush_;  // nullptr: has gone meanwhile
  std::vector<Http2Session*> to_read_;
  std::vector<Http2Session*> starved_;
  std::vector<char> read_buffer_;        // what HTTP/2 sessions read into
  std::size_t session_memory_ = 0;       // that nghttp2 holds
  std::uint64_t told_memory_ = 0;        // this shard's part of shared_.memory
  std::uint64_t tokens_ = 0;
  std::size_t open_connections_ = 0;
  std::atomic<std::uint32_t> in_flight_{0};
  bool is_performing_ = false;
  bool draining_ = false;
  bool told_drained_ = false;
  io::WakeupTimer timer_;
};

}  // namespace dirigent::roles
