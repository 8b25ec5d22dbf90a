// SPDX-License-Identifier: MIT
#include "roles/data/proxy_shard.h"

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

namespace dirigent::roles {

namespace {

constexpr std::uint64_t kIndexBits = 24;  // of a token: which connection; the rest tells its requests apart
constexpr std::uint64_t kIndexMask = (std::uint64_t{1} << kIndexBits) - 1;
constexpr Duration kAcceptPause = 100ms;  // when descriptors have run out
constexpr Duration kStarvedPause = 20ms;  // between two looks whether there is memory again
constexpr std::size_t kReadBuffer = 64 * 1024;

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

}  // namespace

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
  shard->http2_upstreams_ = std::make_unique<Http2Upstreams>(*shard);
  shard->listener_ = std::make_unique<Listener>(*shard);
  if (Status added = shard->poller_->add(*shard->listener_, listen_fd); !added) return failure(added.error());
  return shard;
}

ProxyShard::ProxyShard(io::Loop& loop, const ProxyOptions& options, std::uint32_t index, DataPlaneShared& shared,
                       ShardPorts ports)
    : loop_(loop),
      options_(options),
      index_(index),
      shared_(shared),
      ports_(std::move(ports)),
      request_limits_(head_limits(options.limits, 1)),
      response_limits_(head_limits(options.limits, 2)),
      now_(io::Loop::now()),
      rng_(options.seed ^ (0x9e3779b97f4a7c15ULL * (index + 1))),
      wheel_(now_),
      dispatcher_(dispatcher_options(options, index)),
      outbox_(options.shards),
      calls_((options.calls_kept + options.shards - 1) / options.shards),
      read_buffer_(kReadBuffer),
      timer_(loop, [this] { on_wakeup(); }) {
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
      if (is_out_of_descriptors(errno) && upstreams_->reclaim() > 0) continue;
      log_warn("data", "cannot accept a connection: {} (raise the limit of open files); trying again in {}",
               ::strerror(errno), format_duration(kAcceptPause));
      wheel_.set(accept_timer_, now_ + kAcceptPause);
      return;
    }
    ++metrics_.connections_accepted;
    Http1Connection* connection = http1_.take(*this);
    if (Status added = poller_->add(*connection, fd); !added) {
      log_warn("data", "{}", added.error().message);
      http1_.free.push_back(connection);
      continue;
    }
    ++open_connections_;
    ClientPeer client = ClientPeer::of(peer);
    client.trusted = trusted_.contains(peer);
    std::string why_not;
    if (admit_peer(client, why_not)) {
      connection->begin(client);
    } else {
      ++metrics_.connections_refused;
      connection->turn_away(client, why_not);
    }
  }
}

// Counts the connection; client_gone() takes it back in any case.
bool ProxyShard::admit_peer(ClientPeer& peer, std::string& why_not) {
  const DataLimits& limits = options_.limits;
  const std::uint32_t before = shared_.connections.fetch_add(1, std::memory_order_relaxed);
  if (before >= limits.connections_max) {
    why_not = fmt::format("{} connections are open, limit {}", limits.connections_max, limits.connections_max);
    return false;
  }
  // A trusted proxy stands for many clients.
  if (limits.connections_per_address_max == 0 || peer.trusted) return true;
  peer.counted = shared_.addresses.try_add(peer.key, limits.connections_per_address_max);
  if (!peer.counted)
    why_not =
        fmt::format("your address has {} connections open, which is the limit", limits.connections_per_address_max);
  return peer.counted;
}

void ProxyShard::on_accept_timer(void* self, Instant) {
  auto& shard = *static_cast<ProxyShard*>(self);
  if (shard.listener_->is_open()) shard.accept_all();
}

bool ProxyShard::become_http2(Http1Connection& from, std::string_view bytes, std::string_view settings,
                              std::size_t head_size) {
  Http2Connection* connection = http2_.take(*this);
  if (!connection->open(from.peer(), settings, head_size != 0 && request_head_.is_head)) {
    http2_.free.push_back(connection);
    return false;
  }
  // As poller_->move() only fails when the kernel has no memory, the client sees its connection end.
  if (Status moved = poller_->move(from, *connection); !moved) log_warn("data", "{}", moved.error().message);
  ++metrics_.http2_connections;
  bool is_open = connection->is_open();
  if (is_open && head_size != 0) {
    constexpr std::string_view kSwitching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    Output answer;
    answer.add(kSwitching.data(), kSwitching.size());
    is_open = connection->send(answer).io == PolledSocket::Io::done;  // the socket's buffer is empty
  }
  connection->begin(is_open ? head_size : 0, is_open ? bytes.substr(head_size) : std::string_view{});
  if (!is_open) connection->finish_now();
  if (from.is_open()) poller_->close(from);
  from.hand_over();
  http1_.closed.push_back(&from);
  return true;
}

