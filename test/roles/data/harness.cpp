// SPDX-License-Identifier: MIT
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>

#include <algorithm>
#include <stdexcept>

#include "catch.h"
#include "dirigent/base/text.h"
#include "roles/data/http_head.h"

namespace dirigent::test {

// --- Wire ---------------------------------------------------------------------------------------------------------

namespace {
void give_up_after_10_s(int fd) {
  const timeval limit{10, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

std::string find_in_head(std::string_view head, std::string_view name) {
  for (const auto line : split(head, '\n')) {
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos && roles::equals_ignoring_case(line.substr(0, colon), name)) {
      return std::string(trim(line.substr(colon + 1)));
    }
  }
  return "";
}

int count_in_head(std::string_view head, std::string_view name) {
  int found = 0;
  for (const auto line : split(head, '\n')) {
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos && roles::equals_ignoring_case(line.substr(0, colon), name)) ++found;
  }
  return found;
}

// Reads a chunked body; true when it ended properly.
bool read_chunks(Wire& wire, std::string& body, std::string& raw, std::string& trailers) {
  for (;;) {
    const std::string line = wire.read_until("\r\n");
    raw += line;
    if (line.empty()) return false;
    const std::size_t size = std::strtoul(line.c_str(), nullptr, 16);
    if (size == 0) break;
    const std::string chunk = wire.read_exactly(size + 2);
    raw += chunk;
    if (chunk.size() != size + 2) {
      body += chunk;
      return false;
    }
    body += chunk.substr(0, size);
  }
  for (;;) {
    const std::string line = wire.read_until("\r\n");
    raw += line;
    if (line.empty()) return false;
    if (line == "\r\n") return true;
    trailers += line;
  }
}
}  // namespace

Wire Wire::connect(const std::string& text) {
  const auto address = roles::parse_socket_address(text);
  if (!address) throw std::runtime_error(address.error().message);
  const int fd = ::socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  give_up_after_10_s(fd);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address->storage), address->size) != 0) {
    ::close(fd);
    throw std::runtime_error("cannot connect to " + text);
  }
  return Wire(fd);
}

bool Wire::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

void Wire::shutdown_write() { ::shutdown(fd_, SHUT_WR); }

void Wire::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Wire::reset() {
  const linger abort{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  close();
}

void Wire::shrink_buffers(int bytes) {
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

bool Wire::fill() {
  char bytes[65536];
  const ssize_t received = ::recv(fd_, bytes, sizeof bytes, 0);
  if (received < 0) was_reset_ = true;
  if (received <= 0) return false;
  buffer_.append(bytes, static_cast<std::size_t>(received));
  return true;
}

std::string Wire::read_until(std::string_view mark) {
  std::size_t from = 0;
  for (;;) {
    const std::size_t found = buffer_.find(mark, from);
    if (found != std::string::npos) {
      std::string text = buffer_.substr(0, found + mark.size());
      buffer_.erase(0, found + mark.size());
      return text;
    }
    from = buffer_.size() < mark.size() ? 0 : buffer_.size() - mark.size();
    if (!fill()) return "";
  }
}

std::string Wire::read_exactly(std::size_t size) {
  while (buffer_.size() < size) {
    if (!fill()) break;
  }
  std::string text = buffer_.substr(0, size);
  buffer_.erase(0, text.size());
  return text;
}

std::string Wire::read_to_end() {
  while (fill()) {
  }
  return std::exchange(buffer_, {});
}

std::string Wire::read_some(std::size_t at_most) {
  if (buffer_.empty() && !fill()) return "";
  std::string text = buffer_.substr(0, at_most);
  buffer_.erase(0, text.size());
  return text;
}

bool Wire::at_end() {
  if (!buffer_.empty()) return false;
  char byte;
  const ssize_t received = ::recv(fd_, &byte, 1, 0);
  return received == 0 || (received < 0 && errno == ECONNRESET);
}

// --- messages -----------------------------------------------------------------------------------------------------

std::string Response::header(std::string_view name) const { return find_in_head(head, name); }
int Response::count(std::string_view name) const { return count_in_head(head, name); }
std::string Received::header(std::string_view name) const { return find_in_head(head, name); }
int Received::count(std::string_view name) const { return count_in_head(head, name); }

Response read_response(Wire& wire, bool answers_head) {
  Response response;
  response.head = wire.read_until("\r\n\r\n");
  if (response.head.size() < 12) return response;
  response.status = std::atoi(response.head.c_str() + 9);
  if (answers_head || response.status < 200 || response.status == 204 || response.status == 304) {
    response.complete = true;
  } else if (response.header("Transfer-Encoding") == "chunked") {
    std::string raw;
    response.complete = read_chunks(wire, response.body, raw, response.trailers);
  } else if (const std::string length = response.header("Content-Length"); !length.empty()) {
    const std::size_t size = std::strtoul(length.c_str(), nullptr, 10);
    response.body = wire.read_exactly(size);
    response.complete = response.body.size() == size;
  } else {
    response.body = wire.read_to_end();
    response.complete = !wire.was_reset();
  }
  return response;
}

Response fetch(const std::string& address, std::string_view request) {
  Wire wire = Wire::connect(address);
  wire.write(request);
  return read_response(wire, request.starts_with("HEAD "));
}

std::string get(std::string_view path, std::string_view host) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", path, host);
}

std::string ok(std::string_view body, std::string_view headers) {
  return fmt::format("HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n{}", headers, body.size(), body);
}

std::optional<Received> read_request(Wire& wire) {
  Received received;
  received.head = wire.read_until("\r\n\r\n");
  if (received.head.empty()) return std::nullopt;
  if (received.header("Transfer-Encoding") == "chunked") {
    std::string trailers;
    if (!read_chunks(wire, received.body, received.raw_body, trailers)) return std::nullopt;
  } else if (const std::string length = received.header("Content-Length"); !length.empty()) {
    const std::size_t size = std::strtoul(length.c_str(), nullptr, 10);
    received.body = wire.read_exactly(size);
    if (received.body.size() != size) return std::nullopt;
  }
  return received;
}

// --- FakeSandbox --------------------------------------------------------------------------------------------------

FakeSandbox::FakeSandbox(Serve serve) : serve_(std::move(serve)), listener_(*roles::listen_tcp("127.0.0.1:0", false)) {
  // Blocking: the acceptor waits in accept().
  ::fcntl(listener_, F_SETFL, ::fcntl(listener_, F_GETFL) & ~O_NONBLOCK);
  roles::SocketAddress bound;
  bound.size = sizeof bound.storage;
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&bound.storage), &bound.size);
  address_ = roles::to_string(bound);
  acceptor_ = std::thread([this] { accept_loop(); });
}

