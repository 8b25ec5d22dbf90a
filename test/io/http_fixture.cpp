// SPDX-License-Identifier: MIT
#include "http_fixture.h"

#include <cstdlib>
#include <filesystem>

namespace dirigent::io::test {

namespace {

constexpr int kPatienceMs = 10'000;

// Waits until `fd` can be read, so that a server that never answers fails the test instead of hanging it.
void await_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  REQUIRE(::poll(&entry, 1, kPatienceMs) == 1);
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "dirigent-test-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

TestServer::TestServer(HttpHandler handler, HttpServerOptions options) {
  if (options.listen.empty()) options.listen = "127.0.0.1:0";
  auto server = serve_http(loop_, std::move(options), std::move(handler));
  if (!server) FAIL(server.error().message);
  server_ = std::move(*server);
  address_ = server_->address();
  thread_ = std::thread([this] { loop_.run(); });
}

void TestServer::close(Duration drain) {
  if (!server_) return;
  auto stop = [](TestServer& self, Duration limit) -> Action {
    co_await self.server_->close(limit);
    self.loop_.stop();
  };
  std::unique_ptr<TaskGroup> group;
  loop_.post([&] {
    group = std::make_unique<TaskGroup>(loop_, "test");
    group->spawn(stop(*this, drain));
  });
  thread_.join();
  group->drain_now();
  server_.reset();
}

HttpHandler echo_handler() {
  return [](HttpRequest request) -> asio::awaitable<HttpResponse, asio::io_context::executor_type> {
    co_return text_response(200, request.method + " " + request.target + " " + request.body);
  };
}

RawClient::RawClient(const std::string& server) {
  const auto address = parse_address(server);
  REQUIRE(address.has_value());
  const auto target = to_socket_address(*address);
  REQUIRE(target.has_value());
  socket_ = FileDescriptor(::socket(target->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(socket_.is_open());
  REQUIRE(::connect(socket_.get(), target->get(), target->length) == 0);
}

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

std::string RawClient::read_all() {
  std::string all;
  char buffer[4096];
  for (;;) {
    await_readable(socket_.get());
    const ssize_t size = ::recv(socket_.get(), buffer, sizeof buffer, 0);
    if (size <= 0) return all;
    all.append(buffer, static_cast<std::size_t>(size));
  }
}

std::string RawClient::read_until(std::string_view end) {
  std::string all;
  while (!all.ends_with(end)) {
    const std::string next = read_exactly(1);
    if (next.empty()) break;
    all += next;
  }
  return all;
}

std::string RawClient::read_exactly(std::size_t wanted) {
  std::string all(wanted, '\0');
  std::size_t got = 0;
  while (got < wanted) {
    await_readable(socket_.get());
    const ssize_t size = ::recv(socket_.get(), all.data() + got, wanted - got, 0);
    if (size <= 0) break;
    got += static_cast<std::size_t>(size);
  }
  all.resize(got);
  return all;
}

std::string talk(const std::string& server, std::string_view request) {
  RawClient client(server);
  client.send(request);
  return client.read_all();
}

CannedPeer::CannedPeer(std::string answer, std::string request_end) {
  listener_ = FileDescriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress bound = *to_socket_address(Address{"127.0.0.1", 0, ""});
  REQUIRE(::bind(listener_.get(), bound.get(), bound.length) == 0);
  REQUIRE(::listen(listener_.get(), 8) == 0);
  bound.length = sizeof bound.storage;
  REQUIRE(::getsockname(listener_.get(), bound.get(), &bound.length) == 0);
  address_ = format_socket_address(bound.get(), bound.length);
  thread_ = std::thread([this, text = std::move(answer), end = std::move(request_end)] {
    const FileDescriptor peer(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!peer.is_open()) return;
    char byte = 0;
    while (!received_.ends_with(end) && ::recv(peer.get(), &byte, 1, 0) == 1) received_ += byte;
    for (std::size_t sent = 0; sent < text.size();) {
      const ssize_t size = ::send(peer.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (size <= 0) return;
      sent += static_cast<std::size_t>(size);
    }
  });
}

CannedPeer::~CannedPeer() {
  // Wakes accept() when nobody came.
  ::shutdown(listener_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

std::string CannedPeer::received() {
  if (thread_.joinable()) thread_.join();
  return received_;
}

}  // namespace dirigent::io::test
