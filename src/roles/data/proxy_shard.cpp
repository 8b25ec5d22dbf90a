// SPDX-License-Identifier: MIT
#include "roles/data/proxy_shard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "dirigent/base/text.h"

namespace dirigent::roles {

namespace {

constexpr std::uint64_t kIndexBits = 24;  // of a token: which connection; the rest tells its requests apart
constexpr std::uint64_t kIndexMask = (std::uint64_t{1} << kIndexBits) - 1;
constexpr Duration kAcceptPause = 100ms;  // when descriptors have run out

HeadLimits head_limits(const DataLimits& limits, std::int64_t factor) {
  HeadLimits made;
  made.head_bytes_max = static_cast<std::size_t>(limits.head_max.value * factor);
  made.headers_max = std::min<std::size_t>(limits.headers_max, MessageHead::kHeadersMax);
  made.target_bytes_max = static_cast<std::size_t>(limits.target_max.value);
  return made;
}

core::DispatcherOptions dispatcher_options(const ProxyOptions& options, std::uint32_t index) {
  core::DispatcherOptions made;
  made.shard = index;
  made.shards = options.shards;
  made.balancer = options.balancer;
  made.seed = options.seed + index;
  return made;
}

std::array<std::uint8_t, 16> as_v6(const SocketAddress& address) {
  std::array<std::uint8_t, 16> bytes{};
  if (address.storage.ss_family == AF_INET6) {
    std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr, 16);
  } else {
    bytes[10] = bytes[11] = 0xff;
    std::memcpy(bytes.data() + 12, &reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr, 4);
  }
  return bytes;
}

}  // namespace

Result<PeerFilter> PeerFilter::parse(const std::vector<std::string>& entries) {
  PeerFilter filter;
  for (const std::string& entry : entries) {
    const std::size_t slash = entry.find('/');
    const std::string host = entry.substr(0, slash);
    const bool is_v6 = host.find(':') != std::string::npos;
    const auto address = parse_socket_address(is_v6 ? "[" + host + "]:0" : host + ":0");
    if (!address) {
      return failure(ErrorCode::invalid_argument, "trusted_proxies: \"{}\" is not an address or network", entry);
    }
    Network network{as_v6(*address), 128};
    if (slash != std::string::npos) {
      const auto bits = parse_integer(std::string_view(entry).substr(slash + 1));
      const int bits_max = is_v6 ? 128 : 32;
      if (!bits || *bits < 0 || *bits > bits_max) {
        return failure(ErrorCode::invalid_argument, "trusted_proxies: \"{}\": the prefix must be 0 to {} bits", entry, bits_max);
      }
      network.bits = static_cast<int>(*bits) + (is_v6 ? 0 : 96);
    }
    filter.networks_.push_back(network);
  }
  return filter;
}

bool PeerFilter::contains(const SocketAddress& peer) const {
  if (networks_.empty()) return false;
  const auto bytes = as_v6(peer);
  return std::any_of(networks_.begin(), networks_.end(), [&](const Network& network) {
    for (int bit = 0; bit < network.bits; ++bit) {
      const auto byte = static_cast<std::size_t>(bit / 8);
      const int mask = 0x80 >> (bit % 8);
      if ((bytes[byte] & mask) != (network.address[byte] & mask)) return false;
    }
    return true;
  });
}

class ProxyShard::Listener final : public PolledSocket {
 public:
  explicit Listener(ProxyShard& shard) : shard_(shard) {}

 private:
  void on_ready() override { shard_.accept_all(); }
  ProxyShard& shard_;
};

Result<std::unique_ptr<ProxyShard>> ProxyShard::open(io::Loop& loop, const ProxyOptions& options, std::uint32_t index,
                                                     int listen_fd, DataPlaneShared& shared, ShardPorts ports) {
  std::unique_ptr<ProxyShard> shard(new ProxyShard(loop, options, index, shared, std::move(ports)));
  auto trusted = PeerFilter::parse(options.trusted_proxies);
  if (!trusted) {
    ::close(listen_fd);
    return failure(trusted.error());
  }
  shard->trusted_ = std::move(*trusted);
  auto poller = Poller::open(loop, [raw = shard.get()] { raw->settle(); });
  if (!poller) {
    ::close(listen_fd);
    return failure(poller.error());
  }
  shard->poller_ = std::move(*poller);
  shard->upstreams_ = std::make_unique<UpstreamPool>(
      *shard->poller_, shard->wheel_,
      UpstreamPoolOptions{options.host_id, options.limits.sandbox_keep_alive, options.limits.idle_per_sandbox_max});
  shard->listener_ = std::make_unique<Listener>(*shard);
  if (Status added = shard->poller_->add(*shard->listener_, listen_fd); !added) return failure(added.error());
  return shard;
}

