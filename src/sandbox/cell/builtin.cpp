// SPDX-License-Identifier: MIT
#include "sandbox/cell/builtin.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "sandbox/cell/executor_call.h"
#include "sandbox/cell/http_reader.h"

namespace dirigent::sandbox::cell {

namespace {

constexpr std::size_t kUnsentBytesMax = 256 * 1024;  // of answers, before more requests of the connection are read
constexpr long kWaitMsMax = 3'600'000;

struct Connection {
  int fd = -1;
  RequestReader reader;
  std::string unsent;
  std::size_t sent = 0;
  unsigned wanted = 0;      // epoll events asked for
  bool closing = false;     // close when everything is sent
  bool broken = false;      // close now
  // The request that waits for its time, if any.
  bool waiting = false;
  Request request;
  unsigned long long began_us = 0;
  long events_left = 0;     // of a stream
  long events_sent = 0;
  std::multimap<unsigned long long, int>::iterator timer;
};

const char* reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 413: return "Content Too Large";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    default: return "Status";
  }
}

long in_range(long value, long least, long most) { return value < least ? least : value > most ? most : value; }

class Server {
 public:
  Server(const wire::Order& order, int control) : order_(order), control_(control) {}
  Failure listen_now();
  int run();

 private:
  void accept_all();
  void on_ready(Connection& connection, unsigned events);
  void pump(Connection& connection);
  void flush(Connection& connection);
  void watch(Connection& connection);
  void drop(int fd);
  void handle(Connection& connection, Request request);
  void wait(Connection& connection, Request request, long ms);
  void on_time(Connection& connection);
  void answer(Connection& connection, const Request& request, int status, std::string_view type, std::string_view body);
  [[nodiscard]] bool decide_closing(Connection& connection, const Request& request) const;
  void trace(Connection& connection, Request request);
  void answer_trace(Connection& connection, const Request& request, unsigned long long us);
  void stream_step(Connection& connection);
  [[nodiscard]] std::string trace_body(const Request& request, unsigned long long us) const;
  void listen_again(bool on);

  const wire::Order& order_;
  int control_;
  int epoll_ = -1;
  int listener_ = -1;
  bool accepting_ = true;
  bool terminating_ = false;
  int exit_code_ = -1;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
  std::multimap<unsigned long long, int> timers_;
};

std::string environment_of(const wire::Order& order, std::string_view name) {
  for (const auto& variable : order.environment) {
    if (variable.size() > name.size() && variable.compare(0, name.size(), name) == 0 && variable[name.size()] == '=') {
      return variable.substr(name.size() + 1);
    }
  }
  return {};
}

Failure Server::listen_now() {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener_ < 0) return errno_failure("make", "a socket");
  const int yes = 1;
  ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(order_.port));
  address.sin_addr.s_addr = htonl(order_.loopback_only != 0 ? INADDR_LOOPBACK : INADDR_ANY);
  if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return errno_failure("listen on port", std::to_string(order_.port));
  if (::listen(listener_, 4096) != 0) return errno_failure("listen on port", std::to_string(order_.port));
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return errno_failure("make", "an epoll");
  for (const int fd : {listener_, control_}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) return errno_failure("watch", "a socket");
  }
  return {};
}

int Server::run() {
  epoll_event events[256];
  while (exit_code_ < 0) {
    if (terminating_ && connections_.empty()) return 0;
    int patience = -1;
    if (!timers_.empty()) {
      const auto now = now_us();
      const auto next = timers_.begin()->first;
      patience = next <= now ? 0 : static_cast<int>((next - now + 999) / 1000);
    }
    const int count = ::epoll_wait(epoll_, events, 256, patience);
    for (int i = 0; i < count && exit_code_ < 0; ++i) {
      const int fd = events[i].data.fd;
      if (fd == listener_) {
        accept_all();
      } else if (fd == control_) {
        std::string bytes;
        const long size = wire::receive_message(control_, bytes, nullptr, false);
        if (size == 0 || (size < 0 && size != -EAGAIN)) return 0;
        if (size > 0 && wire::Reader(bytes).kind() == wire::Kind::terminate && !terminating_) {
          terminating_ = true;
          listen_again(false);
          std::vector<int> idle;
          for (const auto& [open_fd, connection] : connections_) {
            connection->closing = true;
            if (!connection->waiting && connection->reader.idle() && connection->unsent.empty())
              idle.push_back(open_fd);
          }
          for (const int idle_fd : idle) drop(idle_fd);
        }
      } else if (const auto found = connections_.find(fd); found != connections_.end()) {
        on_ready(*found->second, events[i].events);
      }
    }
    const auto now = now_us();
    while (!timers_.empty() && timers_.begin()->first <= now) {
      const int fd = timers_.begin()->second;
      timers_.erase(timers_.begin());
      on_time(*connections_.at(fd));
    }
  }
  return exit_code_;
}

