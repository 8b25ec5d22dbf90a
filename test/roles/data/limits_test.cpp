// SPDX-License-Identifier: MIT
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "catch.h"
#include "harness.h"
#include "roles/data/upstream.h"

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

TEST_CASE("limits: without descriptors, connections that are kept for later make room for calls and callers") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  constexpr int kKept = 40;
  for (int i = 0; i < kKept; ++i) plane.route(fmt::format("f{}", i), {sandbox.address()});
  plane.route("fresh", {sandbox.address()});
  for (int i = 0; i < kKept; ++i) CHECK(fetch(plane.address(), get("/", fmt::format("f{}", i))).status == 200);
  CHECK(sandbox.connections() == kKept);
  Wire before = Wire::connect(plane.address());
  before.write(get("/healthz", "nobody"));
  read_response(before);
  Wire after(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  rlimit small = limit;
  small.rlim_cur = 512;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &small) == 0);
  std::vector<int> hoard;
  const auto take_all = [&] {
    for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) hoard.push_back(fd);
  };
  take_all();
  before.write(get("/", "fresh"));
  const Response called = read_response(before);
  // A caller whose connection is there and whom nobody can accept yet.
  take_all();
  const auto address = roles::parse_socket_address(plane.address());
  const bool connected = ::connect(after.fd(), reinterpret_cast<const sockaddr*>(&address->storage), address->size) == 0;
  after.write(get("/healthz"));
  const Response answered = read_response(after);
  for (const int fd : hoard) ::close(fd);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(called.status == 200);
  CHECK(connected);
  CHECK(answered.complete);
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

TEST_CASE("limits: connections of one address above its limit are told so, and count again when one has gone") {
  Plane plane([](roles::ProxyOptions& options) {
    options.limits.connections_per_address_max = 2;
    options.shards = 2;
  });
  const auto is_served = [](Wire& wire) {
    wire.write(get("/healthz"));
    return read_response(wire).status;
  };
  Wire first = Wire::connect(plane.address());
  CHECK(is_served(first) == 200);
  {
    Wire second = Wire::connect(plane.address());
    CHECK(is_served(second) == 200);
    Wire third = Wire::connect(plane.address());
    const Response refused = read_response(third);
    CHECK(refused.status == 429);
    CHECK(refused.header("X-Dirigent-Reason") == "max-inflight");
    CHECK(third.at_end());
  }
  REQUIRE(plane.eventually([&] { return plane.plane().connections() == 1; }));
  Wire again = Wire::connect(plane.address());
  CHECK(is_served(again) == 200);
}

TEST_CASE("limits: trusted proxies have no limit of their own") {
  Plane plane([](roles::ProxyOptions& options) {
    options.limits.connections_per_address_max = 1;
    options.trusted_proxies = {"127.0.0.0/8"};
  });
  Wire first = Wire::connect(plane.address());
  Wire second = Wire::connect(plane.address());
  for (Wire* wire : {&first, &second}) {
    wire->write(get("/healthz"));
    CHECK(read_response(*wire).status == 200);
  }
}

TEST_CASE("limits: a body that trickles is a 408 once the sandbox has waited long enough, gRPC may be silent") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("done")));
  Plane plane([](roles::ProxyOptions& options) {
    options.limits.body_timeout = 300ms;
    options.limits.body_rate_min = 10_MiB;
  });
  plane.route("f", {sandbox.address()});
  Wire slow = Wire::connect(plane.address());
  slow.write("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 1000\r\n\r\n");
  std::atomic<bool> stop{false};
  std::thread trickle([&] {
    // Paced by the clock on purpose: never silent for as long as body_timeout.
    while (!stop && slow.write("x")) std::this_thread::sleep_for(20ms);
  });
  const Response response = read_response(slow);
  stop = true;
  trickle.join();
  CHECK(response.status == 408);
  CHECK(response.header("X-Dirigent-Reason") == "request-timeout");
  CHECK(response.body.find("more slowly than") != std::string::npos);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));

  Wire grpc = Wire::connect(plane.address());
  grpc.write("POST / HTTP/1.1\r\nHost: f\r\nContent-Type: application/grpc+proto\r\nContent-Length: 2\r\n\r\nx");
  std::this_thread::sleep_for(700ms);  // more than twice the limit
  grpc.write("y");
  CHECK(read_response(grpc).body == "done");
}

