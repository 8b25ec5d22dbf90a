// SPDX-License-Identifier: MIT
//
// The time limits of a request (total, first byte, idle), case by case: what the function does, and what the client
// sees. Limits that must fire are short and never raced by an answer; limits that must not fire are far away.
#include "catch.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

struct Limits {
  Duration total = 60s;
  Duration first_byte{};
  Duration idle{};
};

// A function behind a plane; `act` is what it does with each request, until it returns.
struct Case {
  Event over;  // the client has seen all it will
  FakeSandbox sandbox;
  Plane plane;
  Case(Limits limits, std::function<void(Wire&, Event& over)> act)
      : sandbox([this, act](Wire& wire, FakeSandbox& self) {
          while (auto received = read_request(wire)) {
            self.note(*received);
            act(wire, over);
          }
        }) {
    plane.route("f", {sandbox.address()}, [limits](FunctionRoute& route) {
      route.limits.timeout = limits.total;
      route.limits.first_byte_timeout = limits.first_byte;
      route.limits.idle_timeout = limits.idle;
    });
  }
  Response ask() {
    Response response = fetch(plane.address(), get("/", "f"));
    over.set();
    return response;
  }
};

void writes_hi(Wire& wire, Event&) { wire.write(ok("hi")); }
void is_silent(Wire&, Event& over) { over.wait(); }

void check_504(const Response& response, std::string_view reason) {
  CHECK(response.status == 504);
  CHECK(response.header("X-Dirigent-Reason") == reason);
  CHECK(response.body.find("\"ran\":\"maybe\"") != std::string::npos);
  CHECK(response.complete);
}

}  // namespace

TEST_CASE("time limits T1: a function that answers within all of them") {
  Case c({60s, 60s, {}}, writes_hi);
  CHECK(c.ask().body == "hi");
}

TEST_CASE("time limits T2: no first byte in time is a 504, and what the function says later reaches nobody") {
  Case c({60s, 20ms, {}}, [](Wire& wire, Event& over) {
    over.wait();
    wire.write(ok("late"));
  });
  Wire wire = Wire::connect(c.plane.address());
  wire.write(get("/", "f"));
  check_504(read_response(wire), "response-start-timeout");
  c.over.set();
  // The client's connection goes on, with a function's answer of its own and not with the late one.
  wire.write(get("/", "nobody"));
  CHECK(read_response(wire).status == 404);
  CHECK(c.plane.eventually([&] { return c.plane.in_flight() == 0; }));
}

TEST_CASE("time limits T3: the first-byte limit does not fire once the answer has begun") {
  Case c({60s, 1s, {}}, [](Wire& wire, Event&) {
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbeg");
    std::this_thread::sleep_for(1200ms);  // longer than the limit
    wire.write("inning");
  });
  const Response response = c.ask();
  CHECK(response.status == 200);
  CHECK(response.body == "beginning");
  CHECK(response.complete);
}

TEST_CASE("time limits T4: all three limits, far away") {
  Case c({60s, 60s, 60s}, writes_hi);
  CHECK(c.ask().body == "hi");
}

TEST_CASE("time limits T5: silence before any byte is a 504") {
  Case c({60s, 60s, 20ms}, is_silent);
  check_504(c.ask(), "idle-timeout");
}

TEST_CASE("time limits T6: each byte begins the idle limit anew") {
  Case c({60s, 60s, 1500ms}, [](Wire& wire, Event&) {
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    for (const char* part : {"a", "b", "c", "d"}) {
      std::this_thread::sleep_for(500ms);  // 2 s in all
      wire.write(part);
    }
  });
  const Response response = c.ask();
  CHECK(response.body == "abcd");
  CHECK(response.complete);
}

TEST_CASE("time limits T7: silence in the middle of an answer cuts it, without a text in its middle") {
  for (const char* framing : {"Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"}) {
    INFO(framing);
    const bool chunked = framing[0] == 'T';
    Case c({60s, 60s, 50ms}, [&](Wire& wire, Event& over) {
      wire.write(fmt::format("HTTP/1.1 200 OK\r\n{}\r\n{}", framing, chunked ? "3\r\nfoo\r\n" : "foo"));
      over.wait();
    });
    const Response response = c.ask();
    CHECK(response.status == 200);
    CHECK(response.body == "foo");
    CHECK_FALSE(response.complete);
  }
}

TEST_CASE("time limits T8: without an idle limit silence is no fault") {
  Case c({60s, 60s, {}}, [](Wire& wire, Event&) {
    std::this_thread::sleep_for(300ms);
    wire.write(ok("hi"));
  });
  CHECK(c.ask().body == "hi");
}

TEST_CASE("time limits T9: nothing for long is a 504 of whichever limit is reached first") {
  Case first_byte({60s, 30ms, 30s}, is_silent);
  check_504(first_byte.ask(), "response-start-timeout");
  Case idle({60s, 30s, 30ms}, is_silent);
  check_504(idle.ask(), "idle-timeout");
}

TEST_CASE("time limits T10: the total limit fires before the others") {
  Case c({20ms, 60s, 60s}, is_silent);
  check_504(c.ask(), "max-duration");
}

TEST_CASE("time limits T11: an error is told once, and nothing follows it") {
  Case c({60s, 20ms, 20ms}, [](Wire& wire, Event& over) {
    over.wait();
    wire.write(ok("late"));
    wire.write("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
  });
  Wire wire = Wire::connect(c.plane.address());
  wire.write("GET / HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n");
  const Response response = read_response(wire);
  CHECK(response.status == 504);
  c.over.set();
  CHECK(wire.at_end());
  CHECK(c.plane.eventually([&] {
    for (const auto& shard : c.plane.snapshot()) {
      for (const auto& metrics : shard.revisions) {
        std::uint64_t answers = 0;
        for (const auto& [key, times] : metrics.answered) answers += times;
        if (metrics.function.value == "f") return answers == 1;
      }
    }
    return false;
  }));
}

TEST_CASE("time limits T12: an answer that the function aborts is aborted for the client, not ended") {
  for (const char* framing : {"Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n", ""}) {
    INFO(framing);
    const bool chunked = framing[0] == 'T';
    Event seen;
    Case c({60s, 60s, 60s}, [&](Wire& wire, Event&) {
      wire.write(fmt::format("HTTP/1.1 200 OK\r\n{}\r\n{}", framing, chunked ? "3\r\nfoo\r\n" : "foo"));
      seen.wait();
      wire.reset();
    });
    Wire wire = Wire::connect(c.plane.address());
    wire.write(get("/", "f"));
    const std::string head = wire.read_until("\r\n\r\n");
    CHECK(head.starts_with("HTTP/1.1 200 OK\r\n"));
    CHECK(wire.read_until("foo").ends_with("foo"));
    seen.set();
    const std::string rest = wire.read_to_end();
    CHECK(rest.find("0\r\n") == std::string::npos);
    CHECK(rest.size() <= 2);  // the CR LF of a chunk
  }
}
