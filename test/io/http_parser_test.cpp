// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/base/random.h"
#include "io/http_parser.h"

using namespace dirigent;
using namespace dirigent::io;
using State = HttpParser::State;

namespace {

// Feeds `bytes` in pieces of `step` until the message has ended; returns how many were taken.
std::size_t feed_all(HttpParser& parser, std::string_view bytes, std::size_t step) {
  std::size_t taken = 0;
  while (taken < bytes.size() && (parser.state() == State::head || parser.state() == State::body)) {
    taken += parser.feed(bytes.substr(taken, step));
  }
  return taken;
}

// The status a server would answer; 200 when the request is whole and good, 0 when it is incomplete.
int verdict(std::string_view bytes, std::size_t step = 7, Bytes body_max = 1_MiB) {
  HttpParser parser(HttpParser::Kind::request, body_max);
  feed_all(parser, bytes, step);
  if (parser.state() == State::failed) return parser.failure().status;
  return parser.state() == State::done ? 200 : 0;
}

const std::string kPost = "POST / HTTP/1.1\r\nHost: x\r\n";
constexpr std::string_view kGet = "GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n";

}  // namespace

TEST_CASE("parser: the size of the pieces a message comes in makes no difference") {
  const std::string message =
      "POST /x HTTP/1.1\r\nHost: h\r\nX-A:  b c \r\nX-Empty:\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: t\r\n\r\n";
  for (std::size_t step = 1; step <= message.size(); ++step) {
    HttpParser parser(HttpParser::Kind::request, 1_MiB);
    CHECK(feed_all(parser, message + "GET", step) == message.size());
    REQUIRE(parser.state() == State::done);
    CHECK(parser.keep_alive());
    CHECK(parser.method() == "POST");
    CHECK(parser.take_body() == "hello world");
    const Headers headers = parser.take_headers();
    CHECK(headers.size() == 4);
    CHECK(find_header(headers, "x-a") == "b c");
    CHECK(find_header(headers, "X-EMPTY") == "");
    CHECK_FALSE(find_header(headers, "trailer"));
  }
}

TEST_CASE("parser: a pipelined message stays unread") {
  HttpParser parser(HttpParser::Kind::request, 1_MiB);
  const std::string one = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
  const std::string two = one + std::string(kGet);
  const std::size_t taken = feed_all(parser, two, two.size());
  CHECK(taken == one.size());
  REQUIRE(parser.state() == State::done);
  CHECK(parser.take_body() == "abc");
  parser.start_message();
  CHECK(feed_all(parser, std::string_view(two).substr(taken), 1000) == kGet.size());
  CHECK(parser.take_target() == "/a?b=c");
}

