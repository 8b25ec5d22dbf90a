// SPDX-License-Identifier: MIT
//
// Functions that speak HTTP/2 (h2c by prior knowledge), called by clients of both protocols.
#include "catch.h"
#include "http2_errors.h"
#include "harness.h"
#include "http2_peer.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {
void speaks_http2(FunctionRoute& route) { route.protocol = HttpProtocol::h2c; }
auto speaks_http2_with_slots(std::uint32_t slots) {
  return [slots](FunctionRoute& route) {
    route.protocol = HttpProtocol::h2c;
    for (auto& sandbox : route.sandboxes) sandbox.slots = slots;
  };
}
const Fields kOk{{":status", "200"}};
}  // namespace

TEST_CASE("http2 sandbox: an HTTP/1.1 client gets the answer of a function that speaks HTTP/2") {
  Fields seen;
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    seen = stream.head;
    peer.respond(stream.id, {{":status", "201"}, {"x-mine", "1"}, {"content-length", "5"}}, "hello");
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  const Response response = fetch(plane.address(),
                                  "POST /p?q HTTP/1.1\r\nHost: f\r\nX-Yours: Y\r\nConnection: X-Hop\r\n"
                                  "X-Hop: 1\r\nKeep-Alive: 1\r\nContent-Length: 2\r\n\r\nhi");
  CHECK(response.status == 201);
  CHECK(response.body == "hello");
  CHECK(response.header("X-Mine") == "1");
  CHECK(response.header("Content-Length") == "5");
  CHECK(field(seen, ":method") == "POST");
  CHECK(field(seen, ":path") == "/p?q");
  CHECK(field(seen, ":authority") == "f");
  CHECK(field(seen, ":scheme") == "http");
  CHECK(field(seen, "x-yours") == "Y");
  CHECK(field(seen, "content-length") == "2");
  for (const char* absent : {"host", "connection", "x-hop", "keep-alive", "transfer-encoding"})
    CHECK(field(seen, absent).empty());
  CHECK(field(seen, "x-call-id") == response.header("X-Call-Id"));
}

TEST_CASE("http2 sandbox: streams share one connection, and bodies and trailers pass both ways") {
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    peer.respond(stream.id, kOk, stream.body, false);
    peer.end_with(stream.id, {{"grpc-status", "0"}, {"x-got", field(stream.trailers, "x-sent")}});
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  auto client = connect_http2(plane.address());
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 50; ++i) {
    ids.push_back(client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}},
                                 std::string(static_cast<std::size_t>(i) * 1000, 'x'), false));
    client.end_with(ids.back(), {{"x-sent", std::to_string(i)}});
  }
  for (std::size_t i = 0; i < 50; ++i) {
    const PeerStream answer = client.answer(ids[i]);
    REQUIRE(answer.status() == 200);
    CHECK(answer.body.size() == i * 1000);
    CHECK(field(answer.trailers, "x-got") == std::to_string(i));
    CHECK(field(answer.trailers, "grpc-status") == "0");
  }
  CHECK(sandbox.connections() == 1);
  const Response h1 = fetch(plane.address(), "POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n"
                                             "3\r\nabc\r\n0\r\nX-Sent: yes\r\n\r\n");
  CHECK(h1.body == "abc");
  CHECK(h1.complete);
  CHECK(h1.trailers == "grpc-status: 0\r\nx-got: yes\r\n");
  CHECK(sandbox.connections() == 1);
}

TEST_CASE("http2 sandbox: an answer that is its head only ends with its head") {
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    peer.respond(stream.id, {{":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", "12"}});
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  auto client = connect_http2(plane.address());
  const PeerStream answer = client.answer(client.get("f"));
  CHECK(answer.ended_with_head);
  CHECK(field(answer.head, "grpc-status") == "12");
  const Response h1 = fetch(plane.address(), get("/", "f"));
  CHECK(h1.status == 200);
  CHECK(h1.header("grpc-status") == "12");
  CHECK(h1.body.empty());
  CHECK(h1.complete);
  const Response head = fetch(plane.address(), "HEAD / HTTP/1.1\r\nHost: f\r\n\r\n");
  CHECK(head.status == 200);
  CHECK(head.complete);
}