void Server::listen_again(bool on) {
  if (on == accepting_) return;
  accepting_ = on;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = listener_;
  ::epoll_ctl(epoll_, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener_, &event);
}

void Server::accept_all() {
  for (int i = 0; i < 64; ++i) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      // Out of descriptors: leave the rest in the backlog until a connection ends.
      if (errno == EMFILE || errno == ENFILE) listen_again(false);
      return;
    }
    const int yes = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    auto connection = std::make_unique<Connection>();
    connection->fd = fd;
    connection->timer = timers_.end();
    connection->wanted = EPOLLIN;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    Connection& added = *connection;
    connections_[fd] = std::move(connection);
    on_ready(added, EPOLLIN);  // the request often is there already
  }
}

void Server::drop(int fd) {
  const auto found = connections_.find(fd);
  if (found == connections_.end()) return;
  if (found->second->waiting) timers_.erase(found->second->timer);
  ::close(fd);
  connections_.erase(found);
  if (!accepting_ && !terminating_) listen_again(true);
}

void Server::on_ready(Connection& connection, unsigned events) {
  static char buffer[64 * 1024];
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    const ssize_t size = ::recv(connection.fd, buffer, sizeof buffer, 0);
    if (size > 0) {
      connection.reader.append(buffer, static_cast<std::size_t>(size));
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
      connection.broken = true;
    }
  }
  pump(connection);
}

// Answers what can be answered, sends what can be sent, and says what to wait for. May destroy the connection.
void Server::pump(Connection& connection) {
  flush(connection);
  while (!connection.broken && !connection.waiting && !connection.closing &&
         connection.unsent.size() < kUnsentBytesMax && exit_code_ < 0) {
    const auto next = connection.reader.next();
    if (next == RequestReader::Next::more) {
      if (connection.reader.take_expectation()) connection.unsent += "HTTP/1.1 100 Continue\r\n\r\n";
      break;
    }
    if (next == RequestReader::Next::failed) {
      Request request;
      request.keep_alive = false;
      answer(connection, request, connection.reader.status(), "text/plain", "cannot read this request\n");
      break;
    }
    handle(connection, connection.reader.take());
    flush(connection);
  }
  flush(connection);
  const bool done = connection.closing && !connection.waiting && connection.unsent.empty();
  if (connection.broken || done) {
    drop(connection.fd);
    return;
  }
  watch(connection);
}

void Server::flush(Connection& connection) {
  while (!connection.broken && connection.sent < connection.unsent.size()) {
    const ssize_t size = ::send(connection.fd, connection.unsent.data() + connection.sent,
                                connection.unsent.size() - connection.sent, MSG_NOSIGNAL);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) connection.broken = true;
      return;
    }
    connection.sent += static_cast<std::size_t>(size);
  }
  connection.unsent.clear();
  connection.sent = 0;
}

void Server::watch(Connection& connection) {
  // Nothing is read without room for the answer, nor while a request waits; a peer that is gone shows as EPOLLHUP
  // anyway.
  unsigned wanted = connection.unsent.empty() ? 0u : static_cast<unsigned>(EPOLLOUT);
  if (!connection.waiting && connection.unsent.size() < kUnsentBytesMax) wanted |= EPOLLIN;
  if (wanted == connection.wanted) return;
  connection.wanted = wanted;
  epoll_event event{};
  event.events = wanted;
  event.data.fd = connection.fd;
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event);
}

