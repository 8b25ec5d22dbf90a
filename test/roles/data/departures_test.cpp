// SPDX-License-Identifier: MIT
//
// What becomes of a request whose client, sandbox, function or data plane goes away.
#include "catch.h"
#include "dirigent/base/text.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

TEST_CASE("parked: a request waits for a sandbox, and the answer accounts for the wait") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("cold")));
  Plane plane;
  plane.route("f", {});
  Wire wire = Wire::connect(plane.address());
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 3\r\n\r\nabc");
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  CHECK(plane.eventually([&] { return !plane.loads().empty(); }));  // demand went out at once
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) {
    route.sandboxes.back().phases = {1us, 2us, 3us, 4us, 5us, 2};
  });
  const Response response = read_response(wire);
  CHECK(response.body == "cold");
  CHECK(sandbox.last().body == "abc");
  const std::string timing = response.header("Server-Timing");
  CHECK(timing.starts_with("cold;desc=\"node1\", queue;dur="));
  for (const char* phase : {"schedule;dur=0.001", "create;dur=0.002", "network;dur=0.003", "start;dur=0.004", "probe;dur=0.005",
                            "route;dur=", "proxy;dur=", "fn;dur="}) {
    INFO(phase);
    CHECK(timing.find(phase) != std::string::npos);
  }
  // Together they are the time until the head.
  double sum = 0;
  for (auto part : split(timing, ',')) {
    const auto at = part.find("dur=");
    if (at != std::string_view::npos) sum += *parse_number(part.substr(at + 4));
  }
  const double total = *parse_number(response.header("X-Duration-Seconds")) * 1000;
  CHECK(sum == Approx(total).margin(0.02));
}

TEST_CASE("parked: a client that leaves is forgotten at once, and one that stays is served in its order") {
  FakeSandbox sandbox(FakeSandbox::answering([](const Received& r) { return ok(r.head.substr(4, 2)); }));
  Plane plane;
  plane.route("f", {}, [](FunctionRoute& route) { route.limits.queue_timeout = 60s; });
  std::vector<Wire> wires;
  for (int i = 0; i < 5; ++i) {
    wires.push_back(Wire::connect(plane.address()));
    wires.back().write(get(fmt::format("/{}", i), "f"));
    REQUIRE(plane.eventually([&] { return plane.waiting() == static_cast<std::uint64_t>(i) + 1; }));
  }
  wires[1].close();
  wires[3].reset();
  CHECK(plane.eventually([&] { return plane.waiting() == 3; }));
  plane.route("f", {sandbox.address()}, [](FunctionRoute& route) { route.sandboxes.back().slots = 1; });
  for (const std::size_t i : {0U, 2U, 4U}) CHECK(read_response(wires[i]).body == fmt::format("/{}", i));
  CHECK(sandbox.requests() == 3);
  CHECK(sandbox.active_max == 1);
}

TEST_CASE("in flight: a client that leaves ends the exchange and gives its slot back at once") {
  Event cancelled;
  FakeSandbox slow([&](Wire& wire, FakeSandbox& self) {
    auto received = read_request(wire);
    if (!received) return;
    self.note(*received);
    if (received->head.find("/next") != std::string::npos) {
      wire.write(ok("next"));
      return;
    }
    if (wire.at_end()) cancelled.set();
  });
  Plane plane;
  plane.route("f", {slow.address()}, [](FunctionRoute& route) { route.sandboxes.back().slots = 1; });
  Wire leaving = Wire::connect(plane.address());
  leaving.write(get("/slow", "f"));
  REQUIRE(plane.eventually([&] { return slow.requests() == 1; }));
  Wire waiting = Wire::connect(plane.address());
  waiting.write(get("/next", "f"));
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  leaving.close();
  CHECK(cancelled.wait());
  CHECK(read_response(waiting).body == "next");
}

TEST_CASE("in flight: a client that ends its half with the request still gets the answer") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("answer")));
  Plane plane;
  // Parked first, so that the request and the end of the half are both there before anything is forwarded.
  plane.route("f", {sandbox.address()});
  plane.on_loop([] {});
  Wire wire = Wire::connect(plane.address());
  Event held;
  Event release;
  // Holding the loop makes both arrive in one event.
  std::thread holder([&] {
    plane.on_loop([&] {
      held.set();
      release.wait();
    });
  });
  REQUIRE(held.wait());
  wire.write(get("/", "f"));
  wire.shutdown_write();
  release.set();
  holder.join();
  CHECK(read_response(wire).body == "answer");
  CHECK(wire.at_end());
}

TEST_CASE("retry: a kept connection that the sandbox closed is replaced without the client noticing") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox& self) {
    // One answer per connection, without saying so; the next request on it meets a reset.
    auto received = read_request(wire);
    if (!received) return;
    self.note(*received);
    wire.write(ok("one"));
    if (!wire.read_some(1).empty()) wire.reset();
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  for (int i = 0; i < 10; ++i) {
    wire.write(get("/", "f"));
    const Response response = read_response(wire);
    CHECK(response.status == 200);
    CHECK(response.body == "one");
  }
  CHECK(sandbox.requests() == 10);
  // What may not be repeated is not: the request may have run.
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\nx");
  const Response post = read_response(wire);
  CHECK(post.status == 502);
  CHECK(post.header("X-Dirigent-Reason") == "sandbox-reset");
}

