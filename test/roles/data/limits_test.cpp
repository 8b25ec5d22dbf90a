// SPDX-License-Identifier: MIT
#include "catch.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {
std::string with_headers(std::size_t count) {
  std::string request = "GET / HTTP/1.1\r\nHost: f\r\n";
  for (std::size_t i = 1; i < count; ++i) request += fmt::format("X-{}: y\r\n", i);
  return request + "\r\n";
}
}  // namespace

TEST_CASE("limits: the head, its headers and its target, each at the limit and one above") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  CHECK(fetch(plane.address(), with_headers(99)).status == 200);
  CHECK(fetch(plane.address(), with_headers(100)).status == 200);
  CHECK(fetch(plane.address(), with_headers(101)).status == 400);
  CHECK(fetch(plane.address(), with_headers(1000)).status == 400);

  const auto with_target = [](std::size_t size) { return get("/" + std::string(size - 1, 'a'), "f"); };
  CHECK(fetch(plane.address(), with_target(8 * 1024)).status == 200);
  CHECK(fetch(plane.address(), with_target(8 * 1024 + 1)).status == 400);

  const auto with_head = [](std::size_t size) {
    const std::string begin = "GET / HTTP/1.1\r\nHost: f\r\nX: ";
    return begin + std::string(size - begin.size() - 4, 'a') + "\r\n\r\n";
  };
  CHECK(fetch(plane.address(), with_head(32 * 1024)).status == 200);
  CHECK(fetch(plane.address(), with_head(32 * 1024 + 1)).status == 400);
  CHECK(fetch(plane.address(), with_head(200 * 1024)).status == 400);
}

TEST_CASE("limits: connections above the limit are told so and closed") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane([](roles::ProxyOptions& options) { options.limits.connections_max = 2; });
  plane.route("f", {sandbox.address()});
  Wire first = Wire::connect(plane.address());
  first.write(get("/", "f"));
  CHECK(read_response(first).status == 200);
  {
    Wire second = Wire::connect(plane.address());
    second.write(get("/", "f"));
    CHECK(read_response(second).status == 200);
    Wire third = Wire::connect(plane.address());
    const Response refused = read_response(third);
    CHECK(refused.status == 429);
    CHECK(refused.header("X-Dirigent-Reason") == "max-inflight");
    CHECK_FALSE(refused.header("Retry-After").empty());
    CHECK(third.at_end());
  }
  CHECK(plane.eventually([&] { return plane.plane().connections() == 1; }));
  CHECK(fetch(plane.address(), get("/", "f")).status == 200);
}

TEST_CASE("limits: a head that does not arrive in time is a 408, silence is closed without a word") {
  Plane plane([](roles::ProxyOptions& options) {
    options.limits.head_timeout = 30ms;
    options.limits.keep_alive_timeout = 30ms;
  });
  Wire slow = Wire::connect(plane.address());
  slow.write("GET / HT");
  const Response response = read_response(slow);
  CHECK(response.status == 408);
  CHECK(response.header("X-Dirigent-Reason") == "request-timeout");
  CHECK(slow.at_end());
  Wire silent = Wire::connect(plane.address());
  CHECK(silent.at_end());
  Wire kept = Wire::connect(plane.address());
  kept.write(get("/healthz"));
  CHECK(read_response(kept).status == 200);
  CHECK(kept.at_end());
}

TEST_CASE("limits: a body that stops arriving is a 408") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("never")));
  Plane plane([](roles::ProxyOptions& options) { options.limits.body_timeout = 30ms; });
  plane.route("f", {sandbox.address()});
  const Response response = fetch(plane.address(), "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 5\r\n\r\nab");
  CHECK(response.status == 408);
  CHECK(response.header("X-Dirigent-Reason") == "request-timeout");
  CHECK(plane.in_flight() == 0);
}

TEST_CASE("limits: the first byte, silence and the whole request have their own time limits") {
  SharedText before;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (!read_request(wire)) return;
    wire.write(before.get());
    wire.read_to_end();  // until the data plane gives up
  });
  Plane plane;
  const auto limits = [&](Duration total, Duration first_byte, Duration idle) {
    plane.route("f", {sandbox.address()}, [&](FunctionRoute& route) {
      route.limits.timeout = total;
      route.limits.first_byte_timeout = first_byte;
      route.limits.idle_timeout = idle;
    });
  };
  const auto reason = [&] {
    const Response response = fetch(plane.address(), get("/", "f"));
    CHECK(response.status == 504);
    CHECK(response.body.find("\"ran\":\"maybe\"") != std::string::npos);
    return response.header("X-Dirigent-Reason");
  };
  limits(60s, 20ms, 0s);
  CHECK(reason() == "response-start-timeout");
  limits(60s, 60s, 20ms);
  CHECK(reason() == "idle-timeout");
  limits(20ms, 60s, 60s);
  CHECK(reason() == "max-duration");

  // After the head nothing can be said any more: the connection is cut, and no text is added to what was sent.
  before = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfoo";
  limits(60s, 0s, 1s);
  Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 200);
  CHECK(response.body == "foo");
  CHECK_FALSE(response.complete);
  limits(1s, 0s, 0s);
  response = fetch(plane.address(), get("/", "f"));
  CHECK(response.body == "foo");
  CHECK_FALSE(response.complete);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("limits: bytes either way keep an idle limit from firing") {
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (!read_request(wire)) return;
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
    for (const char* byte : {"a", "b", "c", "d", "e", "f", "g", "h"}) {
      // Paced by the clock on purpose: a fifth of the limit between two bytes, one and a half limits in all.
      std::this_thread::sleep_for(200ms);
      wire.write(byte);
    }
  });
  Plane plane;
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) {
    route.limits.idle_timeout = 1s;
    route.limits.first_byte_timeout = 1s;  // must not fire after the head
  });
  const Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 200);
  CHECK(response.body == "abcdefgh");
}

TEST_CASE("limits: a queue that is full or too slow refuses, with the reason") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("never")));
  Plane plane;
  plane.route("f", {}, [](FunctionRoute& route) {
    route.limits.queue_depth = 1;
    route.limits.queue_timeout = 100ms;
  });
  Wire parked = Wire::connect(plane.address());
  parked.write(get("/", "f"));
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  const Response full = fetch(plane.address(), get("/", "f"));
  CHECK(full.status == 503);
  CHECK(full.header("X-Dirigent-Reason") == "queue-full");
  CHECK_FALSE(full.header("Retry-After").empty());
  CHECK(full.body.find("\"function\":\"f.default\"") != std::string::npos);
  const Response slow = read_response(parked);
  CHECK(slow.status == 503);
  CHECK(slow.header("X-Dirigent-Reason") == "queue-timeout");
  CHECK(slow.body.find("\"ran\":false") != std::string::npos);
}
