// SPDX-License-Identifier: MIT
#include "loopback.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "roles/data/upstream.h"

namespace dirigent::fuzz {

// --- Peer ---------------------------------------------------------------------------------------------------------

Peer::~Peer() { close(true); }

void Peer::close(bool with_reset) {
  if (fd_ < 0) return;
  if (with_reset) {
    // Also leaves no port behind in TIME_WAIT.
    const linger abort{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  }
  ::close(fd_);
  fd_ = -1;
}

bool Peer::write_next() {
  if (pieces_.empty()) {
    if (end_ == End::none) return false;
    if (end_ == End::half) {
      ::shutdown(fd_, SHUT_WR);
    } else {
      close(end_ == End::reset);
    }
    end_ = End::none;
    return true;
  }
  std::string& piece = pieces_.front();
  const ssize_t sent = ::send(fd_, piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  if (sent < 0 || static_cast<std::size_t>(sent) == piece.size()) {
    pieces_.erase(pieces_.begin());  // who cannot hear it does not get it
  } else {
    piece.erase(0, static_cast<std::size_t>(sent));
  }
  return true;
}

bool Peer::read_some() {
  if (saw_end_) return false;
  char bytes[16384];
  const ssize_t got = ::recv(fd_, bytes, sizeof bytes, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  if (got <= 0) {
    saw_end_ = true;
    saw_reset_ = got < 0;
  } else {
    received.append(bytes, static_cast<std::size_t>(got));
  }
  return true;
}

bool Peer::turn() {
  if (fd_ < 0) return false;
  bool moved = read_some();
  moved = write_next() || moved;
  return moved;
}

// --- Loopback -----------------------------------------------------------------------------------------------------

Loopback::Loopback() {
  const auto listening = roles::listen_tcp("127.0.0.1:0", false);
  if (!listening) throw std::runtime_error(listening.error().message);
  listener_ = *listening;
  roles::SocketAddress bound;
  bound.size = sizeof bound.storage;
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&bound.storage), &bound.size);
  sandbox_address_ = roles::to_string(bound);

  roles::ProxyOptions options;
  options.host_id = "this-host";
  options.seed = 42;
  auto opened = roles::DataPlane::open(loop_, options, [this](std::vector<DataPlaneMessage> messages) {
    for (const auto& message : messages) suspected_ = suspected_ || std::holds_alternative<SandboxSuspected>(message);
  });
  if (!opened) throw std::runtime_error(opened.error().message);
  plane_ = std::move(*opened);
  route();
}

Loopback::~Loopback() {
  plane_->abandon();
  plane_.reset();
  ::close(listener_);
}

void Loopback::route() {
  FunctionRoute route;
  route.function = FunctionName{"f"};
  route.revision = RevisionNumber{1};
  RoutedSandbox sandbox;
  sandbox.id = SandboxId{++sandboxes_};
  sandbox.node = NodeId{"node1"};
  sandbox.address.direct = sandbox_address_;
  sandbox.address.host_id = "this-host";
  route.sandboxes.push_back(sandbox);
  route.version = RouteVersion{sandboxes_};
  RouteUpdate update;
  update.term = Term{1};
  update.complete = true;
  update.functions.push_back(route);
  plane_->apply(update);
  loop_.poll();
}

bool Loopback::healed() {
  if (!suspected_) return false;
  suspected_ = false;
  route();
  return true;
}

std::unique_ptr<Peer> Loopback::connect_client() {
  const auto address = roles::parse_socket_address(plane_->address());
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // The kernel completes the handshake without the data plane having accepted.
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address->storage), address->size) != 0) {
    ::close(fd);
    return nullptr;
  }
  return std::make_unique<Peer>(fd);
}

std::unique_ptr<Peer> Loopback::accept_sandbox() {
  const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return nullptr;
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return std::make_unique<Peer>(fd);
}

}  // namespace dirigent::fuzz
