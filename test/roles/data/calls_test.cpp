// SPDX-License-Identifier: MIT
//
// What a data plane remembers of its calls: the log of a shard, the access log, and the JSON of the admin port.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "catch.h"
#include "dirigent/base/text.h"
#include "harness.h"
#include "roles/data/access_log.h"
#include "roles/data/call_log.h"
#include "roles/data/calls_api.h"

using namespace dirigent;
using namespace dirigent::test;
using namespace dirigent::roles;

namespace {

void add_call(CallLog& log, std::string_view id, std::string_view function, int status = 200,
              Reason reason = Reason::none, bool cold = false, std::int64_t started_us = 1'000'000,
              std::uint32_t duration_us = 1000) {
  CallRecord& record = log.next();
  record.started_us = started_us;
  record.duration_us = duration_us;
  record.status = static_cast<std::uint16_t>(status);
  record.reason = static_cast<std::uint8_t>(reason);
  record.cold = cold;
  record.revision = 3;
  record.has_phases = false;
  record.set_text(id, function, "node1");
}

std::vector<std::string> ids(const std::vector<CallRecord>& records) {
  std::vector<std::string> found;
  for (const auto& record : records) found.emplace_back(record.call_id());
  return found;
}

template <class Value>
Value on_loop(Plane& plane, std::function<io::Task<Value>()> work) {
  auto promise = std::make_shared<std::promise<Value>>();
  auto result = promise->get_future();
  plane.on_loop([&] {
    auto task = work();
    asio::co_spawn(plane.loop().context().get_executor(), std::move(task),
                   [promise](std::exception_ptr, Result<Value> value) {
                     if (value) {
                       promise->set_value(std::move(*value));
                     } else {
                       promise->set_exception(std::make_exception_ptr(std::runtime_error(value.error().message)));
                     }
                   });
  });
  return result.get();
}

std::vector<CallRecord> calls_of(Plane& plane, CallQuery query = {}) {
  auto calls = on_loop<DataPlane::Calls>(plane, [&] { return plane.plane().calls(query, {}); });
  std::vector<CallRecord> all;
  for (auto& shard : calls.by_shard) all.insert(all.end(), shard.begin(), shard.end());
  return all;
}

// A file name of its own, removed at the end.
struct TemporaryFile {
  std::string path;
  TemporaryFile() {
    char name[] = "/tmp/dirigent-test-XXXXXX";
    ::close(::mkstemp(name));
    path = name;
  }
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    std::filesystem::remove(path + ".1", ignored);
  }
  std::string read() const {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

}  // namespace

TEST_CASE("call log: keeps the newest, and finds them by id, function, error and cold start") {
  CallLog log(4);
  CHECK(log.find({}).empty());
  add_call(log, "a", "f");
  add_call(log, "b", "g", 503, Reason::queue_full);
  add_call(log, "c", "f", 500);
  add_call(log, "d", "f", 200, Reason::none, true);
  CHECK(ids(log.find({})) == std::vector<std::string>{"a", "b", "c", "d"});
  add_call(log, "e", "g.team");
  CHECK(ids(log.find({})) == std::vector<std::string>{"b", "c", "d", "e"});
  CallQuery query;
  query.limit = 2;
  CHECK(ids(log.find(query)) == std::vector<std::string>{"d", "e"});
  query.after = 2;
  CHECK(ids(log.find(query)) == std::vector<std::string>{"c", "d"});
  query = {};
  query.call_id = "c";
  CHECK(ids(log.find(query)) == std::vector<std::string>{"c"});
  query.call_id = "a";
  CHECK(log.find(query).empty());
  query = {};
  query.function = "g.team";
  CHECK(ids(log.find(query)) == std::vector<std::string>{"e"});
  query = {};
  query.errors_only = true;
  CHECK(ids(log.find(query)) == std::vector<std::string>{"b", "c"});
  query = {};
  query.cold_only = true;
  CHECK(ids(log.find(query)) == std::vector<std::string>{"d"});
  CHECK(log.newest() == 5);
}

TEST_CASE("call log: texts at their limits fit") {
  CallLog log(1);
  const std::string id(64, 'i');
  const std::string function = std::string(63, 'f') + "." + std::string(63, 'n');
  const std::string node(64, 'x');
  log.next().set_text(id, function, node);
  const CallRecord found = log.find({}).front();
  CHECK(found.call_id() == id);
  CHECK(found.function() == function);
  CHECK(found.node() == node);
}

TEST_CASE("call log: the recent calls are those in the window, or as far back as the log reaches") {
  CallLog log(4);
  add_call(log, "old", "f", 200, Reason::none, false, 1'000'000, 1000);
  add_call(log, "a", "f", 200, Reason::none, true, 9'000'000, 2000);
  add_call(log, "b", "f", 502, Reason::bad_response, false, 9'500'000, 3000);
  RecentWindow recent = log.recent(10'000'000, 5s);
  CHECK(recent.span == 5s);
  REQUIRE(recent.functions.size() == 1);
  CHECK(recent.functions["f"].count == 2);
  CHECK(recent.functions["f"].errors == 1);
  CHECK(recent.functions["f"].cold == 1);
  CHECK(recent.functions["f"].durations_us == std::vector<std::uint32_t>{3000, 2000});
  add_call(log, "c", "f", 200, Reason::none, false, 9'600'000, 1000);
  add_call(log, "d", "f", 200, Reason::none, false, 9'700'000, 1000);
  recent = log.recent(10'000'000, 60s);
  CHECK(recent.functions["f"].count == 4);
  CHECK(recent.span == 998'000us);  // since the end of "a", which is the oldest that is left
}

TEST_CASE("calls: a request leaves its id, function, sandbox, sizes and phases") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("answer")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  fetch(plane.address(), "POST /x HTTP/1.1\r\nHost: f\r\nX-Call-Id: call-1\r\nContent-Length: 3\r\n\r\nabc");
  REQUIRE(plane.eventually([&] { return !calls_of(plane).empty(); }));
  const CallRecord call = calls_of(plane).back();
  CHECK(call.call_id() == "call-1");
  CHECK(call.function() == "f");
  CHECK(call.node() == "node1");
  CHECK(call.sandbox == 1);
  CHECK(call.sandboxes_tried == 1);
  CHECK(call.revision == 1);
  CHECK(call.status == 200);
  CHECK(call.why() == Reason::none);
  CHECK_FALSE(call.cold);
  CHECK(call.has_phases);
  CHECK(call.bytes_in == 3);
  CHECK(call.bytes_out == 6);
  std::uint64_t phases = 0;
  for (const auto phase : call.phases_us) phases += phase;
  CHECK(phases <= call.duration_us);
  const std::int64_t now_us = io::Loop::wall_now().time_since_epoch() / 1us;
  CHECK(call.started_us <= now_us);
  CHECK(call.started_us > now_us - 60'000'000);
}

TEST_CASE("calls: what the platform answers is remembered with its reason, its own health is not") {
  FakeSandbox sandbox([](Wire& wire, FakeSandbox&) {
    if (read_request(wire)) wire.write("garbage\r\n\r\n");
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  fetch(plane.address(), get("/healthz", "127.0.0.1"));
  fetch(plane.address(), "GET / HTTP/1.1\r\nHost: nobody\r\nX-Call-Id: lost\r\n\r\n");
  fetch(plane.address(), "GET / HTTP/1.1\r\n\r\n");
  fetch(plane.address(), get("/", "f"));
  REQUIRE(plane.eventually([&] { return calls_of(plane).size() >= 3; }));
  const auto calls = calls_of(plane);
  REQUIRE(calls.size() == 3);
  CHECK(calls[0].call_id() == "lost");
  CHECK(calls[0].status == 404);
  CHECK(calls[0].why() == Reason::not_found);
  CHECK(calls[0].function().empty());
  CHECK(calls[1].why() == Reason::bad_request);
  CHECK(calls[2].status == 502);
  CHECK(calls[2].why() == Reason::bad_response);
  CHECK(calls[2].sandbox == 1);
  CHECK(calls[2].bytes_out > 0);
}

TEST_CASE("calls: those of every shard are found, and a cursor goes on behind them") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("")));
  Plane plane([](ProxyOptions& options) { options.shards = 2; });
  plane.route("f", {sandbox.address()});
  const auto call = [&](int i) {
    fetch(plane.address(), fmt::format("GET / HTTP/1.1\r\nHost: f\r\nX-Call-Id: c{}\r\nConnection: close\r\n\r\n", i));
  };
  for (int i = 0; i < 20; ++i) call(i);
  REQUIRE(plane.eventually([&] { return calls_of(plane).size() == 20; }));
  auto all = on_loop<DataPlane::Calls>(plane, [&] { return plane.plane().calls({}, {}); });
  REQUIRE(all.cursor.size() == 2);
  CHECK(all.cursor[0] + all.cursor[1] == 20);
  for (int i = 20; i < 25; ++i) call(i);
  const auto newer = [&] {
    auto more = on_loop<DataPlane::Calls>(plane, [&] { return plane.plane().calls({}, all.cursor); });
    std::set<std::string> found;
    for (const auto& shard : more.by_shard) {
      for (const auto& record : shard) found.emplace(record.call_id());
    }
    return found;
  };
  CHECK(plane.eventually([&] { return newer() == std::set<std::string>{"c20", "c21", "c22", "c23", "c24"}; }));
}