ProxyShard::ProxyShard(io::Loop& loop, const ProxyOptions& options, std::uint32_t index, DataPlaneShared& shared,
                       ShardPorts ports)
    : loop_(loop), options_(options), index_(index), shared_(shared), ports_(std::move(ports)),
      request_limits_(head_limits(options.limits, 1)), response_limits_(head_limits(options.limits, 2)),
      now_(io::Loop::now()), rng_(options.seed ^ (0x9e3779b97f4a7c15ULL * (index + 1))), wheel_(now_),
      dispatcher_(dispatcher_options(options, index)), outbox_(options.shards), timer_(loop, [this] { on_wakeup(); }) {
  accept_timer_.owner = this;
  accept_timer_.fire = &ProxyShard::on_accept_timer;
  read_clock();
}

ProxyShard::~ProxyShard() {
  ASSERT(open_connections_ == 0, "shard {} still has {} client connections", index_, open_connections_);
  if (listener_ && listener_->is_open()) poller_->close(*listener_);
  wheel_.clear(accept_timer_);
}

// --- clocks -------------------------------------------------------------------------------------------------------

Instant ProxyShard::read_clock() {
  now_ = io::Loop::now();
  // The wall clock is looked at once a second, in between it follows ours.
  if (wall_read_ == Instant{} || now_ - wall_read_ > 1s) {
    wall_read_ = now_;
    timespec wall{};
    ::clock_gettime(CLOCK_REALTIME, &wall);
    wall_offset_ns_ = std::int64_t{wall.tv_sec} * 1'000'000'000 + wall.tv_nsec - now_.time_since_epoch().count();
  }
  return now_;
}

std::uint64_t ProxyShard::wall_ns() const {
  return static_cast<std::uint64_t>(now_.time_since_epoch().count() + wall_offset_ns_);
}

