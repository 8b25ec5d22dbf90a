// SPDX-License-Identifier: MIT
//
// Every answer of conformance/answers, said by a sandbox of its own, cut in three ways.
#include <sys/socket.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <random>

#include "catch.h"
#include "conformance_cases.h"
#include "dirigent/base/text.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

// Says what the case says to the first request, and "clean" to every other one.
class Speaker {
 public:
  Speaker(const ConformanceCase& one, Pieces pieces, std::size_t place)
      : case_(one), pieces_(pieces), place_(place), sandbox_([this](Wire& wire, FakeSandbox&) {
          serve(wire);
          const std::lock_guard lock(mutex_);
          ++ended_;
          changed_.notify_all();
        }) {}

  const std::string& address() const { return sandbox_.address(); }
  int connections() const { return sandbox_.connections(); }
  Event client_has_answer;
  // The data plane has given the first connection up.
  bool wait_for_end() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [this] { return ended_ > 0; });
  }

 private:
  void serve(Wire& wire) {
    while (true) {
      std::string line;
      if (case_.has("to unfinished") && !spoken_) {
        line = wire.read_until("\r\n\r\n");
      } else if (auto received = read_request(wire)) {
        line = received->head;
      }
      if (line.empty()) return;
      if (line.find(" /case ") == std::string::npos) {
        if (!wire.write(ok("clean"))) return;
        continue;
      }
      spoken_ = true;
      for (const auto part : cut(case_.message, pieces_, place_)) {
        if (!wire.write(part)) return;
      }
      if (case_.has("then close")) return;
      if (case_.has("then reset")) {
        wire.reset();
        return;
      }
      if (const std::string later = case_.find("later"); !later.empty()) {
        client_has_answer.wait();
        wire.write(unescape(later));
      }
    }
  }

  const ConformanceCase& case_;
  const Pieces pieces_;
  const std::size_t place_;
  std::atomic<bool> spoken_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  int ended_ = 0;
  FakeSandbox sandbox_;
};

std::string question_of(const ConformanceCase& one) {
  const std::string to = one.find("to");
  if (to == "HEAD") return "HEAD /case HTTP/1.1\r\nHost: f\r\n\r\n";
  if (to == "1.0") return "GET /case HTTP/1.0\r\nHost: f\r\n\r\n";
  if (to == "1.0-keep") return "GET /case HTTP/1.0\r\nHost: f\r\nConnection: keep-alive\r\n\r\n";
  if (to == "upgrade") return "GET /case HTTP/1.1\r\nHost: f\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
  if (to == "unfinished") return "POST /case HTTP/1.1\r\nHost: f\r\nContent-Length: 10\r\n\r\nabc";
  if (to == "expect") return "POST /case HTTP/1.1\r\nHost: f\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc";
  if (!to.empty()) throw std::runtime_error(one.file + ": \"to " + to + "\" is unknown");
  return "GET /case HTTP/1.1\r\nHost: f\r\n\r\n";
}

void check_answer(const ConformanceCase& one, const Response& response, const std::string& outcome) {
  INFO(response.head << response.body);
  CHECK(std::to_string(response.status) == outcome.substr(0, 3));
  const std::string how = outcome.substr(4);
  if (how == "complete" || how == "cut") {
    CHECK(response.complete == (how == "complete"));
    CHECK(response.count("X-Dirigent-Reason") == 0);
    for (const auto& line : one.expected) {
      if (line.starts_with("body ")) CHECK(response.body == unescape(line.substr(5)));
      if (line.starts_with("trailers ")) CHECK(response.trailers == unescape(line.substr(9)));
      if (line == "no trailers") CHECK(response.trailers.empty());
      if (line.starts_with("once ")) CHECK(response.count(line.substr(5)) == 1);
      if (line.starts_with("without ")) CHECK(response.count(line.substr(8)) == 0);
      if (line.starts_with("with ")) {
        const std::size_t colon = line.find(':');
        CHECK(response.count(line.substr(5, colon - 5)) == 1);
        CHECK(response.header(line.substr(5, colon - 5)) == unescape(trim(std::string_view(line).substr(colon + 1))));
      }
    }
  } else {
    CHECK(response.header("X-Dirigent-Reason") == how);
    CHECK(response.header("Content-Type") == "application/problem+json");
    CHECK(response.complete);
    if (!one.has("to HEAD")) CHECK(response.body.find("\"ran\":\"maybe\"") != std::string::npos);
  }
}

