// SPDX-License-Identifier: MIT
//
// The parts of the load generator that decide: schedules, request bytes, what counts as an answer.
#include "bench/request_bytes.h"
#include "bench/schedule.h"
#include <cmath>
#include <set>
#include <tuple>

#include "catch.h"

using namespace dirigent;
using namespace dirigent::bench;

namespace {

Plan load_plan(const std::string& load, std::size_t functions, Duration length) {
  Plan plan;
  plan.load = *workload::Load::parse(load);
  plan.length = length;
  for (std::size_t i = 0; i < functions; ++i)
    plan.targets.push_back({"f" + std::to_string(i), 0, "f" + std::to_string(i), "/", "", 128});
  return plan;
}

std::vector<Call> all_calls(const Plan& plan, unsigned share = 0, unsigned shares = 1) {
  Schedule schedule(plan, Instant{}, share, shares);
  std::vector<Call> calls;
  for (Call call; schedule.next(call);) calls.push_back(call);
  return calls;
}

using Key = std::tuple<Instant, std::uint32_t, std::uint32_t, std::uint32_t>;
Key key(const Call& call) { return {call.intended, call.target, call.minute, call.ordinal}; }

}  // namespace

TEST_CASE("schedule: a constant rate is evenly spaced from the first instant on") {
  const auto calls = all_calls(load_plan("constant:rps=100", 1, 2s));
  REQUIRE(calls.size() == 200);
  for (std::size_t i = 0; i < calls.size(); ++i) CHECK(calls[i].intended == Instant{} + 10ms * i);
}

TEST_CASE("schedule: a Poisson load has its rate, and the gaps of an exponential distribution") {
  Plan plan = load_plan("poisson:rps=1000", 1, 100s);
  const auto calls = all_calls(plan);
  // Within four standard deviations (sqrt of the expected number).
  CHECK(std::abs(static_cast<double>(calls.size()) - 100'000) < 4 * 316.3);
  std::size_t longer_than_mean = 0;
  for (std::size_t i = 1; i < calls.size(); ++i)
    longer_than_mean += calls[i].intended - calls[i - 1].intended > 1ms ? 1 : 0;
  const double share = static_cast<double>(longer_than_mean) / static_cast<double>(calls.size());
  CHECK(std::abs(share - 0.3679) < 0.01);  // 1/e
  plan.seed = 2;
  CHECK(all_calls(plan).size() != calls.size());
}

TEST_CASE("schedule: a ramp grows from one rate to the other, a burst comes at once") {
  const auto ramp = all_calls(load_plan("ramp:from=0,to=1000", 1, 10s));
  std::size_t early = 0;
  for (const auto& call : ramp) early += call.intended < Instant{} + 5s ? 1 : 0;
  CHECK(std::abs(static_cast<double>(ramp.size()) - 5000) < 300);
  CHECK(std::abs(static_cast<double>(early) - 1250) < 150);  // a quarter of the area
  const auto burst = all_calls(load_plan("burst:size=7,every_ms=1000", 1, 3s));
  REQUIRE(burst.size() == 21);
  CHECK(burst[6].intended == Instant{});
  CHECK(burst[7].intended == Instant{} + 1s);
}

TEST_CASE("schedule: several threads make the same calls as one") {
  const Plan plan = load_plan("poisson:rps=200", 5, 70s);
  std::set<Key> alone;
  for (const auto& call : all_calls(plan)) alone.insert(key(call));
  std::set<Key> together;
  std::size_t count = 0;
  for (unsigned share = 0; share < 3; ++share) {
    for (const auto& call : all_calls(plan, share, 3)) {
      together.insert(key(call));
      ++count;
    }
  }
  CHECK(count == alone.size());
  CHECK(together == alone);
}

TEST_CASE("schedule: calls are numbered per function and minute, and the warm-up is told apart") {
  Plan plan = load_plan("constant:rps=1", 1, 60s);
  plan.warm_up = 61s;
  const auto calls = all_calls(plan);
  REQUIRE(calls.size() == 121);
  CHECK(calls[59].minute == 0);
  CHECK(calls[59].ordinal == 59);
  CHECK(calls[60].minute == 1);
  CHECK(calls[60].ordinal == 0);
  CHECK_FALSE(calls[60].is_measured);
  CHECK(calls[61].is_measured);
}

TEST_CASE("schedule: a workload is played at its speed, with its own run times") {
  Plan plan;
  plan.targets.resize(2);
  plan.speed = 2;
  workload::Workload workload;
  workload.arrivals = {{0s, 1, 5ms}, {10s, 0, 7ms}};
  plan.workload = std::make_shared<const workload::Workload>(workload);
  const auto calls = all_calls(plan);
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].target == 1);
  CHECK(calls[1].intended == Instant{} + 5s);
  CHECK(calls[1].run_time == 7ms);
}

