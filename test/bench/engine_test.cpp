// SPDX-License-Identifier: MIT
//
// Whole runs against a server that does what the test says.
#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "bench/scripted_server.h"
#include "catch.h"
#include "dirigent/bench/engine.h"

using namespace dirigent;
using namespace dirigent::bench;

namespace {

Plan plan_for(const std::string& address, std::size_t functions = 1) {
  Plan plan;
  plan.endpoints = {address};
  for (std::size_t i = 0; i < functions; ++i) {
    const std::string name = "f" + std::to_string(i);
    plan.targets.push_back({name, 0, name, "/", "", 128});
  }
  plan.timeout = 30s;
  plan.keep_records = true;
  return plan;
}

Plan closed_plan(const std::string& address, std::uint64_t requests, unsigned connections) {
  Plan plan = plan_for(address);
  plan.pace = Pace::closed;
  plan.requests = requests;
  plan.connections = connections;
  return plan;
}

Plan open_plan(const std::string& address, const std::string& load, Duration length, std::size_t functions = 1) {
  Plan plan = plan_for(address, functions);
  plan.load = *workload::Load::parse(load);
  plan.length = length;
  return plan;
}

RunResult run(const Plan& plan, const EngineOptions& options = {}) {
  auto result = run_plan(plan, options);
  if (!result) FAIL(result.error().message);
  return std::move(*result);
}

using Errors = std::map<std::string, std::uint64_t, std::less<>>;

}  // namespace

TEST_CASE("bench engine: a closed loop makes exactly the calls asked for, over its connections") {
  ScriptedServer server([](const std::string&, std::size_t) { return ok_response("hi"); });
  for (const unsigned threads : {1u, 3u}) {
    const std::size_t before = server.requests();
    const std::size_t connections_before = server.connections();
    Plan plan = closed_plan(server.address(), 500, 6);
    plan.threads = threads;
    const RunResult result = run(plan);
    CHECK(result.measurement->measured == 500);
    CHECK(result.measurement->succeeded == 500);
    CHECK(result.measurement->body_bytes == 1000);
    CHECK(server.requests() - before == 500);
    CHECK(server.connections() - connections_before <= 6);
    CHECK(result.connections_opened == 6);
    CHECK(result.in_flight_max <= 6);
  }
}

TEST_CASE("bench engine: an open loop makes every call of its schedule, whatever the threads") {
  ScriptedServer server([](const std::string&, std::size_t) { return ok_response("hi"); });
  std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>> first;
  for (const unsigned threads : {1u, 2u}) {
    Plan plan = open_plan(server.address(), "poisson:rps=400", 500ms, 3);
    plan.threads = threads;
    plan.seed = 11;
    const RunResult result = run(plan);
    CHECK(result.measurement->errors == Errors{});
    CHECK(result.measurement->late.min() >= 0);
    std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>> calls;
    for (const Record& record : result.measurement->records)
      calls.insert({record.target, record.minute, record.ordinal});
    CHECK(calls.size() == result.measurement->measured);
    if (threads == 1) first = calls;
    CHECK(calls == first);
  }
}

TEST_CASE("bench engine: latency counts from the intended start, so that a stall of the server is not left out") {
  // One connection, and the first answer takes 300 ms: 60 calls of the 100 are due meanwhile and start late.
  ScriptedServer server([](const std::string&, std::size_t number) {
    if (number == 0) std::this_thread::sleep_for(300ms);
    return ok_response("hi");
  });
  Plan plan = open_plan(server.address(), "constant:rps=200", 500ms);
  plan.connections = 1;
  const RunResult result = run(plan);
  const Measurement& m = *result.measurement;
  CHECK(m.succeeded == 100);
  CHECK(m.latency.max() >= Duration(300ms).count());
  // Those due within the first 200 ms waited for at least 100 ms.
  CHECK(m.latency.count() - m.latency.count_at_most(Duration(100ms).count()) >= 40);
  CHECK(m.late.count() - m.late.count_at_most(Duration(100ms).count()) >= 39);
  CHECK(m.service.count() == 100);
  CHECK(m.service.sum() < m.latency.sum());
}