FakeSandbox::~FakeSandbox() {
  stopping_ = true;
  stop_listening();
  drop_connections();
  for (auto& thread : threads_) thread.join();
}

void FakeSandbox::stop_listening() {
  if (listener_ < 0) return;
  ::shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  ::close(listener_);
  listener_ = -1;
}

void FakeSandbox::drop_connections() {
  const std::lock_guard lock(mutex_);
  for (const int fd : fds_) ::shutdown(fd, SHUT_RDWR);
}

void FakeSandbox::accept_loop() {
  for (;;) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    give_up_after_10_s(fd);
    ++connections_;
    const std::lock_guard lock(mutex_);
    fds_.push_back(fd);
    threads_.emplace_back([this, fd] {
      Wire wire(fd);
      serve_(wire, *this);
      const std::lock_guard closing(mutex_);
      fds_.remove(fd);
      wire.close();
    });
  }
}

void FakeSandbox::note(Received received) {
  const std::lock_guard lock(mutex_);
  last_ = std::move(received);
  ++requests_;
}

Received FakeSandbox::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

FakeSandbox::Serve FakeSandbox::answering(std::function<std::string(const Received&)> answer) {
  return [answer = std::move(answer)](Wire& wire, FakeSandbox& sandbox) {
    while (auto received = read_request(wire)) {
      const int now = ++sandbox.active;
      for (int seen = sandbox.active_max; now > seen && !sandbox.active_max.compare_exchange_weak(seen, now);) {
      }
      sandbox.note(*received);
      const std::string response = answer(*received);
      --sandbox.active;
      if (!wire.write(response)) return;
    }
  };
}

FakeSandbox::Serve FakeSandbox::serving_until_closed(std::function<bool(const Received&, Wire&)> serve) {
  return [serve = std::move(serve)](Wire& wire, FakeSandbox& sandbox) {
    while (auto received = read_request(wire)) {
      sandbox.note(*received);
      if (!serve(*received, wire)) return;
    }
  };
}

FakeSandbox::Serve FakeSandbox::answering(std::string answer) {
  return answering([answer = std::move(answer)](const Received&) { return answer; });
}

// --- Event --------------------------------------------------------------------------------------------------------

void Event::set() {
  const std::lock_guard lock(mutex_);
  is_set_ = true;
  changed_.notify_all();
}

bool Event::wait(std::chrono::seconds limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [this] { return is_set_; });
}

// --- Plane --------------------------------------------------------------------------------------------------------