TEST_CASE("calls: the query of the admin port is read strictly") {
  const auto request = parse_calls_query("id=a%2Db&function=f.default&errors=true&cold=0&limit=7&after=12.0.3");
  REQUIRE(request.has_value());
  CHECK(request->query.call_id == "a-b");
  CHECK(request->query.function == "f");
  CHECK(request->query.errors_only);
  CHECK_FALSE(request->query.cold_only);
  CHECK(request->query.limit == 7);
  CHECK(request->after == std::vector<std::uint64_t>{12, 0, 3});
  for (const char* wrong :
       {"limit=0", "limit=10001", "limit=x", "errors=maybe", "after=1.x", "after=-1", "unknown=1"}) {
    INFO(wrong);
    CHECK_FALSE(parse_calls_query(wrong).has_value());
  }
  CHECK(*parse_recent_query("") == 10s);
  CHECK(*parse_recent_query("window_ms=250") == 250ms);
  CHECK_FALSE(parse_recent_query("window_ms=0").has_value());
  CHECK_FALSE(parse_recent_query("x=1").has_value());
}

TEST_CASE("calls: the JSON has the phases of a cold call, and what a client chose cannot break it") {
  CallLog log(2);
  add_call(log, "a\"\n", "f", 200, Reason::none, true);
  CallRecord cold = log.find({}).front();
  cold.has_phases = true;
  cold.phases_us = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  DataPlane::Calls calls;
  calls.by_shard = {{cold}};
  calls.cursor = {1, 0};
  const std::string text = calls_json(calls, 100);
  CHECK(text.find(R"("call_id":"a\"\u000a")") != std::string::npos);
  CHECK(text.find(R"("revision":"f-00003")") != std::string::npos);
  CHECK(
      text.find(
          R"("phases_us":{"queue":1,"schedule":2,"create":3,"network":4,"start":5,"probe":6,"route":7,"proxy":8,"fn":9})") !=
      std::string::npos);
  CHECK(text.find(R"("cursor":"1.0")") != std::string::npos);
}

TEST_CASE("access log: a line has the keys of Knative's, the phases and the reason") {
  CallLog log(1);
  add_call(log, "call-1", "f", 502, Reason::bad_response, false, 1'700'000'000'123'456, 2'000'007);
  CallRecord record = log.find({}).front();
  record.sandbox = 0x1f;
  record.bytes_in = 3;
  record.bytes_out = 4;
  RequestWords words = words_of_head(
      "GET /a?b=\"c\" HTTP/1.1\r\nHost: f\r\nUser-Agent: curl/8\r\nreferer: there\r\n"
      "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n");
  words.remote_address = "127.0.0.1";
  std::string line;
  write_access_line(record, words, line);
  CHECK(
      line ==
      R"({"time":"2023-11-14T22:13:20.123456Z","httpRequest":{"requestMethod":"GET","requestUrl":"/a?b=\"c\"","requestSize":"3",)"
      R"("status":502,"responseSize":"4","userAgent":"curl/8","remoteIp":"127.0.0.1","referer":"there","latency":"2.000007s"},)"
      R"("traceId":"4bf92f3577b34da6a3ce929d0e0e4736","callId":"call-1","function":"f","revision":"f-00003",)"
      R"("sandbox":"000000000000001f","node":"node1","cold":false,"reason":"bad-response"})");
  record.has_phases = true;
  record.phases_us[0] = 1500;
  write_access_line(record, {}, line);
  CHECK(line.find(R"("queue_ms":1.500,"proxy_ms":0.000,"fn_ms":0.000,)") != std::string::npos);
}

TEST_CASE("access log: every call is a line, and a file that was moved away is made again") {
  TemporaryFile file;
  FakeSandbox sandbox(FakeSandbox::answering(ok("answer")));
  {
    Plane plane([&](ProxyOptions& options) { options.access_log = file.path; });
    plane.route("f", {sandbox.address()});
    fetch(plane.address(), "GET /first?x HTTP/1.1\r\nHost: f\r\nUser-Agent: me\r\nX-Call-Id: c1\r\n\r\n");
    fetch(plane.address(), "GET /second HTTP/1.1\r\nHost: nobody\r\n\r\n");
    REQUIRE(plane.eventually([&] { return file.read().find("/second") != std::string::npos; }));
    std::filesystem::rename(file.path, file.path + ".1");
    fetch(plane.address(), "GET /third HTTP/1.1\r\nHost: f\r\n\r\n");
    CHECK(plane.eventually([&] { return file.read().find("/third") != std::string::npos; }));
    CHECK(file.read().find("/first") == std::string::npos);
    fetch(plane.address(), "GET /last HTTP/1.1\r\nHost: f\r\n\r\n");
  }
  // What was handed over is written before the data plane is gone.
  CHECK(file.read().find("/last") != std::string::npos);
  std::ifstream moved(file.path + ".1");
  std::string line;
  REQUIRE(std::getline(moved, line));
  CHECK(line.find(R"("requestMethod":"GET","requestUrl":"/first?x")") != std::string::npos);
  CHECK(line.find(R"("userAgent":"me","remoteIp":"127.0.0.1")") != std::string::npos);
  CHECK(line.find(R"("callId":"c1","function":"f")") != std::string::npos);
  REQUIRE(std::getline(moved, line));
  CHECK(line.find(R"("requestUrl":"/second")") != std::string::npos);
  CHECK(line.find(R"("reason":"not-found")") != std::string::npos);
}

TEST_CASE("access log: a sample of 0 logs nothing, and a path that cannot be opened is told") {
  TemporaryFile file;
  FakeSandbox sandbox(FakeSandbox::answering(ok("answer")));
  {
    Plane plane([&](ProxyOptions& options) {
      options.access_log = file.path;
      options.access_log_sample = 0;
    });
    plane.route("f", {sandbox.address()});
    for (int i = 0; i < 10; ++i) fetch(plane.address(), get("/", "f"));
  }
  CHECK(file.read().empty());
  const auto opened = AccessLog::open("/nowhere/at/all");
  REQUIRE_FALSE(opened.has_value());
  CHECK(opened.error().message.find("/nowhere/at/all") != std::string::npos);
}

TEST_CASE("access log: whoever cannot be written to loses lines, and counts them") {
  TemporaryFile pipe;
  std::filesystem::remove(pipe.path);
  REQUIRE(::mkfifo(pipe.path.c_str(), 0600) == 0);
  // A reader that never reads: the pipe fills up, and its writer waits.
  const int reader = ::open(pipe.path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(reader >= 0);
  auto log = AccessLog::open(pipe.path);
  REQUIRE(log.has_value());
  const std::string line(1000, 'x');
  for (int i = 0; i < 20'000 && (*log)->dropped() == 0; ++i) (*log)->add(line);
  const auto dropped = (*log)->dropped();
  CHECK(dropped > 0);
  ::close(reader);  // the writer is told that nobody reads, and ends
  log->reset();
  const auto without_reader = AccessLog::open(pipe.path);
  CHECK_FALSE(without_reader.has_value());
}