void Server::answer(Connection& connection, const Request& request, int status, std::string_view type,
                    std::string_view body) {
  const bool has_body = status >= 200 && status != 204 && status != 304;
  std::string& out = connection.unsent;
  out += "HTTP/1.1 " + std::to_string(status) + ' ' + reason_of(status) + "\r\n";
  if (has_body) {
    out += "Content-Type: ";
    out += type;
    out += "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
  }
  if (decide_closing(connection, request)) {
    out += "Connection: close\r\n";
  } else if (request.is_http10) {
    out += "Connection: keep-alive\r\n";
  }
  out += "\r\n";
  if (has_body && request.method != "HEAD") out += body;
}

void Server::handle(Connection& connection, Request request) {
  const std::string& name = order_.builtin;
  if (name == "hello") {
    answer(connection, request, 200, "text/plain", "hello from " + order_.revision + "\n");
  } else if (name == "echo") {
    const std::string_view type = request.header("content-type");
    if (request.body.empty())
      answer(connection, request, 200, "text/plain", request.method + " " + std::string(request.path()) + "\n");
    else answer(connection, request, 200, type.empty() ? "application/octet-stream" : type, request.body);
  } else if (name == "sleep") {
    const long ms = in_range(request.query_number("ms", 1000), 0, kWaitMsMax);
    wait(connection, std::move(request), ms);
  } else if (name == "trace") {
    trace(connection, std::move(request));
  } else if (name == "stream") {
    std::string& out = connection.unsent;
    out += "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n";
    if (!request.is_http10) out += "Transfer-Encoding: chunked\r\n";
    if (request.is_http10 || !request.keep_alive) {
      out += "Connection: close\r\n";
      connection.closing = true;
    }
    out += "\r\n";
    if (request.method == "HEAD") return;
    connection.events_left = in_range(request.query_number("n", 5), 0, 1'000'000);
    connection.events_sent = 0;
    connection.request = std::move(request);
    stream_step(connection);
  } else {
    bool present = false;
    static_cast<void>(request.query("close", &present));
    if (present) {
      connection.broken = true;
      return;
    }
    static_cast<void>(request.query("exit", &present));
    if (present) {
      exit_code_ = static_cast<int>(in_range(request.query_number("exit", 1), 0, 255));
      return;
    }
    const auto status = static_cast<int>(in_range(request.query_number("status", 500), 200, 999));
    answer(connection, request, status, "text/plain", "failing with " + std::to_string(status) + " as asked\n");
  }
}

bool is_grpc(const Request& request) { return !request.is_http10 && request.header("content-type").starts_with("application/grpc"); }

void Server::trace(Connection& connection, Request request) {
  long ms = std::atol(std::string(request.header("requested_cpu")).c_str());
  if (is_grpc(request)) {
    const auto call = read_execute(request.body);
    if (!call) {
      connection.unsent += execute_refusal(decide_closing(connection, request));
      return;
    }
    ms = static_cast<long>(std::min<std::uint64_t>(call->run_ms, kWaitMsMax));
  }
  ms = in_range(ms, 0, kWaitMsMax);
  if (ms == 0 || request.header("workload").find("empty") != std::string_view::npos) {
    answer_trace(connection, request, 0);
  } else if (environment_of(order_, "TRACE_SPIN") == "1") {
    const auto began = now_us();
    while (now_us() - began < static_cast<unsigned long long>(ms) * 1000) {
    }
    answer_trace(connection, request, now_us() - began);
  } else {
    wait(connection, std::move(request), ms);
  }
}

void Server::answer_trace(Connection& connection, const Request& request, unsigned long long us) {
  if (is_grpc(request)) {
    const auto call = read_execute(request.body);
    connection.unsent += execute_reply(environment_of(order_, "FUNCTION_NAME"), us, call ? call->memory_mib : 0, decide_closing(connection, request));
  } else {
    answer(connection, request, 200, "application/json", trace_body(request, us));
  }
}

// Whether the connection ends with this answer.
bool Server::decide_closing(Connection& connection, const Request& request) const {
  if (terminating_ || !request.keep_alive) connection.closing = true;
  return connection.closing;
}

