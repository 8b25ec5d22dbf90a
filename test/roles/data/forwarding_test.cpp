// SPDX-License-Identifier: MIT
#include <sys/resource.h>

#include <fstream>

#include "catch.h"
#include "dirigent/base/text.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

// Bytes that differ with their position, so that a lost, doubled or swapped one is seen.
std::string pattern(std::size_t size, std::size_t offset = 0) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + (i + offset) * 7 / 3 % 26);
  return text;
}

std::size_t peak_rss_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::strtoul(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

}  // namespace

TEST_CASE("forwarding: method, path, query, headers and body reach the function, and its answer the client") {
  FakeSandbox sandbox(FakeSandbox::answering(
      "HTTP/1.1 201 Made\r\nX-Mine: yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 4\r\n\r\nmade"));
  Plane plane;
  plane.route("hello", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("PUT /function/hello/a%20b?c=d HTTP/1.1\r\nHost: example.test\r\nRequested_cpu: 10\r\n"
             "traceparent: 00-1-2-01\r\nContent-Length: 5\r\n\r\nhello");
  const Response response = read_response(wire);
  CHECK(response.head.starts_with("HTTP/1.1 201 Made\r\n"));
  CHECK(response.body == "made");
  CHECK(response.header("X-Mine") == "yes");
  CHECK(response.count("Set-Cookie") == 2);
  CHECK(response.count("Content-Length") == 1);
  CHECK_FALSE(response.header("Date").empty());
  CHECK(response.header("X-Served-By") == "0000000000000001@node1");
  CHECK(response.header("Server-Timing").starts_with("cold;desc=\"no\", queue;dur="));
  CHECK(response.header("Server-Timing").find("fn;dur=") != std::string::npos);
  CHECK(response.header("X-Duration-Seconds").size() == 8);
  const Received got = sandbox.last();
  CHECK(got.head.starts_with("PUT /a%20b?c=d HTTP/1.1\r\n"));
  CHECK(got.header("Host") == "example.test");
  CHECK(got.header("Requested_cpu") == "10");
  CHECK(got.header("traceparent") == "00-1-2-01");
  CHECK(got.header("X-Forwarded-For") == "127.0.0.1");
  CHECK(got.header("X-Forwarded-Proto") == "http");
  CHECK(got.header("X-Forwarded-Host") == "example.test");
  CHECK(got.header("X-Call-Id").size() == 26);
  CHECK(got.header("X-Call-Id") == response.header("X-Call-Id"));
  CHECK(got.header("X-Start-Time").size() == 19);
  CHECK(got.header("Connection").empty());
  CHECK(got.body == "hello");
}

TEST_CASE("forwarding: the function is named by path or by host, and the platform's paths are its own") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& r) { return ok(r.head.substr(0, r.head.find(" HTTP"))); }));
  Plane plane;
  plane.route("hello", {sandbox.address()});
  plane.route("hello.team", {sandbox.address()});
  const auto body = [&](std::string_view path, std::string_view host) { return fetch(plane.address(), get(path, host)).body; };
  CHECK(body("/function/hello", "x") == "GET /");
  CHECK(body("/function/hello/", "x") == "GET /");
  CHECK(body("/function/hello?a", "x") == "GET /?a");
  CHECK(body("/function/hello.default/x", "x") == "GET /x");
  CHECK(body("/function/hello.team/x", "x") == "GET /x");
  CHECK(body("/any?b=c", "HELLO:8080") == "GET /any?b=c");
  CHECK(body("/any", "hello.team.example.com.") == "GET /any");
  CHECK(body("/any", "hello.other.example.com") == "GET /any");
  CHECK(body("/healthz", "hello") == "GET /healthz");
  CHECK(body("/healthz", "127.0.0.1") == "ok\n");
  const auto unknown = fetch(plane.address(), get("/", "nobody"));
  CHECK(unknown.status == 404);
  CHECK(unknown.header("X-Dirigent-Reason") == "not-found");
  CHECK(unknown.header("Content-Type") == "application/problem+json");
  CHECK(unknown.body.find("\"type\":\"https://dirigent.dev/errors/not-found\"") != std::string::npos);
  CHECK(fetch(plane.address(), get("/function/nobody")).status == 404);
  CHECK(fetch(plane.address(), get("/v1/functions", "hello")).status == 404);
}

