// SPDX-License-Identifier: MIT
#include "http_fixture.h"

using namespace dirigent;
using namespace dirigent::io;
using namespace dirigent::io::test;

namespace {

Result<HttpResponse> call_canned(std::string answer, std::string method = "GET", Bytes body_max = 1_MiB) {
  const CannedPeer peer(std::move(answer));
  HttpCall what;
  what.server = peer.address();
  what.method = std::move(method);
  what.body_max = body_max;
  what.timeout = 10s;
  return call(std::move(what));
}

ErrorCode code_of_canned(std::string answer) {
  const auto result = call_canned(std::move(answer));
  REQUIRE_FALSE(result.has_value());
  return result.error().code;
}

}  // namespace

TEST_CASE("client: what it sends is what the server gets") {
  TestServer server(echo_handler());
  HttpCall what;
  what.server = server.address();
  what.method = "POST";
  what.target = "/x?y";
  what.body = std::string(300'000, 'b');
  const auto result = call(what);
  REQUIRE(result.has_value());
  CHECK(result->status == 200);
  CHECK(result->body == "POST /x?y " + what.body);
  CHECK(find_header(result->headers, "content-type") == "text/plain; charset=utf-8");
}

TEST_CASE("client: the request head is complete and its framing is not the caller's") {
  CannedPeer peer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  HttpCall what;
  what.server = peer.address();
  what.method = "POST";
  what.headers = {{"X-A", "b"}, {"Content-Length", "77"}};
  REQUIRE(call(what).has_value());
  CHECK(peer.received() == "POST / HTTP/1.1\r\nHost: " + peer.address() +
                               "\r\nX-A: b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

TEST_CASE("client: it speaks over Unix sockets") {
  const TemporaryDirectory directory;
  HttpServerOptions options;
  options.listen = "unix:" + directory.path() + "/s";
  TestServer server(echo_handler(), options);
  HttpCall what;
  what.server = server.address();
  CHECK(call(what)->body == "GET / ");
}

TEST_CASE("client: it resolves names") {
  TestServer server(echo_handler());
  HttpCall what;
  what.server = "localhost" + server.address().substr(server.address().rfind(':'));
  const auto result = call(what);
  REQUIRE(result.has_value());
  CHECK(result->body == "GET / ");
}

TEST_CASE("client: bodies by length, in chunks and until the end are read") {
  CHECK(call_canned("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcXXX")->body == "abc");
  const std::string chunks = "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
  CHECK(call_canned("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)->body == "abcd");
  CHECK(call_canned("HTTP/1.1 200 OK\r\n\r\nuntil the end")->body == "until the end");
  CHECK(call_canned("HTTP/1.0 404 Nope\r\n\r\n")->status == 404);
  CHECK(call_canned("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD")->body.empty());
  CHECK(call_canned("HTTP/1.1 204 No Content\r\n\r\n")->status == 204);
  const std::string hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n";
  CHECK(call_canned(hints + "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")->body == "x");
}

TEST_CASE("client: an answer that is not HTTP, or breaks a limit, is an error of its kind") {
  CHECK(code_of_canned("SSH-2.0-OpenSSH\r\n\r\n") == ErrorCode::corrupt);
  CHECK(code_of_canned("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n") == ErrorCode::corrupt);
  CHECK(code_of_canned("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n") ==
        ErrorCode::corrupt);
  CHECK(code_of_canned("HTTP/1.1 200 OK\r\nA: " + std::string(40'000, 'a')) == ErrorCode::corrupt);
  CHECK(code_of_canned("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n") == ErrorCode::corrupt);
  CHECK(code_of_canned("") == ErrorCode::unavailable);
  CHECK(code_of_canned("HTTP/1.1 200 OK\r\nContent-Le") == ErrorCode::unavailable);
  CHECK(code_of_canned("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") == ErrorCode::unavailable);
  const auto large = call_canned("HTTP/1.1 200 OK\r\n\r\n" + std::string(2000, 'x'), "GET", 1_KiB);
  CHECK(large.error().code == ErrorCode::exhausted);
  CHECK_THAT(large.error().message, contains_text("too large"));
  CHECK(call_canned("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", "GET", 1_KiB).error().code ==
        ErrorCode::exhausted);
}

TEST_CASE("client: a server that is not there is unavailable, with its address and the system's words") {
  std::string address;
  {
    TestServer server(echo_handler());
    address = server.address();
  }
  HttpCall what;
  what.server = address;
  const auto refused = call(what);
  CHECK(refused.error().code == ErrorCode::unavailable);
  CHECK_THAT(refused.error().message, contains_text(address) && contains_text("refused"));
  what.server = "unix:/nonexistent/socket";
  const auto missing = call(what);
  CHECK(missing.error().code == ErrorCode::unavailable);
  CHECK_THAT(missing.error().message, contains_text("/nonexistent/socket") && contains_text("No such file"));
  what.server = "name.invalid:80";
  CHECK(call(what).error().code == ErrorCode::unavailable);
}

TEST_CASE("client: a server that does not answer in time is timed out") {
  // Listens and never accepts: the kernel completes the connection.
  const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress bound = *to_socket_address(Address{"127.0.0.1", 0, ""});
  REQUIRE(::bind(listener.get(), bound.get(), bound.length) == 0);
  REQUIRE(::listen(listener.get(), 8) == 0);
  bound.length = sizeof bound.storage;
  REQUIRE(::getsockname(listener.get(), bound.get(), &bound.length) == 0);
  HttpCall what;
  what.server = format_socket_address(bound.get(), bound.length);
  what.timeout = 30ms;
  const auto result = call(what);
  CHECK(result.error().code == ErrorCode::timed_out);
  CHECK_THAT(result.error().message, contains_text(what.server));
  // A body that the peer does not read.
  what.method = "POST";
  what.body = std::string(20 << 20, 'b');
  CHECK(call(what).error().code == ErrorCode::timed_out);
}

TEST_CASE("client: the answer of a server that refuses a body half-way is heard") {
  HttpServerOptions options;
  options.body_max = 1_KiB;
  TestServer server(echo_handler(), options);
  HttpCall what;
  what.server = server.address();
  what.method = "POST";
  what.body = std::string(100'000, 'b');
  const auto result = call(what);
  REQUIRE(result.has_value());
  CHECK(result->status == 413);
}

TEST_CASE("client: a cancelled call ends as cancelled") {
  // Sends its request and waits for an answer that cannot come.
  const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress bound = *to_socket_address(Address{"127.0.0.1", 0, ""});
  REQUIRE(::bind(listener.get(), bound.get(), bound.length) == 0);
  REQUIRE(::listen(listener.get(), 8) == 0);
  bound.length = sizeof bound.storage;
  REQUIRE(::getsockname(listener.get(), bound.get(), &bound.length) == 0);
  HttpCall what;
  what.server = format_socket_address(bound.get(), bound.length);
  Loop loop;
  TaskGroup group(loop, "test");
  std::optional<ErrorCode> code;
  auto run = [](Loop& l, HttpCall c, std::optional<ErrorCode>& out) -> Action {
    const auto result = co_await http_call(l, std::move(c));
    if (!result) out = result.error().code;
  };
  group.spawn(run(loop, what, code));
  for (int i = 0; i < 10; ++i) loop.poll();
  CHECK_FALSE(group.empty());
  group.drain_now();
  CHECK((!code || *code == ErrorCode::cancelled));
}

TEST_CASE("client: a request that would break the protocol is not sent") {
  HttpCall what;
  what.server = "127.0.0.1:1";
  what.target = "/a b";
  CHECK(call(what).error().code == ErrorCode::invalid_argument);
  what.target = "/";
  what.method = "GET /";
  CHECK(call(what).error().code == ErrorCode::invalid_argument);
  what.method = "GET";
  what.headers = {{"A", "b\r\nC: d"}};
  CHECK(call(what).error().code == ErrorCode::invalid_argument);
  what.headers.clear();
  what.server = "nonsense";
  CHECK(call(what).error().code == ErrorCode::invalid_argument);
}
