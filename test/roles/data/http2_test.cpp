// SPDX-License-Identifier: MIT
//
// Clients that speak HTTP/2 to functions that speak HTTP/1.1.
#include "catch.h"
#include "http2_errors.h"
#include "harness.h"
#include "http2_peer.h"

using namespace dirigent;
using namespace dirigent::test;

TEST_CASE("http2: a request by prior knowledge is forwarded and answered") {
  FakeSandbox sandbox(
      FakeSandbox::answering(ok("hello", "X-Mine: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const PeerStream answer = client.answer(client.get("f", "/some/path?q=1"));
  CHECK(answer.status() == 200);
  CHECK(answer.body == "hello");
  CHECK(field(answer.head, "x-mine") == "1");
  CHECK(field(answer.head, "content-length") == "5");
  CHECK(field(answer.head, "x-hop").empty());
  CHECK(field(answer.head, "connection").empty());
  CHECK(field(answer.head, "keep-alive").empty());
  CHECK(field(answer.head, "x-call-id").size() == 26);
  CHECK_FALSE(field(answer.head, "server-timing").empty());
  const Received received = sandbox.last();
  CHECK(received.head.starts_with("GET /some/path?q=1 HTTP/1.1\r\n"));
  CHECK(received.header("Host") == "f");
  CHECK(received.header("X-Forwarded-For") == "127.0.0.1");
  CHECK(received.header("Transfer-Encoding").empty());
}

TEST_CASE("http2: a preface that arrives byte by byte is recognised, and what only looks like one is HTTP/1.1") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Http2Peer client(Wire::connect(plane.address()), Http2Peer::Side::client, {.sends_preface = false});
  for (const char c : std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) {
    client.wire().write({&c, 1});
    plane.snapshot();
  }
  client.wire().write(std::string("\0\0\0\x04\0\0\0\0\0", 9));  // SETTINGS
  CHECK(client.wire().read_exactly(9).size() == 9);
  const Response other = fetch(plane.address(), "PRINT / HTTP/1.1\r\nHost: f\r\n\r\n");
  CHECK(other.status == 400);
  const Response again = fetch(plane.address(), "PRI * HTTP/1.1\r\nHost: f\r\n\r\n");
  CHECK(again.status == 400);
}

TEST_CASE("http2: names, tables of headers and cookies come through as HTTP/1.1 has them") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const auto id = client.request({{":method", "POST"},
                                  {":scheme", "http"},
                                  {":authority", "nobody"},
                                  {":path", "/function/f/rest?x"},
                                  {"cookie", "a=1"},
                                  {"cookie", "b=2"},
                                  {"te", "trailers"},
                                  {"x-dirigent-secret", "1"},
                                  {"x-call-id", "mine-1"},
                                  {"x_under", "score"},
                                  {"x-forwarded-for", "6.6.6.6"},
                                  {"content-length", "2"}},
                                 "hi");
  const PeerStream answer = client.answer(id);
  CHECK(answer.status() == 200);
  CHECK(field(answer.head, "x-call-id") == "mine-1");
  const Received received = sandbox.last();
  CHECK(received.head.starts_with("POST /rest?x HTTP/1.1\r\n"));
  CHECK(received.header("Cookie") == "a=1; b=2");
  CHECK(received.count("Cookie") == 1);
  CHECK(received.header("TE") == "trailers");
  CHECK(received.header("X-Dirigent-Secret").empty());
  CHECK(received.header("X_Under") == "score");
  CHECK(received.header("X-Forwarded-For") == "127.0.0.1");
  CHECK(received.header("Content-Length") == "2");
  CHECK(received.body == "hi");
}

TEST_CASE("http2: bodies of unknown length and trailers pass both ways") {
  FakeSandbox sandbox(FakeSandbox::answering(
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const auto id =
      client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}}, "ab", false);
  client.write(id, "cd", false);
  client.end_with(id, {{"x-trail", "t"}, {"x-forwarded-for", "6.6.6.6"}});
  const PeerStream answer = client.answer(id);
  CHECK(answer.body == "abcde");
  CHECK(answer.trailers == Fields{{"x-sum", "5"}});
  const Received received = sandbox.last();
  CHECK(received.header("Transfer-Encoding") == "chunked");
  CHECK(received.body == "abcd");
  CHECK(received.raw_body.ends_with("0\r\nx-trail: t\r\n\r\n"));
}