void ProxyShard::connection_closed(Http1Connection& connection) {
  http1_.closed.push_back(&connection);
  client_gone(connection.peer());
}

void ProxyShard::connection_closed(Http2Connection& connection) {
  http2_.closed.push_back(&connection);
  client_gone(connection.peer());
}

void ProxyShard::client_gone(const ClientPeer& peer) {
  --open_connections_;
  shared_.connections.fetch_sub(1, std::memory_order_relaxed);
  if (peer.counted) shared_.addresses.remove(peer.key);
}

template <class Connection>
Connection* ProxyShard::Pool<Connection>::take(ProxyShard& shard) {
  if (free.empty()) {
    all.push_back(std::make_unique<Connection>(shard));
    free.push_back(all.back().get());
  }
  Connection* connection = free.back();
  free.pop_back();
  return connection;
}

template <class Connection>
void ProxyShard::Pool<Connection>::after_batch() {
  free.insert(free.end(), closed.begin(), closed.end());
  closed.clear();
}

// --- requests -----------------------------------------------------------------------------------------------------

Exchange* ProxyShard::take_exchange() {
  if (free_exchanges_.empty()) {
    ASSERT(exchanges_.size() < kIndexMask);
    exchanges_.push_back(std::make_unique<Exchange>(*this, static_cast<std::uint32_t>(exchanges_.size())));
    free_exchanges_.push_back(exchanges_.back().get());
  }
  Exchange* exchange = free_exchanges_.back();
  free_exchanges_.pop_back();
  return exchange;
}

Http2Request* ProxyShard::take_http2_request() {
  if (free_requests_.empty()) {
    requests_.push_back(std::make_unique<Http2Request>(*this));
    free_requests_.push_back(requests_.back().get());
  }
  Http2Request* request = free_requests_.back();
  free_requests_.pop_back();
  return request;
}

core::RequestToken ProxyShard::new_token(const Exchange& exchange) {
  return core::RequestToken{++tokens_ << kIndexBits | exchange.index_};
}

Exchange* ProxyShard::exchange_of(core::RequestToken token) const {
  Exchange* exchange = exchanges_[token.value & kIndexMask].get();
  return exchange->is_parked() && exchange->token() == token ? exchange : nullptr;
}

// --- asynchronous calls -------------------------------------------------------------------------------------------

void ProxyShard::run_stored(StoredRun run) {
  read_clock();
  if (free_stored_.empty()) {
    stored_.push_back(std::make_unique<StoredFront>(*this));
    free_stored_.push_back(stored_.back().get());
  }
  StoredFront* front = free_stored_.back();
  free_stored_.pop_back();
  ++stored_running_;
  front->begin(std::move(run));
  settle();
}

void ProxyShard::stored_ended(StoredFront& front, const CallId& id, const core::AttemptOutcome& outcome, StoredResult result) {
  --stored_running_;
  free_stored_.push_back(&front);
  shared_.async.load(std::memory_order_acquire)->ended(id, outcome, std::move(result));
}

void ProxyShard::async_replied(core::RequestToken token, AsyncReply reply) {
  Exchange* exchange = exchanges_[token.value & kIndexMask].get();
  if (!exchange->is_storing() || exchange->token() != token) return;  // its client has left
  read_clock();
  exchange->async_replied(std::move(reply));
  settle();
}

std::optional<std::uint32_t> ProxyShard::waiting(std::string_view function) const {
  const core::RoutedFunction* known = dispatcher_.find(function);
  if (known == nullptr) return std::nullopt;
  return known->shared->waiting.load(std::memory_order_relaxed);
}

// --- memory -------------------------------------------------------------------------------------------------------

std::uint64_t ProxyShard::memory_in_use() const {
  const std::size_t busy = exchanges_.size() - free_exchanges_.size();
  const std::uint64_t own = blocks_.in_use() + session_memory_ + busy * sizeof(Exchange) + stored_bytes_;
  return shared_.memory.load(std::memory_order_relaxed) - told_memory_ + own;
}

void ProxyShard::tell_memory() {
  const std::uint64_t own = memory_in_use() - (shared_.memory.load(std::memory_order_relaxed) - told_memory_);
  if (own == told_memory_) return;
  shared_.memory.fetch_add(own - told_memory_, std::memory_order_relaxed);  // modulo 2^64: it may be less
  told_memory_ = own;
}

// --- HTTP/2 sessions ----------------------------------------------------------------------------------------------