Plane::Plane(std::function<void(roles::ProxyOptions&)> adjust, roles::AsyncDesk::OpenStore open_store) : thread_([this] { loop_.run(); }) {
  roles::ProxyOptions options;
  options.host_id = "this-host";
  options.seed = 42;
  if (adjust) adjust(options);
  on_loop([&] {
    auto opened = roles::DataPlane::open(loop_, options, [this](std::vector<DataPlaneMessage> messages) {
      const std::lock_guard lock(mutex_);
      for (auto& message : messages) {
        if (auto* suspected = std::get_if<SandboxSuspected>(&message)) suspected_.push_back(*suspected);
        if (auto* load = std::get_if<FunctionLoad>(&message)) loads_.push_back(*load);
        auto* released = std::get_if<SlotsReleased>(&message);
        if (released != nullptr && released->slots == 0) drained_.push_back(released->sandbox);
      }
    }, std::move(open_store));
    if (opened) plane_ = std::move(*opened);
    if (!opened) WARN(opened.error().message);
  });
  if (!plane_) throw std::runtime_error("cannot open a data plane");
  address_ = plane_->address();
  // An unknown name is unknown from now on.
  on_loop([this] {
    RouteUpdate update;
    update.term = Term{1};
    update.complete = true;
    plane_->apply(update);
  });
}

Plane::~Plane() {
  if (!stopped_) {
    // Taking every sandbox out of the routes makes the data plane report each as drained, once no slot of it is taken.
    on_loop([this] {
      RouteUpdate update;
      update.term = Term{2};
      update.complete = true;
      plane_->apply(update);
    });
    const bool all_drained = eventually([this] {
      const std::lock_guard lock(mutex_);
      return drained_.size() == next_sandbox_ - 1;
    });
    CHECK(all_drained);
    stop(Duration::zero());
  }
  on_loop([this] { plane_.reset(); });
  loop_.stop();
  thread_.join();
}

void Plane::route(const std::string& name, std::vector<std::string> addresses, std::function<void(FunctionRoute&)> adjust) {
  FunctionRoute& route = routes_[name];
  route.function = FunctionName{name};
  if (route.revision.value == 0) route.revision = RevisionNumber{1};
  std::erase_if(route.sandboxes, [&](const RoutedSandbox& known) {
    return std::find(addresses.begin(), addresses.end(), known.address.direct) == addresses.end();
  });
  for (const auto& address : addresses) {
    const bool known = std::any_of(route.sandboxes.begin(), route.sandboxes.end(),
                                   [&](const RoutedSandbox& s) { return s.address.direct == address; });
    if (known) continue;
    RoutedSandbox sandbox;
    sandbox.id = SandboxId{next_sandbox_++};
    sandbox.node = NodeId{"node1"};
    sandbox.address.direct = address;
    sandbox.address.host_id = "this-host";
    route.sandboxes.push_back(sandbox);
  }
  if (adjust) adjust(route);
  send(route);
}

void Plane::unroute(const std::string& name) {
  FunctionRoute route = routes_[name];
  route.deleted = true;
  routes_.erase(name);
  send(route);
}

void Plane::send(FunctionRoute route) {
  route.version = RouteVersion{++version_};
  on_loop([&] {
    RouteUpdate update;
    update.term = Term{1};
    update.functions.push_back(route);
    plane_->apply(update);
  });
  snapshot();  // a turn of every shard: they have applied it
}

std::future<void> Plane::start_stop(Duration drain) {
  auto done = std::make_shared<std::promise<void>>();
  stopped_ = true;
  loop_.post([this, drain, done] {
    asio::co_spawn(loop_.context().get_executor(), plane_->stop(drain), [done](std::exception_ptr error) {
      if (error) {
        done->set_exception(error);
      } else {
        done->set_value();
      }
    });
  });
  return done->get_future();
}

void Plane::stop(Duration drain) { start_stop(drain).get(); }

std::vector<roles::MetricsSnapshot> Plane::snapshot() {
  auto result = std::make_shared<std::promise<std::vector<roles::MetricsSnapshot>>>();
  auto future = result->get_future();
  loop_.post([this, result] {
    asio::co_spawn(loop_.context().get_executor(), plane_->snapshot(),
                   [result](std::exception_ptr, Result<std::vector<roles::MetricsSnapshot>> snapshots) {
                     result->set_value(snapshots ? std::move(*snapshots) : std::vector<roles::MetricsSnapshot>{});
                   });
  });
  return future.get();
}

std::uint64_t Plane::in_flight() {
  std::uint64_t sum = 0;
  for (const auto& shard : snapshot()) {
    for (const auto& load : shard.loads) sum += load.in_flight;
  }
  return sum;
}

std::uint64_t Plane::waiting() {
  std::uint64_t sum = 0;
  for (const auto& shard : snapshot()) {
    for (const auto& load : shard.loads) sum += load.waiting;
  }
  return sum;
}

bool Plane::eventually(std::function<bool()> condition) {
  const Instant deadline = io::Loop::now() + 10s;
  while (io::Loop::now() < deadline) {
    if (condition()) return true;
    snapshot();
    std::this_thread::yield();
  }
  return condition();
}

std::vector<SandboxSuspected> Plane::suspected() {
  const std::lock_guard lock(mutex_);
  return suspected_;
}

std::vector<FunctionLoad> Plane::loads() {
  const std::lock_guard lock(mutex_);
  return loads_;
}

}  // namespace dirigent::test