TEST_CASE("forwarding: hop-by-hop headers go no further, in either direction") {
  FakeSandbox sandbox(FakeSandbox::answering(
      ok("", "Connection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nTrailer: y\r\n"
             "X-Dirigent-Reason: forged\r\nX-Call-Id: forged\r\n")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  const Response response = fetch(
      plane.address(),
      "POST / HTTP/1.1\r\nHost: f\r\nConnection: keep-alive, X-Mine, Host, Content-Length\r\nX-Mine: 1\r\nKeep-Alive: 3\r\n"
      "Proxy-Authorization: x\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nX-Dirigent-Secret: 1\r\nX-Real-IP: 9.9.9.9\r\n"
      "X-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Call-Id: mine-1\r\nContent-Length: 2\r\n\r\nhi");
  CHECK(response.status == 200);
  for (const char* gone : {"X-Gone", "Keep-Alive", "Proxy-Authenticate", "Trailer", "X-Dirigent-Reason", "Connection"}) {
    INFO(gone);
    CHECK(response.count(gone) == 0);
  }
  CHECK(response.header("X-Call-Id") == "mine-1");
  const Received got = sandbox.last();
  for (const char* gone : {"X-Mine", "Keep-Alive", "Proxy-Authorization", "Upgrade", "X-Dirigent-Secret", "X-Real-IP", "Forwarded",
                           "Connection"}) {
    INFO(gone);
    CHECK(got.count(gone) == 0);
  }
  CHECK(got.header("Host") == "f");
  CHECK(got.body == "hi");
  CHECK(got.header("TE") == "trailers");
  CHECK(got.header("X-Forwarded-For") == "127.0.0.1");
  CHECK(got.header("X-Call-Id") == "mine-1");
}

TEST_CASE("forwarding: what a trusted peer says about its clients is kept") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("")));
  Plane plane([](roles::ProxyOptions& options) { options.trusted_proxies = {"127.0.0.0/8"}; });
  plane.route("f", {sandbox.address()});
  fetch(plane.address(), "GET / HTTP/1.1\r\nHost: f\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n"
                         "X-Forwarded-Host: public.example\r\nX-Real-IP: 9.9.9.9\r\n\r\n");
  const Received got = sandbox.last();
  CHECK(got.header("X-Forwarded-For") == "9.9.9.9, 127.0.0.1");
  CHECK(got.header("X-Forwarded-Proto") == "https");
  CHECK(got.header("X-Forwarded-Host") == "public.example");
  CHECK(got.header("X-Real-IP") == "9.9.9.9");
}

TEST_CASE("forwarding: connections are kept on both sides") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("again")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  for (int i = 0; i < 20; ++i) {
    wire.write(get("/", "f"));
    CHECK(read_response(wire).body == "again");
  }
  CHECK(sandbox.connections() == 1);
  CHECK(sandbox.requests() == 20);
}

TEST_CASE("forwarding: pipelined requests are answered in order") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& r) { return ok(r.head.substr(4, r.head.find(" HTTP") - 4)); }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  std::string all;
  for (int i = 0; i < 50; ++i) all += i % 5 == 4 ? get("/", "nobody") : get(fmt::format("/{}", i), "f");
  wire.write(all);
  for (int i = 0; i < 50; ++i) {
    const Response response = read_response(wire);
    CHECK(response.status == (i % 5 == 4 ? 404 : 200));
    if (response.status == 200) CHECK(response.body == fmt::format("/{}", i));
  }
}

TEST_CASE("forwarding: HEAD, 204 and 304 have no body, whatever their heads say") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& r) -> std::string {
    if (r.head.starts_with("HEAD")) return "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    if (r.head.find("/204") != std::string::npos) return "HTTP/1.1 204 No Content\r\n\r\n";
    return "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n";
  }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("HEAD / HTTP/1.1\r\nHost: f\r\n\r\n");
  Response response = read_response(wire, true);
  CHECK(response.status == 200);
  CHECK(response.header("Content-Length") == "10");
  wire.write(get("/204", "f"));
  response = read_response(wire);
  CHECK(response.status == 204);
  CHECK(response.count("Content-Length") == 0);
  wire.write(get("/304", "f"));
  CHECK(read_response(wire).status == 304);
  wire.write("HEAD / HTTP/1.1\r\nHost: nobody\r\n\r\n");
  CHECK(read_response(wire, true).status == 404);
  wire.write(get("/204", "f"));
  CHECK(read_response(wire).status == 204);
  CHECK(sandbox.connections() == 1);
}

TEST_CASE("forwarding: chunked bodies pass both ways, with their trailers") {
  FakeSandbox sandbox(FakeSandbox::answering(
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
  wire.write("1\r\n!\r\n0\r\nX-Trail: t\r\n\r\n");
  const Response response = read_response(wire);
  CHECK(response.body == "abcde");
  CHECK(response.trailers == "X-Sum: 5\r\n");
  CHECK(response.complete);
  CHECK(sandbox.last().body == "hi!");
  CHECK(sandbox.last().raw_body.ends_with("0\r\nX-Trail: t\r\n\r\n"));
}

TEST_CASE("forwarding: HTTP/1.0 clients get no chunks, and keep their connection only when they ask") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& r) -> std::string {
    if (r.head.find("/sized") != std::string::npos) return ok("sized");
    return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
  }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Response response = fetch(plane.address(), "GET /function/f HTTP/1.0\r\n\r\n");
  CHECK(response.body == "abc");
  CHECK(response.count("Transfer-Encoding") == 0);
  CHECK(response.header("Connection") == "close");
  CHECK_FALSE(sandbox.last().header("Host").empty());
  Wire wire = Wire::connect(plane.address());
  for (int i = 0; i < 2; ++i) {
    wire.write("GET /sized HTTP/1.0\r\nHost: f\r\nConnection: keep-alive\r\n\r\n");
    response = read_response(wire);
    CHECK(response.body == "sized");
    CHECK(response.header("Connection") == "keep-alive");
  }
}

