// SPDX-License-Identifier: MIT
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "bench/pool.h"
#include "dirigent/base/assert.h"

namespace dirigent::bench {

Result<Poller> Poller::open() {
  io::FileDescriptor epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.is_open()) return errno_failure(errno, "cannot make an epoll descriptor");
  return Poller(std::move(epoll));
}

void Poller::add(int fd, Pollable& owner) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &owner;
  const int status = ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  ASSERT(status == 0, "epoll_ctl: errno {}", errno);
}

void Poller::wait(Duration patience) {
  constexpr int kEventsMax = 256;
  epoll_event events[kEventsMax];
  const auto ns = std::max<std::int64_t>(0, patience.count());
  const timespec time{ns / 1'000'000'000, ns % 1'000'000'000};
  int count = ::epoll_pwait2(epoll_.get(), events, kEventsMax, &time, nullptr);
  // Linux before 5.11: whole milliseconds, late rather than spinning.
  if (count < 0 && errno == ENOSYS)
    count = ::epoll_wait(epoll_.get(), events, kEventsMax, static_cast<int>((ns + 999'999) / 1'000'000));
  for (int i = 0; i < count; ++i) static_cast<Pollable*>(events[i].data.ptr)->on_events(events[i].events);
  retired_.clear();
}

Result<io::FileDescriptor> start_connect(const io::SocketAddress& address) {
  io::FileDescriptor socket(::socket(address.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return errno_failure(errno, "cannot make a socket");
  if (address.get()->sa_family != AF_UNIX) {
    const int yes = 1;
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  }
  if (::connect(socket.get(), address.get(), address.length) != 0 && errno != EINPROGRESS) {
    return errno_failure(errno,
                         fmt::format("cannot connect to {}", io::format_socket_address(address.get(), address.length)));
  }
  return socket;
}

int connect_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

}  // namespace dirigent::bench