TEST_CASE("http2: large bodies pass both ways within small windows") {
  const std::string large(3'000'000, 'x');
  FakeSandbox sandbox(FakeSandbox::answering([&](const Received& received) { return ok(received.body); }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const auto id = client.request({{":method", "PUT"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}}, large);
  const PeerStream answer = client.answer(id);
  CHECK(answer.status() == 200);
  CHECK((answer.body == large));
}

TEST_CASE("http2: HEAD, bodiless statuses and empty bodies end with their head") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) -> std::string {
    if (received.head.starts_with("HEAD")) return "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    if (received.head.starts_with("GET /204")) return "HTTP/1.1 204 No Content\r\n\r\n";
    return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
  }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const auto head = client.request({{":method", "HEAD"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}});
  CHECK(field(client.answer(head).head, "content-length") == "100");
  CHECK(client.stream(head).ended_with_head);
  const auto none = client.get("f", "/204");
  CHECK(client.answer(none).status() == 204);
  CHECK(client.stream(none).ended_with_head);
  const auto empty = client.get("f", "/0");
  CHECK(client.answer(empty).status() == 200);
  CHECK(client.stream(empty).ended_with_head);
  CHECK(sandbox.connections() == 1);
}

TEST_CASE("http2: errors of the platform are problem documents on their stream, and the connection goes on") {
  FakeSandbox broken(FakeSandbox::answering("NONSENSE\r\n\r\n"));
  FakeSandbox fine(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("broken", {broken.address()});
  plane.route("f", {fine.address()});
  auto client = connect_http2(plane.address());
  const PeerStream unknown = client.answer(client.get("nobody"));
  CHECK(unknown.status() == 404);
  CHECK(field(unknown.head, "content-type") == "application/problem+json");
  CHECK(field(unknown.head, "x-dirigent-reason") == "not-found");
  CHECK(unknown.body.find("\"ran\":false") != std::string::npos);
  const PeerStream bad = client.answer(client.get("broken"));
  CHECK(bad.status() == 502);
  CHECK(field(bad.head, "x-dirigent-reason") == "bad-response");
  CHECK(client.answer(client.get("f")).body == "fine");
  CHECK(client.answer(client.get("f", "/healthz")).status() == 200);
}

TEST_CASE("http2: what RFC 9113 forbids in a request is refused") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address(), {.checks = false});
  const auto with = [&](std::pair<std::string, std::string> extra) {
    return client.answer(client.request(
        {{":method", "GET"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}, std::move(extra)}));
  };
  for (const auto& [name, value] : Fields{{"connection", "close"},
                                          {"transfer-encoding", "chunked"},
                                          {"keep-alive", "5"},
                                          {"upgrade", "websocket"},
                                          {"proxy-connection", "x"},
                                          {"te", "gzip"},
                                          {":late", "pseudo"},
                                          {"bad name", "x"},
                                          {"x", "a\rb"}}) {
    INFO(name);
    const PeerStream answer = with({name, value});
    CHECK(answer.closed);
    CHECK(answer.error == kProtocolError);
    CHECK_FALSE(answer.has_head);
  }
  CHECK(with({"host", "other"}).status() == 400);
  CHECK(with({"x", "fine"}).status() == 200);
  const auto path = [&](const std::string& text) {
    return client
        .answer(client.request({{":method", "GET"}, {":scheme", "http"}, {":authority", "f"}, {":path", text}}))
        .status();
  };
  CHECK(path("/a#b") == 400);
  CHECK(path("/" + std::string(9000, 'a')) == 400);
  CHECK(path("/fine") == 200);
  CHECK(sandbox.requests() == 2);
}

TEST_CASE("http2: a head larger than the limit is refused, one below it is not") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const auto with = [&](std::size_t size) {
    return client.answer(client.request({{":method", "GET"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"},
                                         {"x", std::string(size, 'a')}})).status();
  };
  CHECK(with(30 * 1024) == 200);
  CHECK(with(33 * 1024) == 400);
  CHECK(with(10) == 200);
}

TEST_CASE("http2: streams are answered in the order in which their functions finish") {
  Event release;
  FakeSandbox slow(FakeSandbox::answering([&](const Received&) {
    release.wait();
    return ok("slow");
  }));
  FakeSandbox fast(FakeSandbox::answering(ok("fast")));
  Plane plane;
  plane.route("slow", {slow.address()});
  plane.route("fast", {fast.address()});
  auto client = connect_http2(plane.address());
  const auto first = client.get("slow");
  const auto second = client.get("fast");
  CHECK(client.answer(second).body == "fast");
  CHECK_FALSE(client.stream(first).has_head);
  release.set();
  CHECK(client.answer(first).body == "slow");
}