void Server::wait(Connection& connection, Request request, long ms) {
  connection.request = std::move(request);
  connection.began_us = now_us();
  connection.waiting = true;
  connection.timer = timers_.emplace(connection.began_us + static_cast<unsigned long long>(ms) * 1000, connection.fd);
}

void Server::on_time(Connection& connection) {
  connection.waiting = false;
  const Request& request = connection.request;
  const auto us = now_us() - connection.began_us;
  if (order_.builtin == "stream") stream_step(connection);
  else if (order_.builtin == "trace") answer_trace(connection, request, us);
  else answer(connection, request, 200, "text/plain", "slept " + std::to_string(us / 1000) + " ms\n");
  pump(connection);
}

void Server::stream_step(Connection& connection) {
  const long ms = in_range(connection.request.query_number("ms", 100), 0, kWaitMsMax);
  const bool chunked = !connection.request.is_http10;
  while (connection.events_left > 0) {
    --connection.events_left;
    const std::string event = "data: " + std::to_string(++connection.events_sent) + "\n\n";
    char size[32];
    char* digit = size + sizeof size;
    for (std::size_t n = event.size(); n > 0; n /= 16) *--digit = "0123456789abcdef"[n % 16];
    if (chunked)
      (connection.unsent.append(digit, static_cast<std::size_t>(size + sizeof size - digit)) += "\r\n") +=
          event + "\r\n";
    else connection.unsent += event;
    const bool is_full = connection.unsent.size() >= kUnsentBytesMax;
    if (connection.events_left > 0 && (ms > 0 || is_full)) {
      connection.waiting = true;
      connection.timer =
          timers_.emplace(now_us() + static_cast<unsigned long long>(ms > 0 ? ms : 1) * 1000, connection.fd);
      return;
    }
  }
  if (chunked) connection.unsent += "0\r\n\r\n";
}

std::string Server::trace_body(const Request& request, unsigned long long us) const {
  const auto quoted = [](std::string_view text) {
    std::string out;
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) >= 0x20) out += c;
    }
    return out;
  };
  return "{\"Status\":\"OK\",\"Function\":\"" + quoted(request.header("function")) + "\",\"MachineName\":\"" +
         quoted(order_.node) + "\",\"ExecutionTime\":" + std::to_string(us) + "}";
}

}  // namespace

BuiltinEnd serve_builtin(const wire::Order& order, int control, unsigned long long received_us,
                         unsigned long long rooted_us) {
  const auto report_started = [&] {
    wire::Writer out(wire::Kind::started);
    out.u32(static_cast<std::uint32_t>(rooted_us - received_us)).u32(static_cast<std::uint32_t>(now_us() - rooted_us));
    wire::send_message(control, out.bytes());
  };
  BuiltinEnd end;
  const std::string exit_at_start = environment_of(order, "START_EXIT");
  const long delay_ms = std::atol(environment_of(order, "START_DELAY_MS").c_str());
  if (!exit_at_start.empty() || delay_ms > 0) {
    report_started();
    const auto until = now_us() + static_cast<unsigned long long>(delay_ms < 0 ? 0 : delay_ms) * 1000;
    for (auto now = now_us(); now < until; now = now_us()) {
      pollfd event{control, POLLIN, 0};
      // Anything the worker says while nothing is served yet means the end.
      if (::poll(&event, 1, static_cast<int>((until - now + 999) / 1000)) > 0) return end;
    }
    if (!exit_at_start.empty()) {
      end.exit_code = std::atoi(exit_at_start.c_str()) & 0xff;
      return end;
    }
  }
  Server server(order, control);
  end.failure = server.listen_now();
  if (end.failure) {
    // Once started, a failure to listen is the function's own end.
    if (delay_ms > 0) {
      [[maybe_unused]] const auto ignored = ::write(2, end.failure.text.data(), end.failure.text.size());
      end.failure = {};
      end.exit_code = 1;
    }
    return end;
  }
  if (delay_ms <= 0) report_started();
  end.exit_code = server.run();
  return end;
}

}  // namespace dirigent::sandbox::cell
