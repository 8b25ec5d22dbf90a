// SPDX-License-Identifier: MIT
//
// `ctl trace` and `ctl top` against the real API of a fake control plane, and a fake admin port of a data plane.
#include "cli/ctl/ctl.h"
#include "catch.h"
#include "cli/ctl/top_table.h"
#include "fakes/contains.h"
#include "fakes/fake_control_service.h"
#include "roles/control/http_api.h"
#include "server_thread.h"

namespace dirigent::cli {
namespace {

constexpr const char* kCold =
    R"({"call_id":"call-1","function":"hello","revision":"hello-00001","sandbox":"000000000000001f","node":"laptop","reason":"",)"
    R"("status":200,"cold":true,"started_us":1700000000123456,"duration_us":8300,"bytes_in":3,"bytes_out":24,"sandboxes_tried":1,)"
    R"("phases_us":{"queue":30,"schedule":50,"create":3100,"network":920,"start":2310,"probe":1020,"route":110,"proxy":20,"fn":670}})";
constexpr const char* kRefused =
    R"({"call_id":"call-2","function":"hello","revision":"hello-00001","sandbox":"","node":"","reason":"queue-full",)"
    R"("status":503,"cold":false,"started_us":1700000001000000,"duration_us":200,"bytes_in":0,"bytes_out":300,"sandboxes_tried":0,)"
    R"("phases_us":{}})";
constexpr const char* kRecent =
    R"({"window_ms":10000,"functions":[)"
    R"({"name":"","revision":"","rate":0.1,"cold_per_minute":0,"count":1,"errors":1,"cold":0,"waiting":0,"in_flight":0,"durations_us":[100]},)"
    R"({"name":"hello","revision":"hello-00001","rate":12.5,"cold_per_minute":6,"count":125,"errors":5,"cold":1,"waiting":2,"in_flight":3,)"
    R"("durations_us":[400,500,600,8200]}]})";

// A data plane's admin port: answers what it is told to, and remembers what it was asked.
struct FakePlane {
  std::mutex mutex;
  std::vector<std::string> asked;
  test::ServerThread server{
      [this](io::HttpRequest request) -> asio::awaitable<io::HttpResponse, asio::io_context::executor_type> {
        const std::lock_guard lock(mutex);
        asked.push_back(request.target);
        if (request.path() == "/v1/recent") co_return io::json_response(200, kRecent);
        const bool wants_other = request.target.find("id=nobody") != std::string::npos;
        const bool wants_errors = request.target.find("errors=true") != std::string::npos;
        std::string calls = wants_other ? "" : wants_errors ? kRefused : std::string(kCold);
        if (request.target.find("id=") == std::string::npos && !wants_errors) calls += std::string(",") + kRefused;
        co_return io::json_response(200, "{\"calls\":[" + calls + "],\"cursor\":\"2\"}");
      }};
};

struct Run {
  int status = -1;
  std::string out;
  std::string err;
};

struct Cluster {
  fakes::FakeControlService service;
  FakePlane plane;
  test::ServerThread api{roles::make_api(service)};
  Cluster() { service.data_plane_list = {{DataPlaneId{"dp1"}, "127.0.0.1:18080", 100ms, plane.server.address()}}; }
  Run ctl(std::vector<std::string> words) {
    Run run;
    words.insert(words.end(), {"--server", api.address()});
    run.status = run_ctl(words, Terminal([&](std::string_view text) { run.out += text; },
                                         [&](std::string_view text) { run.err += text; }, false));
    return run;
  }
};

TEST_CASE("ctl trace: one call is shown with its sandbox, sizes and phases") {
  Cluster c;
  const Run run = c.ctl({"trace", "call-1"});
  CHECK(run.status == 0);
  CHECK_CONTAINS(run.out, "call call-1  hello-00001  status 200  at ");
  CHECK_CONTAINS(run.out, "  sandbox 000000000000001f on node laptop   3 bytes in, 24 bytes out\n");
  CHECK_CONTAINS(run.out, "cold start on laptop ");
  CHECK_CONTAINS(run.out, "total    8.23 ms\n");
  CHECK_CONTAINS(run.out, "  create ");
  CHECK_CONTAINS(run.out, "3.10 ms\n");
  CHECK_CONTAINS(run.out, "  8.30 ms to the end of the answer, 0.07 ms of them behind its head\n");
  CHECK(c.plane.asked.back() == "/v1/calls?&id=call-1");
}

TEST_CASE("ctl trace: a call that nobody remembers is not found, status 3") {
  Cluster c;
  const Run run = c.ctl({"trace", "nobody"});
  CHECK(run.status == 3);
  CHECK_CONTAINS(run.err, "error: no call \"nobody\" among the last ones of the data plane\n");
}

TEST_CASE("ctl trace: lists the last calls, filtered by the data plane") {
  Cluster c;
  Run run = c.ctl({"trace"});
  CHECK(run.status == 0);
  CHECK_CONTAINS(
      run.out,
      "  200        8.30 ms  hello-00001               call-1                      000000000000001f@laptop   cold\n");
  CHECK_CONTAINS(run.out,
                 "  503        0.20 ms  hello-00001               call-2                      -                        "
                 " queue-full\n");
  CHECK(c.plane.asked.back() == "/v1/calls?limit=20");
  run = c.ctl({"trace", "--errors", "--cold", "--function", "hello", "--tail", "5", "-o", "name"});
  CHECK(run.out == "call-2\n");
  CHECK(c.plane.asked.back() == "/v1/calls?limit=5&function=hello&errors=true&cold=true");
  run = c.ctl({"trace", "-o", "json"});
  CHECK(run.out == std::string(kCold) + "\n" + kRefused + "\n");
}

TEST_CASE("ctl trace: misuse is told without asking anybody") {
  Cluster c;
  CHECK(c.ctl({"trace", "-f", "call-1"}).status == 2);
  CHECK(c.ctl({"trace", "--tail", "x"}).status == 2);
  CHECK(c.ctl({"trace", "--function", "No Name"}).status == 2);
  CHECK(c.plane.asked.empty());
}

TEST_CASE("ctl trace: without a data plane, or with one that cannot be asked, it says why") {
  Cluster c;
  c.service.data_plane_list.clear();
  Run run = c.ctl({"trace"});
  CHECK(run.status == 1);
  CHECK_CONTAINS(run.err, "no data plane is connected");
  c.service.data_plane_list = {{DataPlaneId{"dp1"}, "127.0.0.1:18080", 100ms, ""}};
  run = c.ctl({"trace"});
  CHECK(run.status == 1);
  CHECK_CONTAINS(run.err, "data plane dp1 has no admin port");
  // Port 1 is nobody's.
  c.service.data_plane_list = {{DataPlaneId{"dp1"}, "127.0.0.1:18080", 100ms, "127.0.0.1:1"}};
  run = c.ctl({"trace"});
  CHECK(run.status == 4);
  CHECK_CONTAINS(run.err, "data plane dp1");
  CHECK_CONTAINS(run.err, "data.admin_listen");
  // One that answers is enough; the other is told.
  c.service.data_plane_list.push_back({DataPlaneId{"dp2"}, "127.0.0.1:18081", 100ms, c.plane.server.address()});
  run = c.ctl({"trace", "call-1"});
  CHECK(run.status == 0);
  CHECK_CONTAINS(run.out, "call call-1");
  CHECK_CONTAINS(run.err, "data plane dp1");
}

TEST_CASE("ctl top: one look joins what data planes and control plane say") {
  Cluster c;
  CHECK(c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"}).status == 0);
  CHECK(c.ctl({"deploy", "idle", "--image", "builtin:hello", "-q"}).status == 0);
  Run run = c.ctl({"top", "--once"});
  CHECK(run.status == 0);
  CHECK_CONTAINS(run.out, "dirigent ");
  CHECK_CONTAINS(run.out, "12.6 rps   2 queued   cold 6.0/min\n");
  CHECK_CONTAINS(run.out, "FUNCTION       REV    RPS   INFL  QUEUE  SANDBOX  WANT  MODE    P50  P99  COLD/MIN  ERR\n");
  CHECK_CONTAINS(run.out, "hello          00001  12.5  3     2      ");
  CHECK_CONTAINS(run.out, "0.5  8.2  6.0       4.0%\n");
  CHECK_CONTAINS(run.out,
                 "(no function)  -      0.1   0     0      0        0     -       0.1  0.1  0.0       100.0%\n");
  CHECK(c.plane.asked.back() == "/v1/recent?window_ms=10000");
  run = c.ctl({"top", "--once", "--window", "1m", "--limit", "1", "--sort", "errors", "--no-headers"});
  CHECK_CONTAINS(run.out, "(no function)");
  CHECK_CONTAINS(run.out, "... and 1 more (--limit)\n");
  CHECK(c.plane.asked.back() == "/v1/recent?window_ms=60000");
  run = c.ctl({"top", "-o", "json"});
  CHECK_CONTAINS(run.out,
                 R"({"name":"hello","revision":"hello-00001","requests_per_second":12.500,"in_flight":3,"waiting":2,)");
  CHECK_CONTAINS(run.out, R"("p50_ms":0.500,"p99_ms":8.200,"cold_per_minute":6.000,"errors_percent":4.000})");
  CHECK(c.ctl({"top", "--once", "--sort", "name"}).status == 2);
  CHECK(c.ctl({"top", "--once", "--window", "1ms"}).status == 2);
  CHECK(c.ctl({"top", "--once", "-o", "name"}).status == 2);
}

TEST_CASE("top: quantiles of several data planes are weighted by their calls") {
  // 99 fast calls here and one slow one there: the median is fast, whatever each says alone.
  CHECK(weighted_quantile({{1, 33}, {2, 33}, {3, 33}, {100, 1}}, 0.5) == 2);
  CHECK(weighted_quantile({{1, 33}, {2, 33}, {3, 33}, {100, 1}}, 0.99) == 3);
  CHECK(weighted_quantile({{1, 33}, {2, 33}, {3, 33}, {100, 1}}, 1) == 100);
  CHECK(weighted_quantile({}, 0.5) == 0);
}

}  // namespace
}  // namespace dirigent::cli
