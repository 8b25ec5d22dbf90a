// SPDX-License-Identifier: MIT
#include "roles/data/upstream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"

namespace dirigent::roles {

namespace {

constexpr std::size_t kReclaimedAtOnce = 64;  // so that the next few need not look

}

struct SandboxConnections {
  SandboxId id;
  std::vector<UpstreamConnection*> idle;
  std::size_t open = 0;            // idle and in use
};

Result<SocketAddress> parse_socket_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return failure(ErrorCode::invalid_argument, "address \"{}\" has no port", text);
  std::string host(text.substr(0, colon));
  const auto port = parse_integer(text.substr(colon + 1));
  if (!port || *port < 0 || *port > 65535) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": the port must be 0 to 65535", text);
  }
  if (host == "localhost") host = "127.0.0.1";
  SocketAddress address;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<std::uint16_t>(*port));
    address.size = sizeof *v6;
    if (inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6->sin6_addr) == 1) return address;
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<std::uint16_t>(*port));
    address.size = sizeof *v4;
    if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) return address;
  }
  return failure(ErrorCode::invalid_argument, "address \"{}\": \"{}\" is not an IPv4 or [IPv6] address", text, host);
}

std::string to_string(const SocketAddress& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.storage.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(v6->sin6_port));
  }
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
  inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
  return fmt::format("{}:{}", text, ntohs(v4->sin_port));
}

UpstreamConnection::UpstreamConnection(UpstreamPool& pool) : pool_(pool) {
  idle_timer_.owner = this;
  idle_timer_.fire = &UpstreamConnection::on_idle_timer;
}

void UpstreamConnection::on_idle_timer(void* self, Instant) {
  auto& connection = *static_cast<UpstreamConnection*>(self);
  // In use: keep() sets the timer anew.
  if (connection.user_ == nullptr) connection.pool_.close(&connection);
}

void UpstreamConnection::on_ready() {
  if (user_ != nullptr) {
    user_->on_upstream_ready();
  } else {
    pool_.idle_ready(*this);
  }
}

UpstreamPool::UpstreamPool(Poller& poller, TimerWheel& wheel, UpstreamPoolOptions options)
    : poller_(poller), wheel_(wheel), options_(std::move(options)) {}

UpstreamPool::~UpstreamPool() {
  close_idle();
  ASSERT(open_ == 0, "{} connections to sandboxes in use", open_);
}

UpstreamConnection* UpstreamPool::take_idle(const core::SandboxSlots& sandbox, UpstreamUser& user) {
  const auto found = sandboxes_.find(sandbox.sandbox.id);
  if (found == sandboxes_.end()) return nullptr;
  std::vector<UpstreamConnection*>& idle = found->second->idle;
  // What a kept connection says was not asked for: it must not answer the next request.
  while (!idle.empty() && (idle.back()->readable() || idle.back()->peer_closed())) {
    const bool is_last = found->second->open == 1;
    close(idle.back());
    if (is_last) return nullptr;  // the sandbox's entry has gone with it
  }
  if (idle.empty()) return nullptr;
  UpstreamConnection* connection = idle.back();
  idle.pop_back();
  --idle_count_;
  connection->user_ = &user;
  // Its idle timer stays where it is: while in use it is moved on when it fires.
  return connection;
}

Result<int> UpstreamPool::dial(const core::SandboxSlots& slots) {
  const SandboxAddress& known = slots.sandbox.address;
  const bool same_host = !options_.host_id.empty() && known.host_id == options_.host_id;
  // A node that publishes nothing can be reached from its own host only; trying costs little and says it best.
  const bool direct = !known.direct.empty() && (same_host || known.published.empty());
  const std::string& text = direct ? known.direct : known.published;
  const Result<SocketAddress> address = parse_socket_address(text);
  if (!address) {
    return failure(ErrorCode::unavailable, "cannot connect to sandbox {}: {}", to_string(slots.sandbox.id),
                   address.error().message);
  }
  const auto make_socket = [&] { return ::socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); };
  int fd = make_socket();
  if (fd < 0 && is_out_of_descriptors(errno) && reclaim() > 0) fd = make_socket();
  if (fd < 0) return errno_failure(errno, "cannot make a socket");
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // On failure the first send says why; the descriptor is watched either way.
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address->storage), address->size) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    ::close(fd);
    return errno_failure(error, fmt::format("cannot connect to sandbox {} at {}", to_string(slots.sandbox.id), text));
  }
  return fd;
}

Result<UpstreamConnection*> UpstreamPool::connect(const core::SandboxSlots& sandbox, UpstreamUser& user) {
  const Result<int> fd = dial(sandbox);
  if (!fd) return failure(fd.error());
  if (free_.empty()) {
    all_.push_back(std::make_unique<UpstreamConnection>(*this));
    free_.push_back(all_.back().get());
  }
  UpstreamConnection* connection = free_.back();
  if (Status added = poller_.add(*connection, *fd); !added) return failure(added.error());
  free_.pop_back();
  auto& place = sandboxes_[sandbox.sandbox.id];
  if (!place) place = std::make_unique<SandboxConnections>(SandboxConnections{sandbox.sandbox.id, {}, 0});
  connection->sandbox_ = place.get();
  connection->user_ = &user;
  connection->reused_ = false;
  ++place->open;
  ++open_;
  return connection;
}

void UpstreamPool::keep(UpstreamConnection* connection, Instant now) {
  SandboxConnections& connections = *connection->sandbox_;
  if (connection->readable() || connection->peer_closed() || connections.idle.size() >= options_.idle_per_sandbox_max) {
    close(connection);
    return;
  }
  connection->user_ = nullptr;
  connection->reused_ = true;
  wheel_.set(connection->idle_timer_, now + options_.idle_timeout);
  connections.idle.push_back(connection);
  ++idle_count_;
}

void UpstreamPool::take_out_of_idle(UpstreamConnection& connection) {
  auto& idle = connection.sandbox_->idle;
  const auto place = std::find(idle.begin(), idle.end(), &connection);
  if (place == idle.end()) return;
  idle.erase(place);
  --idle_count_;
}

void UpstreamPool::close(UpstreamConnection* connection) {
  if (connection->user_ == nullptr) take_out_of_idle(*connection);
  wheel_.clear(connection->idle_timer_);
  poller_.close(*connection);
  connection->user_ = nullptr;
  SandboxConnections& connections = *connection->sandbox_;
  connection->sandbox_ = nullptr;
  const SandboxId id = connections.id;
  if (--connections.open == 0) sandboxes_.erase(id);
  --open_;
  closed_.push_back(connection);
}

// A kept connection has something to say: the sandbox closed it, or speaks without being asked. Neither is kept.
void UpstreamPool::idle_ready(UpstreamConnection& connection) {
  if (connection.readable() || connection.peer_closed()) close(&connection);
}

void UpstreamPool::close_idle() {
  for (const auto& connection : all_) {
    if (connection->is_open() && connection->user_ == nullptr) close(connection.get());
  }
}

std::size_t UpstreamPool::reclaim() {
  std::size_t closed = 0;
  for (std::size_t looked = 0; looked < all_.size() && idle_count_ > 0 && closed < kReclaimedAtOnce; ++looked) {
    UpstreamConnection& connection = *all_[reclaimed_until_++ % all_.size()];
    if (!connection.is_open() || connection.user_ != nullptr) continue;
    close(&connection);
    ++closed;
  }
  return closed;
}

void UpstreamPool::after_batch() {
  free_.insert(free_.end(), closed_.begin(), closed_.end());
  closed_.clear();
}

}  // namespace dirigent::roles