TEST_CASE("limits: the size of a body, at the limit and one above, announced or not") {
  FakeSandbox sandbox(
      FakeSandbox::answering([](const Received& received) { return ok(std::to_string(received.body.size())); }));
  Plane plane([](roles::ProxyOptions& options) { options.limits.body_max = Bytes{10}; });
  plane.route("f", {sandbox.address()});
  const auto post = [&](std::string_view framing) {
    return fetch(plane.address(), fmt::format("POST / HTTP/1.1\r\nHost: f\r\n{}", framing));
  };
  CHECK(post("Content-Length: 10\r\n\r\n0123456789").body == "10");
  const Response announced = post("Content-Length: 11\r\n\r\n01234567890");
  CHECK(announced.status == 413);
  CHECK(announced.header("X-Dirigent-Reason") == "body-too-large");
  CHECK(post("Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n").body == "10");
  CHECK(post("Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n").status == 413);
  CHECK(plane.eventually([&] { return plane.in_flight() == 0; }));
}

TEST_CASE("limits: a function's own limit of a body holds where it is below the data plane's") {
  FakeSandbox sandbox(
      FakeSandbox::answering([](const Received& received) { return ok(std::to_string(received.body.size())); }));
  Plane plane([](roles::ProxyOptions& options) { options.limits.body_max = Bytes{10}; });
  plane.route("small", {sandbox.address()}, [](FunctionRoute& route) { route.limits.body_max = Bytes{4}; });
  plane.route("large", {sandbox.address()}, [](FunctionRoute& route) { route.limits.body_max = Bytes{100}; });
  const auto status = [&](std::string_view host, std::size_t size) {
    return fetch(plane.address(), fmt::format("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{}", host, size,
                                              std::string(size, 'x'))).status;
  };
  CHECK(status("small", 4) == 200);
  CHECK(status("small", 5) == 413);
  CHECK(status("large", 10) == 200);
  CHECK(status("large", 11) == 413);
  const Response refused = fetch(plane.address(), "POST / HTTP/1.1\r\nHost: small\r\nContent-Length: 5\r\n\r\n12345");
  CHECK(refused.body.find("\"function\":\"small.default\"") != std::string::npos);
}

TEST_CASE("limits: above the memory ceiling new requests are refused with a reason, and served when it is free again") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane([](roles::ProxyOptions& options) { options.limits.memory_max = 1_MiB; });
  plane.route("f", {});
  // Each parked request holds a block of 4 KiB and more.
  std::vector<Wire> parked;
  for (int i = 0; i < 400; ++i) {
    parked.push_back(Wire::connect(plane.address()));
    parked.back().write(get("/", "f"));
  }
  REQUIRE(plane.eventually([&] { return plane.snapshot()[0].memory_in_use > 1'000'000; }));
  const Response refused = fetch(plane.address(), get("/", "f"));
  CHECK(refused.status == 503);
  CHECK(refused.header("X-Dirigent-Reason") == "overloaded");
  CHECK_FALSE(refused.header("Retry-After").empty());
  CHECK(refused.body.find("\"ran\":false") != std::string::npos);
  CHECK(plane.waiting() < 300);
  CHECK(plane.waiting() > 100);
  plane.route("f", {sandbox.address()});
  int served = 0;
  for (Wire& wire : parked) served += read_response(wire).status == 200 ? 1 : 0;
  CHECK(served > 100);
  parked.clear();
  REQUIRE(plane.eventually([&] { return plane.snapshot()[0].memory_in_use < 100'000; }));
  CHECK(fetch(plane.address(), get("/", "f")).body == "fine");
}