TEST_CASE("http2: 500 functions on one connection are all answered") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) { return ok(received.header("Host")); }));
  Plane plane([](roles::ProxyOptions& options) { options.shards = 2; });
  for (int i = 0; i < 500; ++i) plane.route(fmt::format("f{}", i), {sandbox.address()});
  auto client = connect_http2(plane.address());
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 500; ++i) ids.push_back(client.get(fmt::format("f{}", i)));
  for (int i = 0; i < 500; ++i) {
    const PeerStream answer = client.answer(ids[static_cast<std::size_t>(i)]);
    REQUIRE(answer.status() == 200);
    REQUIRE(answer.body == fmt::format("f{}", i));
  }
}

TEST_CASE("http2: a client that reads one stream slowly gets the others") {
  const std::string large(500'000, 'x');
  FakeSandbox sandbox(FakeSandbox::answering(
      [&](const Received& received) { return ok(received.head.starts_with("GET /large") ? large : "small"); }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address(), {.stream_window = 1000, .returns_window = false});
  const auto stuck = client.get("f", "/large");
  REQUIRE(client.pump_until([&] { return client.stream(stuck).body.size() == 1000; }));
  for (int i = 0; i < 20; ++i) CHECK(client.answer(client.get("f")).body == "small");
  // The sandbox has long said all it had to say in what its socket takes; the slot follows when the client reads.
  while (!client.stream(stuck).ended) {
    const std::size_t before = client.stream(stuck).taken;
    client.stream(stuck).taken = client.stream(stuck).body.size();
    client.return_window(stuck, client.stream(stuck).taken - before);
    if (!client.pump()) break;
  }
  CHECK((client.stream(stuck).body == large));
}

TEST_CASE("http2: a stuck upload does not stop the others, and holds no more than its window") {
  Event release;
  FakeSandbox stuck([&](Wire& wire, FakeSandbox&) {
    release.wait();
    if (auto received = read_request(wire)) wire.write(ok(std::to_string(received->body.size())));
  });
  FakeSandbox fine(
      FakeSandbox::answering([](const Received& received) { return ok(std::to_string(received.body.size())); }));
  Plane plane;
  plane.route("stuck", {stuck.address()});
  plane.route("f", {fine.address()});
  auto client = connect_http2(plane.address());
  const auto post = [&](const char* name, std::size_t size) {
    return client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", name}, {":path", "/"},
                           {"content-length", std::to_string(size)}}, std::string(size, 'x'));
  };
  const auto first = post("stuck", 20'000'000);
  for (int i = 0; i < 10; ++i) CHECK(client.answer(post("f", 300'000)).body == "300000");
  CHECK(plane.snapshot()[0].memory_in_use < 4'000'000);
  release.set();
  CHECK(client.answer(first).body == "20000000");
}

TEST_CASE("http2: RST_STREAM takes back a parked request and gives a running one's slot to the next") {
  Event running;
  FakeSandbox sandbox(FakeSandbox::serving_until_closed([&](const Received& received, Wire& wire) {
    if (received.head.starts_with("GET /hang")) {
      running.set();
      wire.read_to_end();
      return false;
    }
    return wire.write(ok("fine"));
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) { route.sandboxes[0].slots = 1; });
  auto client = connect_http2(plane.address());
  const auto hanging = client.get("f", "/hang");
  REQUIRE(running.wait());
  const auto parked = client.get("f", "/parked");
  const auto next = client.get("f", "/next");
  REQUIRE(plane.eventually([&] { return plane.waiting() == 2; }));
  client.reset(parked, kCancel);
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  client.reset(hanging, kCancel);
  CHECK(client.answer(next).body == "fine");
  CHECK(plane.eventually([&] { return plane.in_flight() == 0 && plane.waiting() == 0; }));
}

TEST_CASE("http2: a connection that goes takes all its requests with it") {
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (read_request(wire)) wire.read_to_end();
  });
  Plane plane;
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) { route.sandboxes[0].slots = 3; });
  {
    auto client = connect_http2(plane.address());
    for (int i = 0; i < 10; ++i) client.get("f");
    REQUIRE(plane.eventually([&] { return plane.in_flight() == 3 && plane.waiting() == 7; }));
    if (GENERATE(true, false)) client.wire().reset();
  }
  CHECK(plane.eventually([&] { return plane.in_flight() == 0 && plane.waiting() == 0; }));
  CHECK(plane.eventually([&] { return plane.plane().connections() == 0; }));
}

TEST_CASE("http2: a function that breaks off resets its stream, and only that") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) -> std::string {
    if (received.head.starts_with("GET /cut"))
      return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz";
    return ok("fine");
  }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  const auto cut = client.get("f", "/cut");
  const PeerStream answer = client.answer(cut);
  CHECK(answer.closed);
  CHECK((answer.error == kInternalError || answer.status() == 502));
  CHECK(client.answer(client.get("f")).body == "fine");
}