TEST_CASE("bench engine: calls of the warm-up are made and not measured") {
  ScriptedServer server([](const std::string&, std::size_t) { return ok_response("hi"); });
  Plan plan = open_plan(server.address(), "constant:rps=100", 300ms);
  plan.warm_up = 200ms;
  const RunResult result = run(plan);
  CHECK(server.requests() == 50);
  CHECK(result.measurement->measured == 30);
  CHECK(result.measurement->records.size() == 50);
}

TEST_CASE("bench engine: a server that closes after each answer costs connections, not errors") {
  ScriptedServer server([](const std::string&, std::size_t number) {
    if (number % 2 == 0) return ok_response("hi", "Connection: close\r\n") + ScriptedServer::kClose;
    return "HTTP/1.1 200 OK\r\n\r\nuntil the end" + std::string(1, ScriptedServer::kClose);
  });
  const RunResult result = run(closed_plan(server.address(), 100, 4));
  CHECK(result.measurement->succeeded == 100);
  CHECK(result.measurement->errors == Errors{});
  CHECK(result.connections_opened >= 100);
}

TEST_CASE("bench engine: every way of failing is counted by its reason, and the run goes on") {
  ScriptedServer server([](const std::string&, std::size_t number) -> std::string {
    switch (number % 6) {
      case 0: return "";  // connection-ended
      case 1: return "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort" + std::string(1, ScriptedServer::kClose);
      case 2: return "nonsense\r\n\r\n";  // bad-response
      case 3: return "HTTP/1.1 503 Service Unavailable\r\nX-Dirigent-Reason: queue-full\r\nContent-Length: 0\r\n\r\n";
      case 4: return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
      default: return ok_response("hi");
    }
  });
  const RunResult result = run(closed_plan(server.address(), 60, 1));
  CHECK(result.measurement->measured == 60);
  CHECK(result.measurement->succeeded == 10);
  CHECK(result.measurement->errors ==
        Errors{{"bad-response", 10}, {"connection-ended", 20}, {"queue-full", 10}, {"status-404", 10}});
  CHECK(result.measurement->statuses == std::map<int, std::uint64_t>{{200, 10}, {404, 10}, {503, 10}});
}

TEST_CASE("bench engine: a call that gets no answer ends at its timeout, with those that waited for its connection") {
  ScriptedServer server([](const std::string&, std::size_t) { return ScriptedServer::kSilence; });
  Plan plan = open_plan(server.address(), "burst:size=5,every_ms=1000", 100ms);
  plan.connections = 2;
  plan.timeout = 200ms;
  const RunResult result = run(plan);
  CHECK(result.measurement->errors == Errors{{"timed-out", 5}});
  CHECK(result.wall_seconds >= 0.2);
}

TEST_CASE("bench engine: a server that goes away makes failures, not a hang") {
  std::atomic<ScriptedServer*> self{nullptr};
  ScriptedServer server([&](const std::string&, std::size_t number) -> std::string {
    if (number == 10) self.load()->stop_listening();
    return number < 10 ? ok_response("hi") : std::string();
  });
  self = &server;
  const RunResult result = run(closed_plan(server.address(), 30, 1));
  CHECK(result.measurement->succeeded == 10);
  CHECK(result.measurement->errors.at("connection-ended") >= 1);
  CHECK(result.measurement->errors.at("connect-failed") >= 1);
  CHECK(result.measurement->measured == 30);
}