void ProxyShard::forget_flush(Http2Session& session) {
  std::replace(to_flush_.begin(), to_flush_.end(), &session, static_cast<Http2Session*>(nullptr));
}

void ProxyShard::forget_session(Http2Session& session) {
  std::replace(to_read_.begin(), to_read_.end(), &session, static_cast<Http2Session*>(nullptr));
  std::erase(starved_, &session);
}

void ProxyShard::read_on_later(Http2Session& session) {
  if (std::find(to_read_.begin(), to_read_.end(), &session) == to_read_.end()) to_read_.push_back(&session);
}

void ProxyShard::flush_sessions() {
  for (std::size_t i = 0; i < to_flush_.size(); ++i) {
    if (to_flush_[i] != nullptr) std::exchange(to_flush_[i], nullptr)->flush();
  }
  to_flush_.clear();
}

bool ProxyShard::put_off(Exchange& exchange) {
  if (!poller_->in_batch()) return false;
  put_off_.push_back(&exchange);
  return true;
}

void ProxyShard::resume_put_off() {
  // By index: nothing is put off outside a batch, but an exchange that ends here may begin the next request.
  for (std::size_t i = 0; i < put_off_.size(); ++i) put_off_[i]->on_client_ready();
  put_off_.clear();
}

// --- what the dispatcher wants ------------------------------------------------------------------------------------

void ProxyShard::settle() {
  resume_put_off();
  perform_effects();
  // Sending ends exchanges, whose slots go to others, who send in their turn.
  while (!to_flush_.empty()) {
    flush_sessions();
    perform_effects();
  }
  // A report that is due (the demand of a first parked request is, at once) need not wait for a turn of the timer.
  if (const auto due = dispatcher_.next_wakeup(); due && *due <= now_) {
    dispatcher_.tick(now_, effects_);
    perform_effects();
  }
  in_flight_.store(static_cast<std::uint32_t>(dispatcher_.in_flight()), std::memory_order_relaxed);
  http1_.after_batch();
  http2_.after_batch();
  upstreams_->after_batch();
  http2_upstreams_->after_batch();
  tell_memory();
  if (draining_ && open_connections_ == 0 && stored_running_ == 0 && !told_drained_) {
    told_drained_ = true;
    ports_.drained();
  }
  auto wakeup = wheel_.next_wakeup();
  const auto tick = dispatcher_.next_wakeup();
  if (tick && (!wakeup || *tick < *wakeup)) wakeup = tick;
  if (!to_read_.empty()) wakeup = now_;
  // Another shard may be the one that gives memory back.
  if (!starved_.empty()) wakeup = std::min(wakeup.value_or(now_ + kStarvedPause), now_ + kStarvedPause);
  timer_.arm(wakeup);
}

void ProxyShard::perform_effects() {
  ASSERT(!is_performing_, "effects are performed from within themselves");
  is_performing_ = true;
  // Performing may cause more: a granted request can fail at once and give its slot to the next.
  while (!effects_.empty()) {
    std::swap(effects_, performing_);
    for (const auto& granted : performing_.granted) {
      if (Exchange* exchange = exchange_of(granted.token)) {
        exchange->granted(granted.lease);
      } else {
        // Its client left in the same batch of events.
        dispatcher_.finish(granted.lease, core::Outcome::client_gone, now_, effects_);
      }
    }
    for (const auto& refused : performing_.refused) {
      if (Exchange* exchange = exchange_of(refused.token)) exchange->refused(refused.refusal);
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
  const std::size_t to_read = to_read_.size();
  for (std::size_t i = 0; i < to_read; ++i) {
    if (to_read_[i] != nullptr) std::exchange(to_read_[i], nullptr)->read_on();
  }
  to_read_.erase(to_read_.begin(), to_read_.begin() + static_cast<std::ptrdiff_t>(to_read));
  if (!starved_.empty() && !is_short_of_memory(memory_in_use())) {
    for (Http2Session* session : std::exchange(starved_, {})) session->return_window();
  }
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
  for (const auto& connection : http1_.all) connection->close_if_idle();
  for (const auto& connection : http2_.all) connection->drain();
  upstreams_->close_idle();
  settle();
}

void ProxyShard::finish_now() {
  drain();
  read_clock();
  for (const auto& connection : http1_.all) {
    if (connection->is_open()) connection->finish_now();
  }
  for (const auto& connection : http2_.all) connection->finish_now();
  for (const auto& front : stored_) front->finish_now();
  upstreams_->close_idle();
  http2_upstreams_->close_idle();
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
  snapshot.http2_connections = metrics_.http2_connections;
  snapshot.http2_floods = metrics_.http2_floods;
  snapshot.memory_in_use = memory_in_use();
  return snapshot;
}

}  // namespace dirigent::roles
