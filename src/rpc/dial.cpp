// SPDX-License-Identifier: MIT
#include "rpc/dial.h"

#include <arpa/inet.h>
#include <asio/ip/tcp.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/steady_timer.hpp>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "dirigent/base/text.h"

namespace dirigent::rpc {

namespace {

using Generic = asio::generic::stream_protocol;
constexpr int kBacklog = 4096;
constexpr std::string_view kForms = "write HOST:PORT, [IPV6]:PORT or unix:/path";

// A descriptor until somebody takes it.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  void release() { fd_ = -1; }

 private:
  int fd_;
};

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
  return name;
}

const sockaddr* generic(const void* address) { return static_cast<const sockaddr*>(address); }

std::string name_of(const sockaddr_storage& storage) {
  char host[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(storage);
    ::inet_ntop(AF_INET, &v4.sin_addr, host, sizeof host);
    return fmt::format("{}:{}", host, ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(storage);
  ::inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof host);
  return fmt::format("[{}]:{}", host, ntohs(v6.sin6_port));
}

// Errors that the operator can do something about get a word of advice.
tl::unexpected<Error> listen_failure(int error_number, const Address& address) {
  auto error = errno_failure(error_number, "cannot listen on " + address.text).value();
  if (error_number == EADDRINUSE) error.message += " (another process holds it: stop that one, or choose another address; port 0 asks for a free one)";
  if (error_number == EACCES) error.message += " (ports below 1024 and foreign directories need privileges: choose another address)";
  if (error_number == EADDRNOTAVAIL) error.message += " (this machine does not have that address)";
  return failure(std::move(error));
}

Result<Listener> take(io::Loop& loop, Descriptor& fd, int family, Address real, std::string unix_path) {
  Listener listener{asio::basic_socket_acceptor<Generic>(loop.context()), std::move(real), std::move(unix_path)};
  std::error_code error;
  listener.acceptor.assign(Generic(family, 0), fd.get(), error);
  if (error) return failure(ErrorCode::internal, "cannot listen on {}: {}", listener.address.text, error.message());
  fd.release();
  listener.acceptor.non_blocking(true, error);
  return listener;
}

Result<Listener> listen_unix(io::Loop& loop, const Address& address, const std::string& path) {
  Descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return listen_failure(errno, address);
  const sockaddr_un name = unix_address(path);
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode)) {
      return failure(ErrorCode::already_exists, "cannot listen on {}: there is a file that is not a socket (remove it, or choose another path)", address.text);
    }
    // A socket left behind by a process that died refuses connections.
    Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(probe.get(), generic(&name), sizeof name) < 0 && errno == ECONNREFUSED) ::unlink(path.c_str());
  }
  if (::bind(fd.get(), generic(&name), sizeof name) < 0) return listen_failure(errno, address);
  ::chmod(path.c_str(), 0660);
  if (::listen(fd.get(), kBacklog) < 0) {
    const int error_number = errno;
    ::unlink(path.c_str());
    return listen_failure(error_number, address);
  }
  return take(loop, fd, AF_UNIX, address, path);
}

Result<Listener> listen_tcp(io::Loop& loop, const Address& address, const AddressParts& parts) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(parts.host.c_str(), parts.port.c_str(), &hints, &found); code != 0) {
    return failure(ErrorCode::invalid_argument, "cannot listen on {}: {} (give an address of this machine)", address.text, ::gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  Descriptor fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return listen_failure(errno, address);
  const int on = 1;
  // A restarted control plane must get its port back although old connections linger.
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), found->ai_addr, found->ai_addrlen) < 0 || ::listen(fd.get(), kBacklog) < 0) return listen_failure(errno, address);
  sockaddr_storage real{};
  socklen_t size = sizeof real;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&real), &size) < 0) return listen_failure(errno, address);
  return take(loop, fd, found->ai_family, Address{name_of(real)}, "");
}

}  // namespace

Result<AddressParts> parse_address(const Address& address) {
  const std::string_view text = address.text;
  const auto wrong = [&](std::string_view why) {
    return failure(ErrorCode::invalid_argument, "\"{}\" is not an address: {} ({})", text, why, kForms);
  };
  if (text.starts_with("unix:")) {
    const std::string path(text.substr(5));
    if (!path.starts_with('/')) return wrong("the path of a Unix socket is absolute");
    if (path.size() >= sizeof(sockaddr_un::sun_path)) return wrong(fmt::format("the path has {} bytes, at most {} are possible", path.size(), sizeof(sockaddr_un::sun_path) - 1));
    return AddressParts{path, "", ""};
  }
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong("the port is missing");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong("an IPv6 address stands in brackets");
  }
  if (host.empty()) return wrong("the host is missing");
  const auto number = parse_integer(port);
  if (!number || *number < 0 || *number > 65535) return wrong("the port must be in 0..65535");
  return AddressParts{"", std::string(host), std::string(port)};
}

Result<Listener> listen_at(io::Loop& loop, const Address& address) {
  const auto parts = parse_address(address);
  if (!parts) return failure(parts.error());
  return parts->unix_path.empty() ? listen_tcp(loop, address, *parts) : listen_unix(loop, address, parts->unix_path);
}