std::string_view ProxyShard::date() {
  const auto second = static_cast<std::int64_t>(wall_ns() / 1'000'000'000);
  if (second != date_second_) {
    date_second_ = second;
    const std::time_t time = second;
    std::tm utc{};
    ::gmtime_r(&time, &utc);
    static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    *fmt::format_to_n(date_text_, sizeof date_text_ - 1, "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", kDays[utc.tm_wday],
                      utc.tm_mday, kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec)
         .out = '\0';
  }
  return date_text_;
}

// --- connections --------------------------------------------------------------------------------------------------

void ProxyShard::accept_all() {
  read_clock();
  for (;;) {
    SocketAddress peer;
    peer.size = sizeof peer.storage;
    const int fd = ::accept4(listener_->fd(), reinterpret_cast<sockaddr*>(&peer.storage), &peer.size,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      log_warn("data", "cannot accept a connection: {} (raise the limit of open files); trying again in {}",
               ::strerror(errno), format_duration(kAcceptPause));
      wheel_.set(accept_timer_, now_ + kAcceptPause);
      return;
    }
    ++metrics_.connections_accepted;
    if (free_.empty()) {
      ASSERT(all_.size() < kIndexMask);
      all_.push_back(std::make_unique<ClientConnection>(*this, static_cast<std::uint32_t>(all_.size())));
      free_.push_back(all_.back().get());
    }
    ClientConnection* connection = free_.back();
    if (Status added = poller_->add(*connection, fd); !added) {
      log_warn("data", "{}", added.error().message);
      continue;
    }
    free_.pop_back();
    ++open_connections_;
    const std::uint32_t before = shared_.connections.fetch_add(1, std::memory_order_relaxed);
    if (before >= options_.limits.connections_max) {
      ++metrics_.connections_refused;
      connection->turn_away();
    } else {
      connection->begin(peer);
    }
  }
}

void ProxyShard::on_accept_timer(void* self, Instant) {
  auto& shard = *static_cast<ProxyShard*>(self);
  if (shard.listener_->is_open()) shard.accept_all();
}

void ProxyShard::connection_closed(ClientConnection& connection) {
  closed_.push_back(&connection);
  --open_connections_;
  shared_.connections.fetch_sub(1, std::memory_order_relaxed);
}

core::RequestToken ProxyShard::new_token(const ClientConnection& connection) {
  return core::RequestToken{++tokens_ << kIndexBits | connection.index_};
}

ClientConnection* ProxyShard::connection_of(core::RequestToken token) const {
  ClientConnection* connection = all_[token.value & kIndexMask].get();
  return connection->is_parked() && connection->token() == token ? connection : nullptr;
}

// --- what the dispatcher wants ------------------------------------------------------------------------------------

void ProxyShard::settle() {
  perform_effects();
  // A report that is due (the demand of a first parked request is, at once) need not wait for a turn of the timer.
  if (const auto due = dispatcher_.next_wakeup(); due && *due <= now_) {
    dispatcher_.tick(now_, effects_);
    perform_effects();
  }
  in_flight_.store(static_cast<std::uint32_t>(dispatcher_.in_flight()), std::memory_order_relaxed);
  free_.insert(free_.end(), closed_.begin(), closed_.end());
  closed_.clear();
  upstreams_->after_batch();
  if (draining_ && open_connections_ == 0 && !told_drained_) {
    told_drained_ = true;
    ports_.drained();
  }
  auto wakeup = wheel_.next_wakeup();
  const auto tick = dispatcher_.next_wakeup();
  if (tick && (!wakeup || *tick < *wakeup)) wakeup = tick;
  timer_.arm(wakeup);
}

void ProxyShard::perform_effects() {
  ASSERT(!is_performing_, "effects are performed from within themselves");
  is_performing_ = true;
  // Performing may cause more: a granted request can fail at once and give its slot to the next.
  while (!effects_.empty()) {
    std::swap(effects_, performing_);
    for (const auto& granted : performing_.granted) {
      if (ClientConnection* connection = connection_of(granted.token)) {
        connection->granted(granted.lease);
      } else {
        // Its client left in the same batch of events.
        dispatcher_.finish(granted.lease, core::Outcome::client_gone, now_, effects_);
      }
    }
    for (const auto& refused : performing_.refused) {
      if (ClientConnection* connection = connection_of(refused.token)) connection->refused(refused.refusal);
    }
    send_effects();
    performing_.clear();
  }
  is_performing_ = false;
}

void ProxyShard::send_effects() {
  for (auto& posted : performing_.posted) outbox_[posted.shard].push_back(std::move(posted.message));
  for (std::uint32_t shard = 0; !performing_.posted.empty() && shard < outbox_.size(); ++shard) {
    if (outbox_[shard].empty()) continue;
    ports_.post(shard, std::move(outbox_[shard]));
    outbox_[shard] = {};
  }
  if (!performing_.loads.empty() || !performing_.suspected.empty()) {
    std::vector<DataPlaneMessage> messages;
    messages.reserve(performing_.loads.size() + performing_.suspected.size());
    for (auto& load : performing_.loads) messages.emplace_back(std::move(load));
    for (auto& suspected : performing_.suspected) messages.emplace_back(std::move(suspected));
    ports_.tell_control(std::move(messages));
  }
  if (performing_.released) ports_.tell_released();
}

void ProxyShard::on_wakeup() {
  read_clock();
  wheel_.expire(now_);
  dispatcher_.tick(now_, effects_);
  settle();
}

// --- what others want ---------------------------------------------------------------------------------------------

void ProxyShard::apply(const core::RouteTableChange& change) {
  read_clock();
  for (const auto& function : change.changed) metrics_.forget(function->shared);
  for (const core::FunctionShared* function : change.removed) metrics_.forget(function);
  dispatcher_.apply(change, now_, effects_);
  settle();
}

void ProxyShard::receive(std::vector<core::ShardMessage> messages) {
  read_clock();
  for (core::ShardMessage& message : messages) dispatcher_.receive(std::move(message), now_, effects_);
  settle();
}

void ProxyShard::report_all() {
  read_clock();
  dispatcher_.report_all(now_);
  settle();
}

void ProxyShard::drain() {
  if (draining_) return;
  read_clock();
  draining_ = true;
  wheel_.clear(accept_timer_);
  if (listener_->is_open()) poller_->close(*listener_);
  for (const auto& connection : all_) connection->close_if_idle();
  upstreams_->close_idle();
  settle();
}

void ProxyShard::finish_now() {
  drain();
  read_clock();
  for (const auto& connection : all_) {
    if (connection->is_open()) connection->finish_now();
  }
  upstreams_->close_idle();
  settle();
  ASSERT(open_connections_ == 0 && dispatcher_.in_flight() == 0, "shard {}: {} connections, {} in flight", index_,
         open_connections_, dispatcher_.in_flight());
}

MetricsSnapshot ProxyShard::snapshot() const {
  MetricsSnapshot snapshot;
  snapshot.revisions = metrics_.copy();
  snapshot.loads = dispatcher_.stats();
  snapshot.connections = open_connections_;
  snapshot.connections_accepted = metrics_.connections_accepted;
  snapshot.connections_refused = metrics_.connections_refused;
  snapshot.upstream_connects = metrics_.upstream_connects;
  snapshot.upstream_reuses = metrics_.upstream_reuses;
  snapshot.upstream_retries = metrics_.upstream_retries;
  return snapshot;
}

}  // namespace dirigent::roles
