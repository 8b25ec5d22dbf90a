// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fstream>
#include <vector>

#include "http_fixture.h"

using namespace dirigent;
using namespace dirigent::io;
using namespace dirigent::io::test;
using Answer = asio::awaitable<HttpResponse, asio::io_context::executor_type>;

namespace {

constexpr std::string_view kGet = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
constexpr std::string_view kLastGet = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

}  // namespace

TEST_CASE("server: requests of one connection are answered in order, pipelined or not") {
  TestServer server(echo_handler());
  RawClient client(server.address());
  client.send(kGet);
  CHECK(client.read_until("GET /a ") ==
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 7\r\n\r\nGET /a ");
  std::string many;
  for (int i = 0; i < 50; ++i) {
    many += "POST /" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
  }
  client.send(many + std::string(kLastGet));
  const std::string all = client.read_all();
  std::size_t at = 0;
  for (int i = 0; i < 50; ++i) {
    const std::size_t found = all.find("POST /" + std::to_string(i) + " hi", at);
    REQUIRE(found != std::string::npos);
    at = found;
  }
  CHECK(all.find("Connection: close\r\n", at) != std::string::npos);
  CHECK(all.ends_with("GET /last "));
}

TEST_CASE("server: HTTP/1.0 closes unless it asks to be kept") {
  TestServer server(echo_handler());
  CHECK_THAT(talk(server.address(), "GET / HTTP/1.0\r\n\r\n"), contains_text("Connection: close\r\n"));
  RawClient client(server.address());
  client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  CHECK_THAT(client.read_until("GET / "), contains_text("Connection: keep-alive\r\n"));
  client.send("GET / HTTP/1.0\r\n\r\n");
  CHECK(client.read_all().ends_with("GET / "));
}

TEST_CASE("server: HEAD and 204 have no body") {
  TestServer server([](HttpRequest request) -> Answer {
    co_return text_response(request.path() == "/none" ? 204 : 200, "seven..");
  });
  const std::string head = talk(server.address(), "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  CHECK_THAT(head, contains_text("Content-Length: 7\r\n"));
  CHECK(head.ends_with("\r\n\r\n"));
  const std::string none = talk(server.address(), "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  CHECK(none.starts_with("HTTP/1.1 204 No Content\r\n"));
  CHECK(none.find("Content-Length") == std::string::npos);
  CHECK(none.ends_with("\r\n\r\n"));
}

TEST_CASE("server: a chunked body reaches the handler whole") {
  TestServer server(echo_handler());
  CHECK_THAT(talk(server.address(),
                      "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                      "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"),
             contains_text("POST / abcdefg"));
}

TEST_CASE("server: a client that expects 100-continue hears it before it sends the body") {
  HttpServerOptions options;
  options.body_max = 10_KiB;
  TestServer server(echo_handler(), options);
  RawClient client(server.address());
  client.send("PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
  CHECK(client.read_until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("abc");
  CHECK_THAT(client.read_all(), contains_text("PUT / abc"));
  // Too large: refused instead of invited.
  const std::string refused =
      talk(server.address(), "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999\r\n\r\n");
  CHECK(refused.starts_with("HTTP/1.1 413 "));
  CHECK(talk(server.address(), "PUT / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nContent-Length: 3\r\n\r\n")
            .starts_with("HTTP/1.1 417 "));
}

TEST_CASE("server: what cannot be accepted is answered with a reason and the connection is closed") {
  HttpServerOptions options;
  options.body_max = 10_KiB;
  TestServer server(echo_handler(), options);
  const auto status_of = [&](const std::string& request) {
    const std::string answer = talk(server.address(), request);
    CHECK_THAT(answer, contains_text("Connection: close\r\n"));
    return answer.substr(0, 12);
  };
  CHECK(status_of("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n") == "HTTP/1.1 400");
  const std::string post = "POST / HTTP/1.1\r\nHost: x\r\n";
  CHECK(status_of(post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n") == "HTTP/1.1 400");
  CHECK(status_of("GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n") == "HTTP/1.1 414");
  CHECK(status_of("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(40'000, 'a')) == "HTTP/1.1 431");
  CHECK(status_of("GET / HTTP/3.0\r\nHost: x\r\n\r\n") == "HTTP/1.1 505");
  CHECK(status_of(post + "Content-Length: 10241\r\n\r\n" + std::string(10'241, 'b')) == "HTTP/1.1 413");
  // The rest of the server is not impressed.
  CHECK_THAT(talk(server.address(), kLastGet), contains_text("200 OK"));
}

TEST_CASE("server: a handler that throws is a 500, and one that breaks header lines loses the header") {
  TestServer server([](HttpRequest request) -> Answer {
    if (request.path() == "/throw") throw std::runtime_error("intended by a test");
    HttpResponse response = text_response(200, "ok");
    response.headers.emplace_back("X-Bad", "a\r\nSet-Cookie: b");
    response.headers.emplace_back("X-Good", "c");
    response.headers.emplace_back("Content-Length", "999");
    co_return response;
  });
  RawClient client(server.address());
  client.send("GET /throw HTTP/1.1\r\nHost: x\r\n\r\n");
  CHECK_THAT(client.read_until("log\n"), contains_text("HTTP/1.1 500 "));
  client.send(kLastGet);
  const std::string answer = client.read_all();
  CHECK_THAT(answer, contains_text("X-Good: c\r\n") && contains_text("Content-Length: 2\r\n"));
  CHECK(answer.find("Set-Cookie") == std::string::npos);
  CHECK(answer.find("999") == std::string::npos);
}

TEST_CASE("server: slow heads, slow bodies and idle connections are ended") {
  HttpServerOptions options;
  options.header_timeout = 50ms;
  options.idle_timeout = 100ms;
  TestServer server(echo_handler(), options);
  RawClient silent(server.address());
  RawClient slow_head(server.address());
  slow_head.send("GET / HT");
  RawClient slow_body(server.address());
  slow_body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab");
  RawClient idle(server.address());
  idle.send(kGet);
  CHECK(silent.read_all().empty());
  CHECK_THAT(slow_head.read_all(), contains_text("HTTP/1.1 408 ") && contains_text("request head"));
  CHECK_THAT(slow_body.read_all(), contains_text("HTTP/1.1 408 ") && contains_text("request body"));
  CHECK(idle.read_all().ends_with("GET /a "));
}

namespace {

void serve_many(std::size_t count) {
  TestServer server(echo_handler());
  std::vector<std::unique_ptr<RawClient>> clients;
  for (std::size_t i = 0; i < count; ++i) clients.push_back(std::make_unique<RawClient>(server.address()));
  for (int round = 0; round < 2; ++round) {
    for (auto& client : clients) REQUIRE(client->send(kGet));
    for (auto& client : clients) REQUIRE(client->read_until("GET /a ").starts_with("HTTP/1.1 200 OK"));
  }
}

}  // namespace

TEST_CASE("server: 500 simultaneous connections are all served") { serve_many(500); }

// Hidden, because two descriptors a connection are more than many machines allow: test_io "[storm]".
TEST_CASE("server: 5000 simultaneous connections are all served", "[.][storm]") { serve_many(5000); }

TEST_CASE("server: over its limit of connections the next client waits for a place") {
  HttpServerOptions options;
  options.connections_max = 2;
  TestServer server(echo_handler(), options);
  auto first = std::make_unique<RawClient>(server.address());
  RawClient second(server.address());
  for (RawClient* client : {first.get(), &second}) {
    client->send(kGet);
    client->read_until("GET /a ");
  }
  RawClient third(server.address());
  third.send(kLastGet);
  first.reset();
  CHECK(third.read_all().ends_with("GET /last "));
}

TEST_CASE("server: without descriptors it backs off and serves again when there are some") {
  TestServer server(echo_handler());
  RawClient before(server.address());
  before.send(kGet);
  before.read_until("GET /a ");
  RawClient waiting(server.address());
  // Connects in the kernel only: its own descriptor exists, the server's end has to wait for one.
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  std::vector<FileDescriptor> hoard;
  rlimit small = limit;
  small.rlim_cur = 256;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &small) == 0);
  const int spare = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC); fd >= 0; fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) {
    hoard.emplace_back(fd);
  }
  const auto target = *to_socket_address(*parse_address(server.address()));
  const bool connected = ::connect(spare, target.get(), target.length) == 0;
  // The connection that exists is served all the same.
  before.send(kGet);
  const std::string served = before.read_until("GET /a ");
  hoard.clear();
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(connected);
  CHECK(served.starts_with("HTTP/1.1 200 OK"));
  CHECK(::send(spare, kLastGet.data(), kLastGet.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(kLastGet.size()));
  char byte = 0;
  CHECK(::recv(spare, &byte, 1, 0) == 1);
  ::close(spare);
  waiting.send(kLastGet);
  CHECK(waiting.read_all().ends_with("GET /last "));
}

TEST_CASE("server: close lets a running request finish and ends idle connections at once") {
  std::promise<void> arrived;
  TestServer* self = nullptr;
  auto server = std::make_unique<TestServer>([&](HttpRequest request) -> Answer {
    if (request.path() == "/wait") {
      arrived.set_value();
      const Status slept = co_await sleep_for(self->loop(), 100ms);
      if (!slept) co_return text_response(500, "cancelled");
    }
    co_return text_response(200, "finished");
  });
  self = server.get();
  RawClient idle(server->address());
  idle.send(kGet);
  idle.read_until("finished");
  RawClient running(server->address());
  running.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  arrived.get_future().get();
  server->close(10s);
  CHECK(idle.read_all().empty());
  const std::string answer = running.read_all();
  CHECK(answer.ends_with("finished"));
  CHECK_THAT(answer, contains_text("Connection: close"));
}

TEST_CASE("server: close cancels what still runs after the drain time") {
  std::promise<void> arrived;
  TestServer* self = nullptr;
  auto server = std::make_unique<TestServer>([&](HttpRequest) -> Answer {
    arrived.set_value();
    const Status slept = co_await sleep_for(self->loop(), 1h);
    co_return text_response(200, slept ? "slept" : "cancelled");
  });
  self = server.get();
  RawClient client(server->address());
  client.send(kGet);
  RawClient half(server->address());
  half.send("GET / HT");
  arrived.get_future().get();
  server->close(20ms);
  CHECK(client.read_all().empty());
  CHECK(half.read_all().empty());
}

TEST_CASE("server: a port in use is an error that names the address and the holder") {
  TestServer server(echo_handler());
  Loop loop;
  HttpServerOptions options;
  options.listen = server.address();
  const auto second = serve_http(loop, options, echo_handler());
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == ErrorCode::already_exists);
  CHECK_THAT(second.error().message,
             contains_text(server.address()) && contains_text(std::to_string(::getpid())) &&
                 contains_text("choose another port"));
}

TEST_CASE("server: addresses that cannot be listened on are errors") {
  Loop loop;
  HttpServerOptions options;
  options.listen = "nonsense";
  CHECK(serve_http(loop, options, echo_handler()).error().code == ErrorCode::invalid_argument);
  options.listen = "192.0.2.1:0";  // a documentation address, on no interface
  const auto foreign = serve_http(loop, options, echo_handler());
  REQUIRE_FALSE(foreign.has_value());
  CHECK(foreign.error().code == ErrorCode::invalid_argument);
  CHECK_THAT(foreign.error().message, contains_text("192.0.2.1:0"));
  options.listen = "unix:/nonexistent/directory/socket";
  CHECK_FALSE(serve_http(loop, options, echo_handler()).has_value());
}

TEST_CASE("server: on a Unix socket it has mode 0660, replaces a dead server's file and spares a live one's") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/socket";
  HttpServerOptions options;
  options.listen = "unix:" + path;
  {
    // A dead server: bound, never removed.
    const FileDescriptor dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto target = *to_socket_address(*parse_address(options.listen));
    REQUIRE(::bind(dead.get(), target.get(), target.length) == 0);
  }
  {
    TestServer server(echo_handler(), options);
    struct stat made {};
    REQUIRE(::stat(path.c_str(), &made) == 0);
    CHECK((made.st_mode & 0777) == 0660);
    CHECK_THAT(talk(server.address(), kLastGet), contains_text("GET /last "));

    Loop loop;
    const auto second = serve_http(loop, options, echo_handler());
    REQUIRE_FALSE(second.has_value());
    CHECK(second.error().code == ErrorCode::already_exists);
    CHECK_THAT(second.error().message, contains_text(path) && contains_text(std::to_string(::getpid())));
    CHECK_THAT(talk(server.address(), kLastGet), contains_text("GET /last "));
  }
  CHECK(::access(path.c_str(), F_OK) != 0);

  std::ofstream(path) << "precious";
  Loop loop;
  const auto blocked = serve_http(loop, options, echo_handler());
  REQUIRE_FALSE(blocked.has_value());
  CHECK_THAT(blocked.error().message, contains_text("not a socket"));
  CHECK(::access(path.c_str(), F_OK) == 0);
}

TEST_CASE("server: handlers see who calls") {
  TestServer server([](HttpRequest request) -> Answer { co_return text_response(200, "peer=" + request.peer); });
  CHECK_THAT(talk(server.address(), kLastGet), contains_text("peer=127.0.0.1:"));
}