TEST_CASE("retry: a sandbox that refuses the connection is suspected, and another one serves the request") {
  FakeSandbox dead(FakeSandbox::answering(ok("dead")));
  FakeSandbox alive(FakeSandbox::answering(ok("alive")));
  dead.stop_listening();
  Plane plane;
  plane.route("f", {dead.address(), alive.address()});
  for (int i = 0; i < 6; ++i) {
    const Response response = fetch(plane.address(), "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 2\r\n\r\nhi");
    CHECK(response.status == 200);
    CHECK(response.body == "alive");
  }
  CHECK(alive.last().body == "hi");
  CHECK(plane.eventually([&] { return plane.suspected().size() == 1; }));
  CHECK(plane.suspected().front().id == SandboxId{1});
  CHECK(plane.suspected().front().detail.find("refused") != std::string::npos);
}

TEST_CASE("retry: a sandbox that takes no connection within the limit is suspected") {
  // A listener whose queue is full: further connections get no answer.
  const int listener = *roles::listen_tcp("127.0.0.1:0", false);
  ::listen(listener, 0);
  roles::SocketAddress bound;
  bound.size = sizeof bound.storage;
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&bound.storage), &bound.size);
  std::vector<int> fillers;
  for (int i = 0; i < 4; ++i) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ::connect(fd, reinterpret_cast<const sockaddr*>(&bound.storage), bound.size);
    fillers.push_back(fd);
  }
  Plane plane([](roles::ProxyOptions& options) { options.limits.connect_timeout = 30ms; });
  plane.route("f", {roles::to_string(bound)}, [](FunctionRoute& route) { route.limits.queue_timeout = 50ms; });
  const Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 503);
  CHECK(plane.suspected().size() == 1);
  for (const int fd : fillers) ::close(fd);
  ::close(listener);
}

TEST_CASE("failure: a sandbox that dies under a request is a 502 that says the function may have run") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox&) {
    read_request(wire);
    wire.reset();
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  const Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 502);
  CHECK(response.header("X-Dirigent-Reason") == "sandbox-reset");
  CHECK(response.body.find("\"revision\":\"f-00001\"") != std::string::npos);
  CHECK(plane.in_flight() == 0);
}

TEST_CASE("failure: an unavailable or deleted function answers its waiting requests") {
  Plane plane;
  plane.route("f", {});
  Wire first = Wire::connect(plane.address());
  first.write(get("/", "f"));
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  plane.route("f", {}, [](FunctionRoute& route) {
    route.unavailable = Reason::start_failed;
    route.unavailable_detail = "it exits at once";
  });
  const Response failed = read_response(first);
  CHECK(failed.status == 503);
  CHECK(failed.header("X-Dirigent-Reason") == "start-failed");
  CHECK(failed.body.find("it exits at once") != std::string::npos);
  plane.route("g", {});
  Wire second = Wire::connect(plane.address());
  second.write(get("/", "g"));
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  plane.unroute("g");
  CHECK(read_response(second).status == 404);
}

TEST_CASE("drain: what is in flight finishes, what is parked may still be served, and the rest is refused") {
  Event started;
  Event finish;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (!read_request(wire)) return;
    started.set();
    finish.wait();
    wire.write(ok("finished"));
  });
  FakeSandbox late(FakeSandbox::answering(ok("late")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  plane.route("g", {});
  Wire idle = Wire::connect(plane.address());
  idle.write(get("/healthz"));
  CHECK(read_response(idle).status == 200);
  Wire busy = Wire::connect(plane.address());
  busy.write(get("/", "f"));
  Wire parked = Wire::connect(plane.address());
  parked.write(get("/", "g"));
  REQUIRE(started.wait());
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1; }));
  auto stopped = plane.start_stop(60s);
  CHECK(idle.at_end());
  CHECK_THROWS(Wire::connect(plane.address()));
  plane.on_loop([&] {
    RouteUpdate update;
    update.term = Term{1};
    FunctionRoute route;
    route.function = FunctionName{"g"};
    route.revision = RevisionNumber{1};
    route.version = RouteVersion{1000};
    RoutedSandbox routed;
    routed.id = SandboxId{77};
    routed.address.direct = late.address();
    route.sandboxes.push_back(routed);
    update.functions.push_back(route);
    plane.plane().apply(update);
  });
  const Response served = read_response(parked);
  CHECK(served.body == "late");
  CHECK(served.header("Connection") == "close");
  finish.set();
  const Response response = read_response(busy);
  CHECK(response.body == "finished");
  CHECK(response.header("Connection") == "close");
  stopped.get();
}

TEST_CASE("drain: when its time is over, waiting requests are refused and running ones told the truth") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox& self) {
    auto received = read_request(wire);
    if (!received) return;
    self.note(*received);
    wire.read_to_end();
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  plane.route("g", {});
  Wire busy = Wire::connect(plane.address());
  busy.write(get("/", "f"));
  Wire parked = Wire::connect(plane.address());
  parked.write(get("/", "g"));
  REQUIRE(plane.eventually([&] { return plane.waiting() == 1 && sandbox.requests() == 1; }));
  plane.stop(Duration::zero());
  const Response refused = read_response(parked);
  CHECK(refused.status == 503);
  CHECK(refused.header("X-Dirigent-Reason") == "draining");
  CHECK(read_response(busy).status == 502);
}
