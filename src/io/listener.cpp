// SPDX-License-Identifier: MIT
#include "listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

#include "socket_holder.h"

namespace dirigent::io {

namespace {

Result<SocketAddress> resolve(const Address& address) {
  auto numeric = to_socket_address(address);
  if (numeric || numeric.error().code != ErrorCode::not_found) return numeric;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(address.host.c_str(), nullptr, &hints, &found);
  if (code != 0) {
    return failure(ErrorCode::not_found, "cannot listen on {}: {} (use a numeric address of this machine)",
                   format_address(address), ::gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  SocketAddress result;
  std::memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.length = found->ai_addrlen;
  // The port is at the same place in both families.
  reinterpret_cast<sockaddr_in*>(&result.storage)->sin_port = htons(address.port);
  return result;
}

FileDescriptor open_socket(int family) {
  return FileDescriptor(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

tl::unexpected<Error> listen_failure(int error_number, const Address& address) {
  const std::string text = format_address(address);
  switch (error_number) {
    case EADDRINUSE:
      return failure(ErrorCode::already_exists,
                     "cannot listen on {}: the address is in use by {} (stop it, or choose another port)", text,
                     describe_port_holder(address.port));
    case EADDRNOTAVAIL:
      return failure(ErrorCode::invalid_argument,
                     "cannot listen on {}: no interface of this machine has this address (\":{}\" listens on all)",
                     text, address.port);
    case EACCES:
      return failure(ErrorCode::permission_denied,
                     "cannot listen on {}: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)", text);
    default: return errno_failure(error_number, "cannot listen on " + text);
  }
}

// What is at `path`: nothing or a dead server's socket (removed), or something that must not be touched.
Status make_room(const std::string& path, const SocketAddress& socket_address) {
  struct stat there {};
  if (::lstat(path.c_str(), &there) != 0) {
    if (errno == ENOENT) return {};
    return errno_failure(errno, "cannot look at " + path);
  }
  if (!S_ISSOCK(there.st_mode)) {
    return failure(ErrorCode::already_exists,
                   "cannot listen on unix:{}: a file that is not a socket is in the way "
                   "(move it, or choose another path)", path);
  }
  const FileDescriptor probe = open_socket(AF_UNIX);
  if (!probe.is_open()) return errno_failure(errno, "cannot open a Unix socket");
  const bool connected = ::connect(probe.get(), socket_address.get(), socket_address.length) == 0;
  // EAGAIN: somebody listens and its queue is full.
  if (connected || errno == EAGAIN) {
    ucred peer{};
    socklen_t size = sizeof peer;
    const bool known =
        connected && ::getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0;
    return failure(ErrorCode::already_exists,
                   "cannot listen on unix:{}: {} listens there (stop it, or choose another path)", path,
                   known ? describe_process(peer.pid) : "another process");
  }
  if (errno != ECONNREFUSED && errno != ENOENT) {
    return errno_failure(errno, fmt::format("cannot tell whether a server listens on unix:{}", path));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return errno_failure(errno, fmt::format("cannot remove the socket of a dead server, {}", path));
  }
  return {};
}

}  // namespace

Listener::Listener(Listener&& other) noexcept
    : socket_(std::move(other.socket_)),
      address_(std::move(other.address_)),
      unix_path_(std::exchange(other.unix_path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

Listener::~Listener() {
  struct stat there {};
  if (unix_path_.empty() || ::lstat(unix_path_.c_str(), &there) != 0) return;
  if (there.st_dev == device_ && there.st_ino == inode_) ::unlink(unix_path_.c_str());
}

Result<Listener> Listener::open(const Address& address, int backlog) {
  return address.is_unix() ? open_unix(address, backlog) : open_tcp(address, backlog);
}

Result<Listener> Listener::open_tcp(const Address& address, int backlog) {
  auto target = resolve(address);
  if (!target) return failure(target.error());
  Listener listener;
  listener.socket_ = open_socket(target->storage.ss_family);
  if (!listener.socket_.is_open() && errno == EAFNOSUPPORT && address.host.empty()) {
    // A kernel without IPv6: every interface means every IPv4 one.
    Address v4 = address;
    v4.host = "0.0.0.0";
    return open_tcp(v4, backlog);
  }
  const int fd = listener.socket_.get();
  if (fd < 0) return errno_failure(errno, "cannot open a socket for " + format_address(address));
  const int on = 1;
  const int off = 0;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // ":port" serves IPv4 as well, whatever net.ipv6.bindv6only says; an explicit v6 address serves what it names.
  if (target->storage.ss_family == AF_INET6) {
    ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, address.host.empty() ? &off : &on, sizeof on);
  }
  if (::bind(fd, target->get(), target->length) != 0 || ::listen(fd, backlog) != 0) {
    return listen_failure(errno, address);
  }
  SocketAddress bound;
  bound.length = sizeof bound.storage;
  if (::getsockname(fd, bound.get(), &bound.length) != 0) return errno_failure(errno, "cannot tell the port");
  listener.address_ = format_socket_address(bound.get(), bound.length);
  return listener;
}

Result<Listener> Listener::open_unix(const Address& address, int backlog) {
  const std::string& path = address.unix_path;
  auto target = to_socket_address(address);
  if (!target) return failure(target.error());
  if (Status room = make_room(path, *target); !room) return failure(room.error());
  Listener listener;
  listener.socket_ = open_socket(AF_UNIX);
  const int fd = listener.socket_.get();
  if (fd < 0) return errno_failure(errno, "cannot open a Unix socket");
  if (::bind(fd, target->get(), target->length) != 0) return errno_failure(errno, "cannot listen on unix:" + path);
  struct stat made {};
  if (::lstat(path.c_str(), &made) == 0) {
    listener.unix_path_ = path;
    listener.device_ = made.st_dev;
    listener.inode_ = made.st_ino;
  }
  // Nobody can connect between bind() and listen(), so the mode is right before the first client.
  if (::chmod(path.c_str(), 0660) != 0) return errno_failure(errno, "cannot set the mode of " + path);
  if (::listen(fd, backlog) != 0) return errno_failure(errno, "cannot listen on unix:" + path);
  listener.address_ = format_address(address);
  return listener;
}

}  // namespace dirigent::io