TEST_CASE("bench engine: nothing there is an error that names the address") {
  std::string address;
  {
    ScriptedServer gone([](const std::string&, std::size_t) { return std::string(); });
    address = gone.address();
  }
  const auto result = run_plan(closed_plan(address, 1, 1), {});
  REQUIRE_FALSE(result);
  CHECK(result.error().code == ErrorCode::unavailable);
  CHECK(result.error().message.find("cannot connect to " + address) == 0);
  Plan plan = closed_plan("no-such-host.invalid:80", 1, 1);
  CHECK(run_plan(plan, {}).error().code == ErrorCode::not_found);
  plan.endpoints = {"nonsense"};
  CHECK(run_plan(plan, {}).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("bench engine: bodies larger than the socket's buffers go both ways whole") {
  const std::string big(3 << 20, 'z');
  ScriptedServer server([&](const std::string&, std::size_t) { return ok_response(big); });
  Plan plan = closed_plan(server.address(), 6, 2);
  plan.request.method = "POST";
  plan.request.body = std::string(2 << 20, 'y');
  const RunResult result = run(plan);
  CHECK(result.measurement->succeeded == 6);
  CHECK(result.measurement->body_bytes == 6 * big.size());
  for (const auto& head : server.heads()) CHECK(head.find("Content-Length: 2097152\r\n") != std::string::npos);
}

TEST_CASE("bench engine: the platform's share is told apart from the function's") {
  ScriptedServer server([](const std::string&, std::size_t number) {
    return ok_response("hi", number == 0 ? "Server-Timing: cold;desc=\"n1\", create;dur=7, fn;dur=1000000\r\n"
                                         : "Server-Timing: cold;desc=\"no\", fn;dur=0.001\r\n");
  });
  const RunResult result = run(closed_plan(server.address(), 5, 1));
  const Measurement& m = *result.measurement;
  CHECK(m.timed == 5);
  CHECK(m.cold == 1);
  CHECK(m.overhead.min() == 0);  // never negative, whatever a server claims
  CHECK(m.overhead.count() == 5);
  CHECK(m.overhead.max() > 0);
  CHECK(m.overhead.max() <= m.latency.max() - 1000);  // the microsecond inside the warm ones
  CHECK(m.cold_phases[static_cast<std::size_t>(Phase::create)].max() == Duration(7ms).count());
}

TEST_CASE("bench engine: a stop ends the run early and says how many calls were not made") {
  std::atomic<bool> stop{false};
  ScriptedServer server([&](const std::string&, std::size_t number) {
    if (number == 4) stop = true;
    return ok_response("hi");
  });
  EngineOptions options;
  options.stop = &stop;
  const RunResult result = run(open_plan(server.address(), "constant:rps=50", 1000s), options);
  CHECK(result.was_stopped);
  CHECK(result.measurement->measured + result.measurement->not_sent == 50'000);
  CHECK(result.measurement->not_sent > 40'000);
  CHECK(result.wall_seconds < 500);
}

TEST_CASE("bench engine: progress is reported with what has been done") {
  ScriptedServer server([](const std::string&, std::size_t) { return ok_response("hi"); });
  std::vector<std::uint64_t> sent;
  double fraction = 0;
  EngineOptions options;
  options.progress = [&](const Progress& progress) {
    sent.push_back(progress.sent);
    fraction = progress.fraction;
    CHECK(progress.succeeded + progress.failed + progress.in_flight == progress.sent);
  };
  run(open_plan(server.address(), "constant:rps=200", 1200ms), options);
  REQUIRE_FALSE(sent.empty());
  CHECK(std::is_sorted(sent.begin(), sent.end()));
  CHECK(sent.back() > 0);
  CHECK(fraction > 0);
}

TEST_CASE("bench engine: each target's calls go to its own endpoint, by its own name") {
  ScriptedServer one([](const std::string&, std::size_t) { return ok_response("1"); });
  ScriptedServer two([](const std::string&, std::size_t) { return ok_response("2"); });
  Plan plan = closed_plan(one.address(), 40, 4);
  plan.endpoints.push_back(two.address());
  plan.targets = {{"a", 0, "a", "/x", "", 128}, {"b", 1, "b", "/y", "", 128}};
  run(plan);
  CHECK(one.requests() == 20);
  CHECK(two.requests() == 20);
  for (const auto& head : one.heads()) CHECK(head.find("GET /x HTTP/1.1\r\nHost: a\r\n") == 0);
  for (const auto& head : two.heads()) CHECK(head.find("GET /y HTTP/1.1\r\nHost: b\r\n") == 0);
}