TEST_CASE("request bytes: calls like Invitro's carry its six headers and the run time of each call") {
  Plan plan;
  plan.targets = {{"trace-func-0-1", 0, "trace-func-0-1", "/", "docker.io/x/dirigent_empty_function:latest", 2048}};
  plan.request.method = "POST";
  plan.request.invitro = true;
  const RequestBytes bytes(plan);
  std::string out;
  bytes.append_head(out, 0, 10ms);
  CHECK(out ==
        "POST / HTTP/1.1\r\nHost: trace-func-0-1\r\nUser-Agent: dirigent-bench\r\nWorkload: "
        "docker.io/x/dirigent_empty_function:latest\r\n"
        "Function: trace-func-0-1\r\nRequested_memory: 2048\r\nMultiplier: 80\r\nIo_percentage: 0\r\nContent-Length: "
        "0\r\n"
        "Requested_cpu: 10\r\n\r\n");
}

TEST_CASE("request bytes: the user's headers replace ours, and a body has its length") {
  Plan plan;
  plan.targets = {{"hello", 0, "127.0.0.1:8080", "/function/hello?x=1", "", 128}};
  plan.request.method = "PUT";
  plan.request.headers = {{"User-Agent", "me"}, {"Host", "ignored"}, {"X-A", "b"}};
  plan.request.body = "12345";
  CHECK(RequestBytes(plan).head(0) ==
        "PUT /function/hello?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: me\r\nX-A: b\r\nContent-Length: "
        "5\r\n\r\n");
}

TEST_CASE("measurement: the time inside is what a trace function says, else what the platform measured") {
  Answer answer;
  answer.timing.ms[static_cast<std::size_t>(Phase::function)] = 2.5;
  answer.body = "plain text";
  CHECK(time_inside(answer) == 2500us);
  answer.body = R"({"Status":"OK","Function":"trace-func-1-2","MachineName":"n","ExecutionTime":1234})";
  CHECK(time_inside(answer) == 1234us);
  CHECK(answering_function(answer.body) == "trace-func-1-2");
  answer.body = R"({"ExecutionTime":-5})";
  CHECK(time_inside(answer) == 2500us);
  CHECK(answering_function("Function") == "");
}

TEST_CASE(
    "measurement: overhead is the corrected latency less the time inside; slowdown follows the original's definition") {
  Measurement m(2, true, true);
  Call call;
  call.intended = Instant{} + 1s;
  call.sent = call.intended + 3ms;
  call.run_time = 10ms;
  Answer answer;
  answer.status = 200;
  answer.end_at = call.intended + 20ms;
  answer.body = R"({"Function":"f","ExecutionTime":10000})";
  answer.body_bytes = answer.body.size();
  m.record(call, answer, WallTime{});
  CHECK(m.latency.max() == Duration(20ms).count());
  CHECK(m.service.max() == Duration(17ms).count());
  CHECK(m.late.max() == Duration(3ms).count());
  CHECK(m.overhead.max() == Duration(10ms).count());
  CHECK(std::abs(m.functions[0].log_slowdown - std::log(2.0)) < 1e-9);
  // An answer faster than what was asked for is left out of the slowdown, not counted as a speed-up.
  answer.end_at = call.intended + 5ms;
  m.record(call, answer, WallTime{});
  CHECK(m.functions[0].slowdowns == 1);
  CHECK(m.functions[0].calls == 2);

  // No body: a failure, for calls that need one.
  answer.body = {};
  answer.body_bytes = 0;
  m.record(call, answer, WallTime{});
  CHECK(m.errors.at("empty-answer") == 1);
  answer.status = 503;
  m.record(call, answer, WallTime{});
  answer.reason = "queue-full";
  m.record(call, answer, WallTime{});
  answer = {};
  answer.fault = Fault::timed_out;
  answer.end_at = call.intended + 1s;
  m.record(call, answer, WallTime{});
  CHECK(m.errors == std::map<std::string, std::uint64_t, std::less<>>{
                        {"empty-answer", 1}, {"queue-full", 1}, {"status-503", 1}, {"timed-out", 1}});
  CHECK(m.measured == 6);
  CHECK(m.succeeded == 2);

  // The warm-up is recorded, not measured.
  call.is_measured = false;
  m.record(call, answer, WallTime{});
  CHECK(m.measured == 6);
  CHECK(m.records.size() == 7);
  CHECK(m.records.back().is_warm_up);
  CHECK(m.records.back().connection_timeout);

  Measurement sum(2, true, true);
  sum.merge(m);
  sum.merge(m);
  CHECK(sum.measured == 12);
  CHECK(sum.errors.at("queue-full") == 2);
  CHECK(sum.latency.count() == 4);
}
