// SPDX-License-Identifier: MIT
//
// What a proxy cannot go below on this kernel: a relay that understands nothing. One thread, an upstream connection per
// client, the four system calls that every proxy of small messages makes (recv and send on both sides), all reads of a
// batch of events before its writes. No parsing, no names, no limits, no counting.
//   relay_floor HOST:PORT       prints its address, relays until its standard input ends
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "roles/data/data_plane.h"
#include "roles/data/upstream.h"

namespace {

using namespace dirigent;

struct End {
  int fd = -1;
  End* other = nullptr;
  std::array<char, 16384> buffer{};
  std::size_t filled = 0;
};

bool watch(int poll, int fd, void* what) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = what;
  return ::epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) == 0;
}

int fail(const char* what) {
  std::perror(what);
  return 1;
}

void close_pair(End& end) {
  for (End* each : {&end, end.other}) {
    if (each->fd >= 0) ::close(each->fd);
    each->fd = -1;
    each->filled = 0;
  }
}

class Relay {
 public:
  Relay(roles::SocketAddress upstream, int poll) : upstream_(upstream), poll_(poll) {}

  bool accept(int listening) {
    const int client = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return false;
    const int sandbox = ::socket(upstream_.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sandbox < 0 || ::connect(sandbox, reinterpret_cast<const sockaddr*>(&upstream_.storage), upstream_.size) != 0) {
      return false;
    }
    const int on = 1;
    std::array<End*, 2> pair{};
    for (int i = 0; i < 2; ++i) {
      ends_.push_back(std::make_unique<End>());
      pair[static_cast<std::size_t>(i)] = ends_.back().get();
      ends_.back()->fd = i == 0 ? client : sandbox;
      ::setsockopt(ends_.back()->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    pair[0]->other = pair[1];
    pair[1]->other = pair[0];
    return watch(poll_, client, pair[0]) && watch(poll_, sandbox, pair[1]);
  }

  void read(End& end) {
    if (end.fd < 0) return;
    const ssize_t size = ::recv(end.fd, end.buffer.data(), end.buffer.size(), MSG_DONTWAIT);
    if (size <= 0) {
      close_pair(end);
      return;
    }
    end.filled = static_cast<std::size_t>(size);
    full_.push_back(&end);
  }

  void write_all() {
    for (End* end : full_) {
      if (end->filled == 0) continue;
      const ssize_t size = ::send(end->other->fd, end->buffer.data(), end->filled, MSG_NOSIGNAL);
      if (size != static_cast<ssize_t>(end->filled)) {
        close_pair(*end);
      }
      end->filled = 0;
    }
    full_.clear();
  }

 private:
  roles::SocketAddress upstream_;
  int poll_;
  std::vector<std::unique_ptr<End>> ends_;  // for as long as the program runs
  std::vector<End*> full_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: relay_floor HOST:PORT\n");
    return 2;
  }
  const auto upstream = roles::parse_socket_address(argv[1]);
  if (!upstream) {
    std::fprintf(stderr, "relay_floor: %s\n", upstream.error().message.c_str());
    return 2;
  }
  const auto listening = roles::listen_tcp("127.0.0.1:0", false);
  if (!listening) {
    std::fprintf(stderr, "relay_floor: %s\n", listening.error().message.c_str());
    return 1;
  }
  roles::SocketAddress own;
  own.size = sizeof own.storage;
  ::getsockname(*listening, reinterpret_cast<sockaddr*>(&own.storage), &own.size);
  std::printf("%s\n", roles::to_string(own).c_str());
  std::fflush(stdout);

  const int poll = ::epoll_create1(EPOLL_CLOEXEC);
  int listener_mark = *listening;
  int stdin_mark = 0;
  if (poll < 0 || !watch(poll, *listening, &listener_mark) || !watch(poll, 0, &stdin_mark)) return fail("relay_floor: epoll");
  Relay relay(*upstream, poll);
  std::array<epoll_event, 256> events;
  for (;;) {
    const int ready = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < ready; ++i) {
      void* what = events[static_cast<std::size_t>(i)].data.ptr;
      if (what == &stdin_mark) return 0;
      if (what == &listener_mark) {
        if (!relay.accept(*listening)) return fail("relay_floor: a connection");
      } else {
        relay.read(*static_cast<End*>(what));
      }
    }
    relay.write_all();
  }
}