void run(const ConformanceCase& one, Pieces pieces, std::size_t place, Plane& plane) {
  Speaker speaker(one, pieces, place);
  plane.route("f", {speaker.address()});
  std::string outcome = one.expected.front();
  const std::string in_pieces = one.find("pieces");
  Wire wire = Wire::connect(plane.address());
  wire.write(question_of(one));
  std::string interim;
  Response response;
  for (;;) {
    response = read_response(wire, one.has("to HEAD"));
    if (response.status == 0 || response.status >= 200 || response.status == 101) break;
    interim += (interim.empty() ? "" : " ") + std::to_string(response.status);
  }
  speaker.client_has_answer.set();
  // Where the cut falls decides which of the two it is.
  if (pieces != Pieces::whole && !in_pieces.empty() && std::to_string(response.status) == in_pieces.substr(0, 3))
    outcome = in_pieces;
  check_answer(one, response, outcome);
  if (one.has("interim none")) {
    CHECK(interim.empty());
  } else if (const std::string wanted = one.find("interim"); !wanted.empty()) {
    CHECK(interim == wanted);
  }
  const bool is_reused = one.has("reused");
  if (one.has("dropped")) CHECK(speaker.wait_for_end());
  // The next request finds order: on the same client connection if it is still there.
  if (response.status == 101 || !response.complete || response.header("Connection") == "close" ||
      (one.find("to").starts_with("1.0") && response.header("Connection") != "keep-alive")) {
    CHECK(wire.at_end());
    CHECK(fetch(plane.address(), get("/clean", "f")).body == "clean");
  } else {
    wire.write(get("/clean", "f"));
    const Response clean = read_response(wire);
    CHECK(clean.status == 200);
    CHECK(clean.body == "clean");
  }
  if (is_reused) CHECK(speaker.connections() == 1);
  if (one.has("dropped")) CHECK(speaker.connections() == 2);
  plane.unroute("f");
}

}  // namespace

TEST_CASE("conformance: every answer of a sandbox ends as the RFCs and our own rules say, however it is cut") {
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  Plane plane;
  std::size_t cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(CONFORMANCE_DIRECTORY "/answers")) {
    for (const ConformanceCase& one : read_conformance_cases(entry.path())) {
      ++cases;
      for (const Pieces pieces : kAllPieces) {
        if (one.has("whole") && pieces != Pieces::whole) continue;
        const std::size_t place = random();
        INFO(one.file << ":" << one.line << ": " << one.title << " (" << one.source << "), " << to_string(pieces)
                      << ", seed " << seed);
        INFO(printable(one.message));
        run(one, pieces, place, plane);
      }
    }
  }
  CHECK(cases >= 60);
  CHECK(plane.in_flight() == 0);
}

TEST_CASE(
    "conformance: what a kept connection says unasked is no answer, even when it comes together with the next "
    "request") {
  std::mutex mutex;
  std::vector<int> fds;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    {
      const std::lock_guard lock(mutex);
      fds.push_back(wire.fd());
    }
    while (read_request(wire)) wire.write(ok("clean"));
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write(get("/", "f"));
  REQUIRE(read_response(wire).body == "clean");
  // While the loop stands still both become readable; the request first.
  plane.on_loop([&] {
    wire.write(get("/", "f"));
    const std::lock_guard lock(mutex);
    const std::string poison = ok("poison");
    CHECK(::send(fds.front(), poison.data(), poison.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(poison.size()));
  });
  const Response response = read_response(wire);
  CHECK(response.status == 200);
  CHECK(response.body == "clean");
  CHECK(sandbox.connections() == 2);
}

TEST_CASE("conformance: a reset that meets the request's next bytes is no end of an answer without a length") {
  Event has_answered;
  Wire* spoken = nullptr;
  Event done;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    wire.read_until("abc");
    wire.write("HTTP/1.1 200 OK\r\n\r\nbegin");
    spoken = &wire;
    has_answered.set();
    done.wait();
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  Wire wire = Wire::connect(plane.address());
  wire.write("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 10\r\n\r\nabc");
  CHECK(wire.read_until("begin\r\n").ends_with("begin\r\n"));
  REQUIRE(has_answered.wait());
  // While the loop stands still: the client goes on, then the sandbox resets. Sending on is what meets the reset.
  plane.on_loop([&] {
    wire.write("d");
    spoken->reset();
  });
  done.set();
  CHECK(wire.read_to_end().find("0\r\n") == std::string::npos);
}
