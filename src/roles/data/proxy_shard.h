// SPDX-License-Identifier: MIT
//
// One forwarding shard: a listener, its client connections, its connections to sandboxes, and the dispatcher that decides
// about their requests. Lives on one loop and is called on that loop's thread only; what it has to tell others goes out
// through ShardPorts.
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
#include "roles/data/block_pool.h"
#include "roles/data/client_connection.h"
#include "roles/data/metrics.h"
#include "roles/data/poller.h"
#include "roles/data/proxy_options.h"
#include "roles/data/timer_wheel.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

// What the shards of one data plane share besides slots.
struct DataPlaneShared {
  std::atomic<std::uint32_t> connections{0};
  std::atomic<bool> routes_complete{false};  // an unknown name is really unknown
};

// How a shard reaches the others. Called on the shard's thread; each takes over what it is given.
struct ShardPorts {
  std::function<void(std::uint32_t shard, std::vector<core::ShardMessage>)> post;
  std::function<void(std::vector<DataPlaneMessage>)> tell_control;
  std::function<void()> tell_released;  // the Switchboard waits for it: see DispatcherEffects::released
  std::function<void()> drained;  // draining, and the last client connection has gone
};

// A parsed entry of trusted_proxies.
class PeerFilter {
 public:
  static Result<PeerFilter> parse(const std::vector<std::string>& entries);
  [[nodiscard]] bool contains(const SocketAddress& peer) const;

 private:
  struct Network {
    std::array<std::uint8_t, 16> address{};  // IPv4 as ::ffff:a.b.c.d
    int bits = 128;
  };
  std::vector<Network> networks_;
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

  [[nodiscard]] MetricsSnapshot snapshot() const;
  [[nodiscard]] std::size_t connections() const { return open_connections_; }
  // Requests that hold a slot, as of the last batch of events. Any thread.
  [[nodiscard]] std::uint32_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t parked() const { return dispatcher_.parked(); }

 private:
  friend class ClientConnection;
  class Listener;

  ProxyShard(io::Loop& loop, const ProxyOptions& options, std::uint32_t index, DataPlaneShared& shared, ShardPorts ports);

  void accept_all();
  static void on_accept_timer(void* self, Instant now);
  void connection_closed(ClientConnection& connection);
  ClientConnection* connection_of(core::RequestToken token) const;
  core::RequestToken new_token(const ClientConnection& connection);

  // Reads the clock; now() is what it said last.
  Instant read_clock();
  [[nodiscard]] Instant now() const { return now_; }
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
  core::Dispatcher dispatcher_;
  core::DispatcherEffects effects_;     // what calls of the dispatcher add to
  core::DispatcherEffects performing_;  // what is being performed
  std::vector<std::vector<core::ShardMessage>> outbox_;  // by shard
  ShardMetrics metrics_;
  RequestHead request_head_;   // of the request being taken apart
  ResponseHead response_head_;
  std::string text_;           // for answers of our own

  std::unique_ptr<Listener> listener_;
  TimerNode accept_timer_;     // when descriptors ran out
  std::vector<std::unique_ptr<ClientConnection>> all_;
  std::vector<ClientConnection*> free_;
  std::vector<ClientConnection*> closed_;  // in this batch
  std::uint64_t tokens_ = 0;
  std::size_t open_connections_ = 0;
  std::atomic<std::uint32_t> in_flight_{0};
  bool is_performing_ = false;
  bool draining_ = false;
  bool told_drained_ = false;
  io::WakeupTimer timer_;
};

}  // namespace dirigent::roles