TEST_CASE("http2: streams above the limit are refused, and the limit is told") {
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (read_request(wire)) wire.read_to_end();
  });
  Plane plane([](roles::ProxyOptions& options) { options.limits.streams_max = 3; });
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  REQUIRE(client.pump_until([&] { return client.peer_streams_max() == 3; }));
  for (int i = 0; i < 3; ++i) client.get("f");
  REQUIRE(plane.eventually([&] { return plane.in_flight() == 3; }));
  const auto tell = [&] {
    for (const auto& shard : plane.snapshot()) CHECK(shard.http2_connections == 1);
  };
  tell();
}

TEST_CASE("http2: floods of frames that cost only us end the connection with ENHANCE_YOUR_CALM") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane([](roles::ProxyOptions& options) { options.limits.streams_max = 100; });
  plane.route("f", {sandbox.address()});
  const int kind = GENERATE(0, 1, 2);
  INFO(kind);
  auto client = connect_http2(plane.address());
  bool ended = false;
  for (int i = 0; i < 1000 && !ended; ++i) {
    if (kind == 0) client.ping();
    if (kind == 1) client.settings();
    if (kind == 2) client.reset(client.get("f"), kCancel);
    if (i % 10 == 9) ended = !client.pump_until([&] { return true; });
  }
  while (client.pump()) {
  }
  CHECK(client.got_goaway);
  CHECK(client.goaway_error == kEnhanceYourCalm);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0 && plane.plane().connections() == 0; }));
  auto other = connect_http2(plane.address());
  CHECK(other.answer(other.get("f")).body == "fine");
}

TEST_CASE("http2: pings that measure the line while data flows are no flood") {
  const std::string large(2'000'000, 'x');
  FakeSandbox sandbox(FakeSandbox::answering(ok(large)));
  Plane plane([](roles::ProxyOptions& options) { options.limits.streams_max = 1; });
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  // A ping for every read that brings data, of what are some 120 frames of it a request.
  for (int i = 0; i < 10; ++i) {
    const auto id = client.get("f");
    std::size_t seen = 0;
    while (!client.stream(id).ended && client.pump()) {
      if (client.stream(id).body.size() != seen) client.ping();
      seen = client.stream(id).body.size();
    }
    CHECK(client.stream(id).body.size() == large.size());
  }
  CHECK_FALSE(client.got_goaway);
}

TEST_CASE("http2: a drain says GOAWAY, finishes what runs, and serves what the client could not know about") {
  Event release;
  Event running;
  FakeSandbox sandbox(FakeSandbox::answering([&](const Received&) {
    running.set();
    release.wait();
    return ok("fine");
  }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  auto idle = connect_http2(plane.address());
  const auto id = client.get("f");
  REQUIRE(running.wait());
  auto stopped = plane.start_stop(60s);
  REQUIRE(client.pump_until([&] { return client.got_goaway; }));
  CHECK(client.goaway_error == 0);
  while (idle.pump()) {
  }
  CHECK(idle.got_goaway);
  release.set();
  CHECK(client.answer(id).body == "fine");
  while (client.pump()) {
  }
  stopped.get();
}

TEST_CASE("http2: the end of a drain refuses what is parked and resets what runs") {
  Event running;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (!read_request(wire)) return;
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    running.set();
    wire.read_to_end();
  });
  Plane plane;
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) { route.sandboxes[0].slots = 1; });
  auto client = connect_http2(plane.address());
  const auto first = client.get("f");
  REQUIRE(running.wait());
  const auto second = client.get("f");
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  plane.stop(0s);
  while (client.pump()) {
  }
  CHECK(client.stream(second).status() == 503);
  CHECK(field(client.stream(second).head, "x-dirigent-reason") == "draining");
  CHECK(client.stream(first).body == "abc");
  CHECK(client.stream(first).closed);
  CHECK(client.stream(first).error == kInternalError);
}

TEST_CASE("http2: an upgrade from HTTP/1.1 makes the request stream 1, and more follow") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& received) { return ok(received.head); }));
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("GET /first HTTP/1.1\r\nHost: f\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
             "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n");
  const std::string head = wire.read_until("\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 101 "));
  CHECK(head.find("Upgrade: h2c") != std::string::npos);
  Http2Peer client(std::move(wire), Http2Peer::Side::client, {.sends_preface = false});
  client.begin_upgraded(std::string("\0\3\0\0\0\x64\0\4\0\0\xff\xff", 12));
  const PeerStream first = client.answer(1);
  CHECK(first.status() == 200);
  CHECK(first.body.starts_with("GET /first HTTP/1.1\r\n"));
  CHECK(first.body.find("HTTP2-Settings") == std::string::npos);
  CHECK(first.body.find("Upgrade") == std::string::npos);
  CHECK(client.answer(client.get("f", "/second")).body.starts_with("GET /second "));
}