TEST_CASE("http2 sandbox: both directions of a stream flow at once") {
  FakeSandbox sandbox(serving_http2([](Http2Peer& peer, PeerStream& stream) {
    if (stream.taken == 0 && stream.body.empty()) return;
    if (stream.taken == 0) peer.respond(stream.id, kOk, {}, false);
    const std::string fresh = stream.body.substr(stream.taken);
    stream.taken = stream.body.size();
    if (!stream.last && (!fresh.empty() || stream.ended)) peer.write(stream.id, fresh, stream.ended);
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  auto client = connect_http2(plane.address());
  const auto id = client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"},
                                  {"content-type", "application/grpc"}}, {}, false);
  std::string sent;
  for (int i = 0; i < 20; ++i) {
    const std::string message = fmt::format("message {};", i);
    sent += message;
    client.write(id, message, false);
    REQUIRE(client.pump_until([&] { return client.stream(id).body == sent; }));
  }
  client.write(id, {}, true);
  CHECK(client.answer(id).ended);
}

TEST_CASE("http2 sandbox: large answers wait for the client without filling memory") {
  const std::string large(5'000'000, 'x');
  FakeSandbox sandbox(
      answering_http2([&](Http2Peer& peer, PeerStream& stream) { peer.respond(stream.id, kOk, large); }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  Wire slow = Wire::connect(plane.address());
  slow.shrink_buffers(8192);
  slow.write(get("/", "f"));
  REQUIRE(plane.eventually([&] { return plane.in_flight() == 1; }));
  const Response fast = fetch(plane.address(), get("/", "f"));
  CHECK(fast.body.size() == large.size());
  CHECK(fast.complete);
  CHECK(plane.snapshot()[0].memory_in_use < 2'000'000);
  slow.reset();
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("http2 sandbox: a client that leaves resets its stream and frees the slot") {
  Event reset;
  std::atomic<int> began{0};
  FakeSandbox sandbox(serving_http2([&](Http2Peer& peer, PeerStream& stream) {
    if (field(stream.head, ":path") != "/hang") {
      if (stream.taken++ == 0) peer.respond(stream.id, kOk, "fine");
      return;
    }
    if (stream.taken++ == 0) ++began;
    if (stream.closed && stream.error == kCancel) reset.set();
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2_with_slots(1));
  {
    Wire wire = Wire::connect(plane.address());
    wire.write(get("/hang", "f"));
    REQUIRE(plane.eventually([&] { return began == 1; }));
  }
  CHECK(reset.wait());
  CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
  CHECK(sandbox.connections() == 1);
}

TEST_CASE("http2 sandbox: a stream it refuses is tried on a new connection, a reset one is a 502") {
  std::atomic<int> refusals{0};
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    if (field(stream.head, ":path") == "/reset") {
      peer.reset(stream.id, kInternalError);
    } else if (field(stream.head, ":path") == "/refuse" && refusals++ == 0) {
      peer.reset(stream.id, kRefusedStream);
    } else {
      peer.respond(stream.id, kOk, "fine");
    }
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
  const Response refused = fetch(plane.address(), "POST /refuse HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\nx");
  CHECK(refused.body == "fine");
  CHECK(refusals == 2);
  const Response reset = fetch(plane.address(), "POST /reset HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\nx");
  CHECK(reset.status == 502);
  CHECK(reset.header("X-Dirigent-Reason") == "sandbox-reset");
  CHECK(reset.body.find("\"ran\":\"maybe\"") != std::string::npos);
  CHECK(plane.suspected().empty());
}

TEST_CASE("http2 sandbox: one that refuses every stream is asked a few times, not for ever") {
  FakeSandbox sandbox(
      answering_http2([&](Http2Peer& peer, PeerStream& stream) { peer.reset(stream.id, kRefusedStream); }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  const Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 502);
  CHECK(sandbox.connections() >= 2);
  CHECK(sandbox.connections() <= 5);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("http2 sandbox: a body that breaks off cuts the client's answer") {
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    peer.respond(stream.id, {{":status", "200"}, {"content-length", "100"}}, "abc", false);
    peer.reset(stream.id, kInternalError);
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  const Response response = fetch(plane.address(), get("/", "f"));
  CHECK((response.status == 502 || !response.complete));
  auto client = connect_http2(plane.address());
  const PeerStream answer = client.answer(client.get("f"));
  CHECK((answer.error == kInternalError || answer.status() == 502));
}

TEST_CASE("http2 sandbox: nobody there is a 502 after other sandboxes were tried, and the dead one is suspected") {
  FakeSandbox dead(answering_http2([](Http2Peer&, PeerStream&) {}));
  const std::string dead_address = dead.address();
  dead.stop_listening();
  FakeSandbox alive(answering_http2([](Http2Peer& peer, PeerStream& stream) { peer.respond(stream.id, kOk, "fine"); }));
  Plane plane;
  plane.route("only", {dead_address}, [](FunctionRoute& route) {
    speaks_http2(route);
    route.limits.queue_timeout = 50ms;
  });
  CHECK(fetch(plane.address(), get("/", "only")).status >= 502);
  CHECK_FALSE(plane.suspected().empty());
  plane.route("f", {dead_address, alive.address()}, speaks_http2);
  for (int i = 0; i < 10; ++i) CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
}

TEST_CASE("http2 sandbox: one that speaks HTTP/1.1 after all is a 502") {
  FakeSandbox sandbox(
      [](Wire& wire, FakeSandbox&) { wire.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"); });
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  const Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 502);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("http2 sandbox: a GOAWAY sends later requests to a new connection, and the running one ends") {
  Event release;
  std::atomic<int> began{0};
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    if (field(stream.head, ":path") == "/first") {
      peer.goaway();
      ++began;
      release.wait();
    }
    peer.respond(stream.id, kOk, "fine");
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  auto client = connect_http2(plane.address());
  const auto first = client.get("f", "/first");
  REQUIRE(plane.eventually([&] { return began == 1; }));
  CHECK(fetch(plane.address(), get("/second", "f")).body == "fine");
  CHECK(sandbox.connections() == 2);
  release.set();
  CHECK(client.answer(first).body == "fine");
}

TEST_CASE("http2 sandbox: more requests than it takes streams get more connections") {
  Event release;
  FakeSandbox sandbox(answering_http2(
      [&](Http2Peer& peer, PeerStream& stream) {
        if (field(stream.head, ":path") != "/warm") release.wait();
        peer.respond(stream.id, kOk, "fine");
      },
      {.streams_max = 2}));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2);
  CHECK(fetch(plane.address(), get("/warm", "f")).status == 200);
  auto client = connect_http2(plane.address());
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(client.get("f"));
  // Before its SETTINGS arrive a new connection may get more than it takes; those are refused, and tried on another one.
  REQUIRE(plane.eventually([&] { return sandbox.connections() >= 2; }));
  release.set();
  for (const auto id : ids) CHECK(client.answer(id).body == "fine");
}

TEST_CASE("http2 sandbox: interim answers, 100-continue and time limits work as with HTTP/1.1") {
  FakeSandbox sandbox(answering_http2([&](Http2Peer& peer, PeerStream& stream) {
    if (field(stream.head, ":path") == "/hang") return;
    peer.interim(stream.id, {{":status", "103"}, {"link", "</a>"}});
    peer.respond(stream.id, kOk, stream.body);
  }));
  Plane plane;
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) {
    speaks_http2(route);
    route.limits.first_byte_timeout = 100ms;
  });
  Wire wire = Wire::connect(plane.address());
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  CHECK(wire.read_until("\r\n\r\n").starts_with("HTTP/1.1 100 "));
  wire.write("hi");
  const std::string hints = wire.read_until("\r\n\r\n");
  CHECK(hints.starts_with("HTTP/1.1 103 "));
  CHECK(hints.find("link: </a>") != std::string::npos);
  CHECK(read_response(wire).body == "hi");
  auto client = connect_http2(plane.address());
  const auto id = client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}}, "yo");
  CHECK(client.answer(id).body == "yo");
  CHECK(client.stream(id).interim == std::vector<int>{103});
  const Response hanging = fetch(plane.address(), get("/hang", "f"));
  CHECK(hanging.status == 504);
  CHECK(hanging.header("X-Dirigent-Reason") == "response-start-timeout");
}

TEST_CASE("http2 sandbox: one that dies fails its running requests and gives back their slots") {
  std::atomic<int> began{0};
  FakeSandbox sandbox(answering_http2([&](Http2Peer&, PeerStream&) { ++began; }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2_with_slots(5));
  auto client = connect_http2(plane.address());
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}}, "x"));
  }
  REQUIRE(plane.eventually([&] { return began == 5; }));
  sandbox.drop_connections();
  for (const auto id : ids) CHECK(client.answer(id).status() == 502);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("http2 sandbox: requests that are cancelled as soon as they are made leave nothing behind") {
  FakeSandbox sandbox(
      answering_http2([](Http2Peer& peer, PeerStream& stream) { peer.respond(stream.id, kOk, "fine"); }));
  Plane plane;
  plane.route("f", {sandbox.address()}, speaks_http2_with_slots(4));
  auto client = connect_http2(plane.address());
  for (int i = 0; i < 300; ++i) {
    // Together in one write: the request is gone before its stream to the sandbox has begun.
    const auto id = client.request({{":method", "POST"}, {":scheme", "http"}, {":authority", "f"}, {":path", "/"}}, "x",
                                   true, false);
    client.reset(id, kCancel);
  }
  CHECK(client.answer(client.get("f")).body == "fine");
  CHECK(plane.eventually([&] { return plane.in_flight() == 0 && plane.waiting() == 0; }));
}

TEST_CASE("http2 sandbox: one that floods the data plane with pings loses its connection and nothing else") {
  FakeSandbox sandbox(serving_http2([](Http2Peer& peer, PeerStream& stream) {
    if (stream.taken++ != 0) return;
    if (field(stream.head, ":path") == "/flood") {
      for (int i = 0; i < 1000; ++i) peer.ping();
    } else {
      peer.respond(stream.id, kOk, "fine");
    }
  }));
  Plane plane([](roles::ProxyOptions& options) { options.limits.streams_max = 100; });
  plane.route("f", {sandbox.address()}, speaks_http2);
  const Response flooded = fetch(plane.address(), "POST /flood HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\nx");
  CHECK(flooded.status == 502);
  CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("http2 sandbox: the time limit of connecting ends with the connection, not with the answer") {
  FakeSandbox sandbox(answering_http2([](Http2Peer& peer, PeerStream& stream) {
    std::this_thread::sleep_for(300ms);  // three times the limit
    peer.respond(stream.id, kOk, "fine");
  }));
  Plane plane([](roles::ProxyOptions& options) { options.limits.connect_timeout = 100ms; });
  plane.route("f", {sandbox.address()}, speaks_http2);
  CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
  CHECK(fetch(plane.address(), "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\nx").body == "fine");
  CHECK(sandbox.connections() == 1);
}