TEST_CASE("forwarding: a response that ends with its connection becomes chunks") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox&) {
    if (read_request(wire)) wire.write("HTTP/1.0 200 OK\r\n\r\nuntil the end");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  for (int i = 0; i < 3; ++i) {
    wire.write(get("/", "f"));
    const Response response = read_response(wire);
    CHECK(response.header("Transfer-Encoding") == "chunked");
    CHECK(response.body == "until the end");
    CHECK(response.complete);
  }
}

TEST_CASE("forwarding: 100-continue is promised when there is a slot, and interim responses are sorted") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox& self) {
    while (auto received = read_request(wire)) {
      self.note(*received);
      wire.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
      wire.write(ok("done"));
    }
  });
  Plane plane;
  plane.route("f", {}, {});
  Wire wire = Wire::connect(plane.address());
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  plane.route("f", {sandbox.address()});
  CHECK(wire.read_until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
  wire.write("body");
  const Response hints = read_response(wire);
  CHECK(hints.status == 103);
  CHECK(hints.header("Link") == "</a>");
  const Response response = read_response(wire);
  CHECK(response.status == 200);
  CHECK(response.body == "done");
  CHECK(sandbox.last().body == "body");
  CHECK(sandbox.last().count("Expect") == 0);
}

TEST_CASE("forwarding: nothing follows half an interim response, not even an error of ours") {
  const std::string hints = "HTTP/1.1 103 Early Hints\r\nLink: " + std::string(900'000, 'x') + "\r\n\r\n";
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (!read_request(wire)) return;
    for (int i = 0; i < 8; ++i) wire.write(hints);
    wire.close();
  });
  Plane plane([](roles::ProxyOptions& options) { options.limits.head_max = 512_KiB; });
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) { route.limits.idle_timeout = 300ms; });
  Wire wire = Wire::connect(plane.address());
  wire.shrink_buffers(65536);
  wire.write(get("/", "f"));
  REQUIRE(plane.eventually([&] { return plane.in_flight() == 1; }));
  REQUIRE(plane.eventually([&] { return plane.in_flight() == 0; }));
  const std::string text = wire.read_to_end();
  std::string_view rest = text;
  while (rest.starts_with(hints)) rest.remove_prefix(hints.size());
  // Whole interim responses, and then either an error of ours or the beginning of another one and the end.
  INFO(text.size() << " bytes, behind the whole ones: " << rest.substr(0, 200));
  CHECK((rest.empty() || rest.starts_with("HTTP/1.1 50") || std::string_view(hints).starts_with(rest)));
}