void tune(Socket& socket, Duration silence_max) {
  const int fd = socket.native_handle();
  const int on = 1;
  const int unacknowledged_ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(silence_max).count());
  // On a Unix socket the TCP options fail, which is as it should be.
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof unacknowledged_ms);
}

std::string peer_name(Socket& socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getpeername(socket.native_handle(), reinterpret_cast<sockaddr*>(&storage), &size) < 0) return "a peer that has left";
  if (storage.ss_family != AF_UNIX) return name_of(storage);
  const auto& name = reinterpret_cast<const sockaddr_un&>(storage);
  if (size > sizeof(sa_family_t) && name.sun_path[0] != 0) return fmt::format("unix:{}", name.sun_path);
  ucred who{};
  size = sizeof who;
  if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &who, &size) < 0) return "a process over a Unix socket";
  return fmt::format("process {} over a Unix socket", who.pid);
}

// --- connecting ---------------------------------------------------------------------------------------------------

namespace {

class Attempt final : public Dial {
 public:
  Attempt(io::Loop& loop, std::string text, Done done)
      : text_(std::move(text)), done_(std::move(done)), resolver_(loop.context()), socket_(loop.context()), timer_(loop.context()) {}

  void begin(const AddressParts& parts, Duration timeout) {
    timer_.expires_after(timeout);
    timer_.async_wait([self = self(), timeout](std::error_code error) {
      if (!error) self->finish(failure(ErrorCode::timed_out, "cannot connect to {}: no answer within {} (is the control plane running there, and no firewall between?)", self->text_, format_duration(timeout)));
    });
    if (!parts.unix_path.empty()) {
      endpoints_.emplace_back(asio::local::stream_protocol::endpoint(parts.unix_path));
      connect();
      return;
    }
    std::error_code error;
    const auto number = asio::ip::make_address(parts.host, error);
    if (!error) {
      endpoints_.emplace_back(asio::ip::tcp::endpoint(number, static_cast<std::uint16_t>(std::stoi(parts.port))));
      connect();
      return;
    }
    resolver_.async_resolve(parts.host, parts.port, asio::ip::tcp::resolver::numeric_service,
                            [self = self()](std::error_code failed, const asio::ip::tcp::resolver::results_type& results) {
                              if (!self->done_) return;
                              if (failed) {
                                self->finish(failure(ErrorCode::unavailable, "cannot find the address of {}: {}", self->text_, failed.message()));
                                return;
                              }
                              for (const auto& result : results) self->endpoints_.emplace_back(result.endpoint());
                              self->connect();
                            });
  }

  void fail_later(io::Loop& loop, Error error) {
    loop.post([self = self(), error = std::move(error)] { self->finish(failure(error)); });
  }

  void cancel() override {
    done_ = nullptr;
    stop();
  }

 private:
  std::shared_ptr<Attempt> self() { return std::static_pointer_cast<Attempt>(shared_from_this()); }

  void connect() {
    const auto& endpoint = endpoints_.at(next_++);
    std::error_code error;
    socket_.close(error);
    socket_.async_connect(endpoint, [self = self()](std::error_code failed) {
      if (!self->done_) return;
      if (!failed && self->is_connected_to_itself()) failed = asio::error::connection_refused;
      if (failed && self->next_ < self->endpoints_.size()) {
        self->connect();
      } else if (failed) {
        self->finish(failure(ErrorCode::unavailable, "cannot connect to {}: {}", self->text_, failed.message()));
      } else {
        std::error_code ignored;
        self->socket_.non_blocking(true, ignored);
        self->finish(std::move(self->socket_));
      }
    });
  }

  // On loopback, a client that tries a port nobody listens on may be given that very port as its own, and TCP then
  // connects the socket to itself: it would keep the server from ever listening there.
  bool is_connected_to_itself() {
    std::error_code error;
    const auto local = socket_.local_endpoint(error);
    const auto remote = socket_.remote_endpoint(error);
    if (error || local.protocol().family() == AF_UNIX || local != remote) return false;
    socket_.close(error);
    return true;
  }

  void stop() {
    std::error_code ignored;
    resolver_.cancel();
    socket_.close(ignored);
    timer_.cancel();
  }

  void finish(Result<Socket> result) {
    auto done = std::exchange(done_, nullptr);
    if (!done) return;
    stop();
    done(std::move(result));
  }

  std::string text_;
  Done done_;
  asio::ip::tcp::resolver resolver_;
  Socket socket_;
  asio::steady_timer timer_;
  std::vector<Generic::endpoint> endpoints_;
  std::size_t next_ = 0;
};

}  // namespace

std::shared_ptr<Dial> Dial::start(io::Loop& loop, const Address& address, Duration timeout, Done done) {
  auto attempt = std::make_shared<Attempt>(loop, address.text, std::move(done));
  const auto parts = parse_address(address);
  if (parts) {
    attempt->begin(*parts, timeout);
  } else {
    attempt->fail_later(loop, parts.error());
  }
  return attempt;
}

}  // namespace dirigent::rpc
