// SPDX-License-Identifier: MIT
//
// For bench/proxy_bench.sh and bench/h2_bench.sh: the forwarding path alone, and the server behind it.
//   proxy_harness upstream            prints its address, answers every request with the same small response
//   proxy_harness proxy SHARDS ADDR [FUNCTIONS]   prints its address, forwards /function/bench to ADDR, and /function/f0
//                                     to /function/fN-1 as well
// Both end when their standard input does.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/posix/stream_descriptor.hpp>

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <unordered_map>

#include "dirigent/base/text.h"
#include "roles/data/data_plane.h"

namespace {

using namespace dirigent;

constexpr std::string_view kResponse =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, bench\n";

// Counts the empty lines in what arrived; requests here have no body. Heads split over two reads are joined.
int run_upstream(std::size_t body_size) {
  const auto listening = roles::listen_tcp("127.0.0.1:0", false);
  if (!listening) {
    std::fprintf(stderr, "%s\n", listening.error().message.c_str());
    return 1;
  }
  std::string response(kResponse);
  if (body_size > 0) {
    response = fmt::format("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body_size);
    response.append(body_size, 'x');
  }
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(*listening, reinterpret_cast<sockaddr*>(&address), &size);
  std::printf("127.0.0.1:%d\n", ntohs(address.sin_port));
  std::fflush(stdout);

  struct Peer {
    std::string input;
    std::string output;
  };
  std::unordered_map<int, Peer> peers;
  const int poll = ::epoll_create1(EPOLL_CLOEXEC);
  const auto watch = [&](int fd, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    ::epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
  };
  watch(*listening, EPOLLIN);
  watch(STDIN_FILENO, EPOLLIN);
  const auto flush = [](int fd, Peer& peer) {
    while (!peer.output.empty()) {
      const ssize_t sent = ::send(fd, peer.output.data(), peer.output.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      peer.output.erase(0, static_cast<std::size_t>(sent));
    }
  };
  epoll_event events[256];
  for (;;) {
    const int ready = ::epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < ready; ++i) {
      const int fd = events[i].data.fd;
      if (fd == STDIN_FILENO) return 0;
      if (fd == *listening) {
        const int peer = ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (peer >= 0) watch(peer, EPOLLIN | EPOLLOUT | EPOLLET);
        continue;
      }
      Peer& peer = peers[fd];
      flush(fd, peer);
      char buffer[16384];
      for (;;) {
        const ssize_t received = ::recv(fd, buffer, sizeof buffer, 0);
        if (received == 0 || (received < 0 && errno != EAGAIN)) {
          ::close(fd);
          peers.erase(fd);
          break;
        }
        if (received < 0) break;
        peer.input.append(buffer, static_cast<std::size_t>(received));
        for (std::size_t end; (end = peer.input.find("\r\n\r\n")) != std::string::npos;) {
          peer.input.erase(0, end + 4);
          peer.output.append(response);
        }
        flush(fd, peer);
        if (static_cast<std::size_t>(received) < sizeof buffer) break;
      }
    }
  }
}

int run_proxy(std::uint32_t shards, const std::string& upstream, int functions) {
  io::Loop loop;
  roles::ProxyOptions options;
  options.shards = shards;
  auto plane = roles::DataPlane::open(loop, options, [](std::vector<DataPlaneMessage>) {});
  if (!plane) {
    std::fprintf(stderr, "%s\n", plane.error().message.c_str());
    return 1;
  }
  RouteUpdate update;
  update.term = Term{1};
  update.complete = true;
  FunctionRoute route;
  route.function = FunctionName{"bench"};
  route.revision = RevisionNumber{1};
  route.version = RouteVersion{1};
  RoutedSandbox sandbox;
  sandbox.id = SandboxId{1};
  sandbox.node = NodeId{"bench"};
  sandbox.address.direct = upstream;
  route.sandboxes.push_back(sandbox);
  update.functions.push_back(route);
  for (int i = 0; i < functions; ++i) {
    route.function = FunctionName{fmt::format("f{}", i)};
    ++route.version.value;
    ++route.sandboxes[0].id.value;
    update.functions.push_back(route);
  }
  (*plane)->apply(update);
  std::printf("%s\n", (*plane)->address().c_str());
  std::fflush(stdout);

  asio::posix::stream_descriptor input(loop.context(), STDIN_FILENO);
  input.async_wait(asio::posix::descriptor_base::wait_read, [&](std::error_code) {
    asio::co_spawn(loop.context().get_executor(), (*plane)->stop(1s), [&](std::exception_ptr) { loop.stop(); });
  });
  loop.run();
  input.release();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "upstream") {
    const auto size = argc > 2 ? parse_integer(argv[2]) : 0;
    if (size && *size >= 0) return run_upstream(static_cast<std::size_t>(*size));
  } else if (mode == "proxy" && (argc == 4 || argc == 5)) {
    const auto shards = parse_integer(argv[2]);
    const auto functions = argc == 5 ? parse_integer(argv[4]) : 0;
    if (shards && *shards >= 1 && *shards <= 256 && functions && *functions >= 0 && *functions <= 100'000) {
      return run_proxy(static_cast<std::uint32_t>(*shards), argv[3], static_cast<int>(*functions));
    }
  }
  std::fprintf(stderr, "usage: proxy_harness upstream [BODY_BYTES] | proxy_harness proxy SHARDS ADDRESS\n");
  return 2;
}