TEST_CASE("forwarding: a tag names another deployment of the function, and its absence is told") {
  FakeSandbox plain(FakeSandbox::answering(ok("plain")));
  FakeSandbox canary(FakeSandbox::answering(ok("canary")));
  Plane plane;
  plane.route("f", {plain.address()});
  plane.route("canary--f", {canary.address()});
  const auto call = [&](std::string_view path, std::string_view host, std::string_view tag) {
    const std::string header = tag.empty() ? std::string() : fmt::format("Knative-Serving-Tag: {}\r\n", tag);
    return fetch(plane.address(), fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", path, host, header));
  };
  CHECK(call("/function/f", "x", "").body == "plain");
  CHECK(call("/function/f", "x", "canary").body == "canary");
  CHECK(call("/", "f.default.example", "canary").body == "canary");
  CHECK(call("/", "canary--f", "").body == "canary");
  CHECK(call("/function/canary--f/rest", "x", "").body == "canary");
  for (const Response& response : {call("/function/f", "x", "blue"), call("/", "f", "blue"), call("/function/blue--f", "x", ""),
                                   call("/", "blue--f", "")}) {
    CHECK(response.status == 404);
    CHECK(response.header("X-Dirigent-Reason") == "tag-not-found");
  }
  CHECK(call("/function/g", "x", "canary").header("X-Dirigent-Reason") == "not-found");
}

TEST_CASE("forwarding: an upgrade becomes a tunnel for bytes both ways") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox& self) {
    auto received = read_request(wire);
    if (!received) return;
    self.note(*received);
    wire.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcome");
    for (;;) {
      const std::string text = wire.read_some(100);
      if (text.empty()) break;
      wire.write("[" + text + "]");
    }
    wire.write("bye");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("GET /chat HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n");
  const std::string head = wire.read_until("\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
  CHECK(head.find("Upgrade: websocket\r\n") != std::string::npos);
  CHECK(wire.read_exactly(7) == "welcome");
  wire.write("one");
  CHECK(wire.read_exactly(5) == "[one]");
  wire.write("two");
  CHECK(wire.read_exactly(5) == "[two]");
  CHECK(plane.in_flight() == 1);
  wire.shutdown_write();
  CHECK(wire.read_to_end() == "bye");
  CHECK(sandbox.last().header("Upgrade") == "websocket");
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("forwarding: an upgrade that the function declines is an ordinary request") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("no")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("GET / HTTP/1.1\r\nHost: f\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + get("/", "f"));
  CHECK(read_response(wire).body == "no");
  CHECK(read_response(wire).body == "no");
}

TEST_CASE("streaming: 64 MiB pass each way in bounded memory") {
  constexpr std::size_t kSize = std::size_t{64} << 20;
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  std::atomic<std::size_t> wrong{0};
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    wire.read_until("\r\n\r\n");
    for (std::size_t at = 0; at < kSize; at += kPiece) {
      if (wire.read_exactly(kPiece) != pattern(kPiece, at)) ++wrong;
    }
    wire.write(fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", kSize));
    for (std::size_t at = 0; at < kSize; at += kPiece) wire.write(pattern(kPiece, at));
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  const std::size_t before = peak_rss_kib();
  Wire wire = Wire::connect(plane.address());
  wire.write(fmt::format("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: {}\r\n\r\n", kSize));
  for (std::size_t at = 0; at < kSize; at += kPiece) wire.write(pattern(kPiece, at));
  const std::string head = wire.read_until("\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 200"));
  for (std::size_t at = 0; at < kSize; at += kPiece) {
    if (wire.read_exactly(kPiece) != pattern(kPiece, at)) ++wrong;
  }
  CHECK(wrong == 0);
  // The pieces of this test itself are a few MiB; the bodies are 128.
#ifdef __SANITIZE_ADDRESS__
  const std::size_t allowed_kib = 512 * 1024;  // freed memory stays in the sanitizer's quarantine
#else
  const std::size_t allowed_kib = 40 * 1024;
#endif
  CHECK(peak_rss_kib() - before < allowed_kib);
}

TEST_CASE("streaming: a slow reader stops the sandbox instead of filling our memory, and gets everything") {
  std::atomic<std::size_t> written{0};
  constexpr std::size_t kSize = std::size_t{48} << 20;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (!read_request(wire)) return;
    wire.write(fmt::format("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
    const std::string chunk = fmt::format("{:x}\r\n", 65536) + pattern(65536) + "\r\n";
    for (std::size_t at = 0; at < kSize; at += 65536) {
      if (!wire.write(chunk)) return;
      written += 65536;
    }
    wire.write("0\r\n\r\n");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write(get("/", "f"));
  CHECK(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
  // Nothing more is read: what the sandbox can write comes to rest, far below all of it. Kernel buffers take a part.
  std::size_t seen = 0;
  REQUIRE(plane.eventually([&] {
    const std::size_t now = written;
    std::this_thread::sleep_for(30ms);
    seen = written;
    return now == seen && seen > 0;
  }));
  CHECK(seen < kSize - 65536);
  std::size_t total = 0;
  for (;;) {
    const std::string line = wire.read_until("\r\n");
    const std::size_t size = std::strtoul(line.c_str(), nullptr, 16);
    total += size;
    wire.read_exactly(size + 2);
    if (size == 0) break;
  }
  CHECK(total == kSize);
}

TEST_CASE("streaming: the first bytes of an answer do not wait for the last, nor an answer for the whole request") {
  Event first_seen;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    if (!first_seen.wait()) return;
    wire.write("3\r\ntwo\r\n");
    wire.read_exactly(4);
    wire.write("0\r\n\r\n");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 4\r\n\r\n");
  CHECK(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
  CHECK(wire.read_until("one\r\n") == "3\r\none\r\n");
  first_seen.set();
  CHECK(wire.read_until("two\r\n") == "3\r\ntwo\r\n");
  wire.write("body");
  CHECK(wire.read_exactly(5) == "0\r\n\r\n");
}

TEST_CASE("streaming: an early answer is delivered although the request's body was not taken") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox&) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  const Response response = fetch(plane.address(), "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 1000000\r\n\r\n" + pattern(2000));
  CHECK(response.status == 413);
  CHECK(response.body == "big");
  CHECK(response.header("Connection") == "close");
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}