TEST_CASE("http2: an upgrade that is none is answered in HTTP/1.1") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  for (const char* rest :
       {"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: !!\r\n", "Connection: Upgrade\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 0\r\nX: y\r\n"}) {
    INFO(rest);
    Wire wire = Wire::connect(plane.address());
    wire.write(fmt::format("POST / HTTP/1.1\r\nHost: f\r\nUpgrade: h2c\r\n{}\r\n", rest));
    const std::string head = wire.read_until("\r\n\r\n");
    if (std::string_view(rest).find("Content-Length: 0") != std::string_view::npos) {
      CHECK(head.starts_with("HTTP/1.1 101 "));  // an empty body is none
    } else {
      CHECK(head.starts_with("HTTP/1.1 200 "));
    }
  }
}

TEST_CASE("http2: an extended CONNECT for websocket becomes an upgrade, and bytes pass both ways") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox& self) {
    auto received = read_request(wire);
    if (!received) return;
    self.note(*received);
    wire.write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
        "x\r\n\r\n");
    for (std::string got = wire.read_some(100); !got.empty(); got = wire.read_some(100)) wire.write("<" + got + ">");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  auto client = connect_http2(plane.address());
  REQUIRE(client.pump_until([&] { return client.accepts_connect_protocol(); }));
  const auto id = client.request({{":method", "CONNECT"},
                                  {":protocol", "websocket"},
                                  {":scheme", "http"},
                                  {":authority", "f"},
                                  {":path", "/chat"},
                                  {"sec-websocket-version", "13"}},
                                 {}, false);
  REQUIRE(client.pump_until([&] { return client.stream(id).has_head; }));
  CHECK(client.stream(id).status() == 200);
  CHECK(field(client.stream(id).head, "sec-websocket-accept").empty());
  const Received received = sandbox.last();
  CHECK(received.head.starts_with("GET /chat HTTP/1.1\r\n"));
  CHECK(received.header("Upgrade") == "websocket");
  CHECK(received.header("Sec-WebSocket-Key").size() == 24);
  client.write(id, "ping", false);
  REQUIRE(client.pump_until([&] { return client.stream(id).body == "<ping>"; }));
  client.write(id, "", true);
  CHECK(client.answer(id).ended);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("http2: bytes that are no HTTP/2 end the connection and nothing else") {
  Plane plane;
  const std::uint64_t seed = 20261126;
  INFO("seed " << seed);
  Rng rng(seed);
  for (int round = 0; round < 50; ++round) {
    Wire wire = Wire::connect(plane.address());
    std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if (round % 2 == 0) bytes += std::string("\0\0\0\x04\0\0\0\0\0", 9);
    for (int i = 0; i < 200; ++i) bytes.push_back(static_cast<char>(rng() & 0xff));
    wire.write(bytes);
    wire.shutdown_write();
    wire.read_to_end();
  }
  CHECK(plane.eventually([&] { return plane.plane().connections() == 0; }));
  CHECK(fetch(plane.address(), get("/healthz")).status == 200);
}

TEST_CASE("http2: random frames among proper ones end the connection at most, and take every request with it") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  const std::uint64_t seed = 1126'2026;
  INFO("seed " << seed);
  Rng rng(seed);
  const auto byte = [&] { return static_cast<char>(rng() & 0xff); };
  for (int round = 0; round < 150; ++round) {
    Http2Peer client(Wire::connect(plane.address()), Http2Peer::Side::client);
    for (std::uint64_t i = rng() % 4; i-- > 0;) {
      client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}}, "ab",
                     rng() % 2 == 0);
    }
    std::string noise;
    for (std::uint64_t frames = 1 + rng() % 6; frames-- > 0;) {
      const std::size_t size = rng() % 40;
      noise += {0, 0, static_cast<char>(size),      static_cast<char>(rng() % 11), byte(), 0,
                0, 0, static_cast<char>(rng() % 12)};
      for (std::size_t i = 0; i < size; ++i) noise.push_back(byte());
    }
    client.wire().write(noise);
    client.wire().shutdown_write();
    client.wire().read_to_end();
  }
  CHECK(plane.eventually([&] { return plane.plane().connections() == 0 && plane.in_flight() == 0; }));
  CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
}