TEST_CASE("parser: requests that intermediaries disagree about are refused") {
  CHECK(verdict(kGet) == 200);
  CHECK(verdict("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n") == 200);
  CHECK(verdict("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n") == 400);
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n") == 400);    // obs-fold
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n") == 400);
  CHECK(verdict("GET / HTTP/1.1\nHost: x\n\n") == 400);                        // bare LF
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n") == 400);       // bare CR
  CHECK(verdict(std::string_view("GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 43)) == 400);
  CHECK(verdict("GET / HTTP/1.1\r\nHost : x\r\n\r\n") == 400);                 // blank before the colon
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n") == 400);
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n") == 400);
  CHECK(verdict(kPost + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") == 400);
  CHECK(verdict(kPost + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n") == 400);
  CHECK(verdict(kPost + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd") == 400);
  CHECK(verdict(kPost + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc") == 400);
  CHECK(verdict(kPost + "Content-Length: +3\r\n\r\nabc") == 400);
  CHECK(verdict(kPost + "Content-Length: -1\r\n\r\n") == 400);
  CHECK(verdict(kPost + "Content-Length: 0x3\r\n\r\nabc") == 400);
  CHECK(verdict(kPost + "Content-Length: 99999999999999999999999\r\n\r\n") == 400);
  CHECK(verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") == 400);
  CHECK(verdict(kPost + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n") == 501);
  CHECK(verdict(kPost + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") >= 400);
  CHECK(verdict(kPost + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n") == 400);
  CHECK(verdict(kPost + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n") == 400);
  CHECK(verdict(kPost + "Transfer-Encoding: chunked\r\n\r\n-1\r\n") == 400);
  CHECK(verdict(kPost + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n") == 400);
}

TEST_CASE("parser: versions, methods and hosts are checked") {
  CHECK(verdict("GET / HTTP/1.0\r\n\r\n") == 200);
  CHECK(verdict("GET / HTTP/1.1\r\n\r\n") == 400);
  CHECK(verdict("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n") == 400);
  CHECK(verdict("GET / HTTP/2.0\r\nHost: x\r\n\r\n") == 505);
  CHECK(verdict("GET / HTTP/0.9\r\nHost: x\r\n\r\n") == 505);
  CHECK(verdict("GET / HTTP/1.2\r\nHost: x\r\n\r\n") == 505);
  CHECK(verdict("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") >= 400);
  CHECK(verdict("NONSENSE / HTTP/1.1\r\nHost: x\r\n\r\n") == 501);
  CHECK(verdict("get / HTTP/1.1\r\nHost: x\r\n\r\n") == 501);
  CHECK(verdict("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n") == 501);
  CHECK(verdict("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n") == 400);
  CHECK(verdict("\x16\x03\x01\x02") == 400);  // a TLS client
}

TEST_CASE("parser: an upgrade is not taken up and its request is read as any other") {
  HttpParser parser(HttpParser::Kind::request, 1_MiB);
  const std::string message =
      "POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi";
  CHECK(feed_all(parser, message + std::string(kGet), 1000) == message.size());
  REQUIRE(parser.state() == State::done);
  CHECK(parser.take_body() == "hi");
}

TEST_CASE("parser: every limit has its answer") {
  const auto with_headers = [](int count) {
    std::string text = "GET / HTTP/1.1\r\nHost: x\r\n";
    for (int i = 1; i < count; ++i) text += "A: b\r\n";
    return text + "\r\n";
  };
  CHECK(verdict(with_headers(100)) == 200);
  CHECK(verdict(with_headers(101)) == 431);
  const auto with_target = [](std::size_t size) {
    return "GET /" + std::string(size - 1, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n";
  };
  CHECK(verdict(with_target(8192)) == 200);
  CHECK(verdict(with_target(8193)) == 414);
  CHECK(verdict("GET /" + std::string(20000, 'a')) == 414);
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(32000, 'a') + "\r\n\r\n") == 200);
  CHECK(verdict("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(33000, 'a')) == 431);
  CHECK(verdict(kPost + "Content-Length: 10\r\n\r\n0123456789", 7, Bytes{10}) == 200);
  CHECK(verdict(kPost + "Content-Length: 11\r\n\r\n", 7, Bytes{10}) == 413);
  const std::string chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  CHECK(verdict(chunked + "a\r\n0123456789\r\n0\r\n\r\n", 7, Bytes{10}) == 200);
  CHECK(verdict(chunked + "b\r\n01234567890\r\n0\r\n\r\n", 7, Bytes{10}) == 413);
  CHECK(verdict(chunked + "1;" + std::string(100'000, 'e'), 512) == 413);
}

TEST_CASE("parser: an answer without a length lasts until the connection is closed") {
  HttpParser parser(HttpParser::Kind::response, 1_MiB);
  feed_all(parser, "HTTP/1.1 200 OK\r\nA: b\r\n\r\nsome body", 3);
  CHECK(parser.state() == State::body);
  parser.finish();
  REQUIRE(parser.state() == State::done);
  CHECK(parser.take_body() == "some body");

  parser.start_message();
  feed_all(parser, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome", 3);
  parser.finish();
  CHECK(parser.state() == State::failed);
}

TEST_CASE("parser: any bytes end in a verdict and never take more than they are") {
  const std::uint64_t seed = entropy_seed();
  INFO("seed " << seed);
  Rng rng(seed);
  const std::string base =
      "POST /abc?d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = base;
    for (std::uint64_t edits = rng.below(4); edits > 0; --edits) {
      const std::size_t at = rng.below(bytes.size());
      switch (rng.below(3)) {
        case 0: bytes[at] = static_cast<char>(rng.below(256)); break;
        case 1: bytes.erase(at, 1 + rng.below(5)); break;
        default: bytes.insert(at, bytes.substr(rng.below(bytes.size()), rng.below(20))); break;
      }
      if (bytes.empty()) bytes = "\r\n";
    }
    HttpParser parser(HttpParser::Kind::request, 1_KiB);
    REQUIRE(feed_all(parser, bytes, 1 + rng.below(40)) <= bytes.size());
    if (parser.state() == State::failed) REQUIRE(parser.failure().status >= 400);
  }
}
