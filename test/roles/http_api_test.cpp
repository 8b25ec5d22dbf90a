// SPDX-License-Identifier: MIT
#include "roles/control/http_api.h"

#include "fakes/contains.h"
#include "fakes/fake_control_service.h"
#include "fakes/full_function.h"
#include "roles/api_harness.h"
#include "roles/control/json_text.h"

namespace dirigent::roles {
namespace {

using fakes::header;

struct Fixture {
  fakes::FakeControlService service;
  fakes::ServedHandler api{make_api(service)};

  io::HttpResponse put_hello(std::string query = {}) {
    return api.ask("PUT", "/v1/functions/hello" + query, R"({"image":"builtin:hello"})");
  }
};

TEST_CASE("api: a new function answers 201 with its place and tag, the same again 200 without a new revision") {
  Fixture f;
  const auto created = f.put_hello();
  CHECK(created.status == 201);
  CHECK(header(created, "Location") == "/v1/functions/hello");
  CHECK_CONTAINS(header(created, "Content-Type"), "application/json");
  CHECK_CONTAINS(created.body, R"("url":"http://127.0.0.1:18080/function/hello")");
  CHECK_CONTAINS(created.body, R"("revision_name":"hello-00001")");
  CHECK_CONTAINS(created.body, R"("changed":true)");
  const auto again = f.put_hello();
  CHECK(again.status == 200);
  CHECK_CONTAINS(again.body, R"("changed":false)");
  CHECK(header(again, "ETag") == header(created, "ETag"));
}

TEST_CASE("api: POST creates only, PUT does so with create_only or If-None-Match") {
  Fixture f;
  CHECK(f.api.ask("POST", "/v1/functions", R"({"name":"hello","image":"builtin:hello"})").status == 201);
  const auto second = f.api.ask("POST", "/v1/functions", R"({"name":"hello","image":"builtin:echo"})");
  CHECK(second.status == 409);
  CHECK(header(second, "Content-Type") == "application/problem+json");
  CHECK(header(second, "X-Dirigent-Reason") == "already-exists");
  CHECK(f.put_hello("?create_only=1").status == 409);
  CHECK(f.api.ask("PUT", "/v1/functions/hello", R"({"image":"builtin:echo"})", {{"If-None-Match", "*"}}).status == 409);
  CHECK(f.put_hello("?create_only=0").status == 200);
}

TEST_CASE("api: verify=0 reaches the role, the default is to verify") {
  Fixture f;
  f.put_hello();
  CHECK(f.service.deployed.back().verify);
  f.put_hello("?verify=0");
  CHECK_FALSE(f.service.deployed.back().verify);
}

TEST_CASE("api: a change under If-Match happens only on the revision that was read") {
  Fixture f;
  const auto created = f.put_hello();
  const std::string etag = header(created, "ETag");
  CHECK(f.api.ask("PATCH", "/v1/functions/hello", R"({"queue_depth":5})", {{"If-Match", etag}}).status == 200);
  const auto stale = f.api.ask("PATCH", "/v1/functions/hello", R"({"queue_depth":6})", {{"If-Match", etag}});
  CHECK(stale.status == 412);
  CHECK(f.api.ask("PUT", "/v1/functions/hello", R"({"image":"builtin:echo"})", {{"If-Match", etag}}).status == 412);
  CHECK(f.api.ask("DELETE", "/v1/functions/hello", {}, {{"If-Match", etag}}).status == 412);
  CHECK(f.api.ask("PUT", "/v1/functions/other", R"({"image":"builtin:echo"})", {{"If-Match", "*"}}).status == 412);
  CHECK_FALSE(f.service.functions.contains(FunctionName{"other"}));
  CHECK(f.service.functions.at(FunctionName{"hello"}).function.revisions.back().spec.limits.queue_depth == 5);
}

TEST_CASE("api: an unchanged function answers 304 to its tag") {
  Fixture f;
  f.put_hello();
  const auto read = f.api.ask("GET", "/v1/functions/hello");
  CHECK(read.status == 200);
  CHECK_CONTAINS(read.body, R"("invocable":true)");
  CHECK(f.api.ask("GET", "/v1/functions/hello", {}, {{"If-None-Match", header(read, "ETag")}}).status == 304);
  CHECK(f.api.ask("GET", "/v1/functions/hello", {}, {{"If-None-Match", "\"x\""}}).status == 200);
}

TEST_CASE("api: a patch keeps what it does not name") {
  Fixture f;
  f.api.ask("PUT", "/v1/functions/hello", R"({"image":"builtin:hello","timeout":"9s"})");
  CHECK(f.api.ask("PATCH", "/v1/functions/hello", R"({"scale_max":3})").status == 200);
  const RevisionSpec& spec = f.service.deployed.back().spec;
  CHECK(spec.limits.timeout == 9s);
  CHECK(spec.scaling.max_scale == 3);
  CHECK(spec.image == "builtin:hello");
}

TEST_CASE("api: deleting takes the function away, a second time it is not there") {
  Fixture f;
  f.put_hello();
  const auto gone = f.api.ask("DELETE", "/v1/functions/hello");
  CHECK(gone.status == 204);
  CHECK(gone.body.empty());
  CHECK(f.api.ask("DELETE", "/v1/functions/hello").status == 404);
}

TEST_CASE("api: an unknown function is a 404 that suggests the nearest name") {
  Fixture f;
  f.put_hello();
  for (const auto& [method, path] : {std::pair{"GET", "/v1/functions/helo"},
                                     {"DELETE", "/v1/functions/helo"},
                                     {"GET", "/v1/functions/helo/logs"},
                                     {"GET", "/v1/functions/helo/events"}}) {
    const auto answer = f.api.ask(method, path);
    CHECK(answer.status == 404);
    CHECK_CONTAINS(answer.body, R"(did you mean \"hello\"?)");
  }
  CHECK(f.api.ask("POST", "/v1/functions/helo/scale", R"({"scale":1})").status == 404);
}

TEST_CASE("api: a wrong body changes nothing and names the field") {
  Fixture f;
  const auto answer = f.api.ask("PUT", "/v1/functions/hello", R"({"image":"builtin:hello","prt":80})");
  CHECK(answer.status == 400);
  CHECK_CONTAINS(answer.body, R"(unknown field \"prt\" (did you mean \"port\"?))");
  CHECK_CONTAINS(answer.body, R"("reason":"invalid-argument")");
  CHECK(f.service.deployed.empty());
}

TEST_CASE("api: wrong paths, methods and queries say what would be right") {
  Fixture f;
  f.put_hello();
  const std::tuple<std::string, std::string, int, std::string> cases[] = {
      {"GET", "/v2/functions", 404, "/v1/functions"},
      {"GET", "/", 404, "/v1/functions"},
      {"GET", "/v1/functions/hello/scal", 404, "/scale"},
      {"GET", "/v1/functions/hello/scale/x", 404, "nothing at"},
      {"GET", "/v1/functions/HELLO", 400, "'H'"},
      {"GET", "/v1/functions/%zz", 400, "escape"},
      {"GET", "/v1/functions?name_only=1", 400, "did you mean"},
      {"GET", "/v1/functions/hello/events?after=x", 400, "after"},
      {"GET", "/v1/functions/hello/events?wait_ms=60001", 400, "0..60000"},
      {"GET", "/v1/functions/hello/logs?lines=0", 400, "lines"},
      {"GET", "/v1/functions/hello/logs?sandbox=zz", 400, "sandbox"},
      {"PUT", "/v1/functions/hello?verify=maybe", 400, "verify"},
      {"POST", "/v1/nodes/n/empty", 404, "/drain"},
  };
  for (const auto& [method, path, status, text] : cases) {
    INFO(method << " " << path);
    const auto answer = f.api.ask(method, path);
    CHECK(answer.status == status);
    CHECK_CONTAINS(answer.body, text);
  }
  const std::tuple<std::string, std::string, std::string> refused[] = {
      {"DELETE", "/v1/functions", "GET, POST"},
      {"POST", "/v1/functions/hello", "GET, PUT, PATCH, DELETE"},
      {"GET", "/v1/functions/hello/scale", "POST"},
      {"POST", "/v1/functions/hello/logs", "GET"},
      {"POST", "/v1/nodes", "GET"},
      {"GET", "/v1/nodes/n/cordon", "POST"},
      {"POST", "/v1/cluster", "GET"},
      {"POST", "/healthz", "GET, HEAD"}};
  for (const auto& [method, path, allowed] : refused) {
    INFO(method << " " << path);
    const auto answer = f.api.ask(method, path);
    CHECK(answer.status == 405);
    CHECK(header(answer, "Allow") == allowed);
  }
}

TEST_CASE("api: a scale is set and given back") {
  Fixture f;
  f.put_hello();
  const auto set = f.api.ask("POST", "/v1/functions/hello/scale", R"({"scale":3})");
  CHECK(set.status == 200);
  CHECK_CONTAINS(set.body, R"("manual_scale":3)");
  CHECK_CONTAINS(f.api.ask("POST", "/v1/functions/hello/scale", R"({"scale":null})").body, R"("manual_scale":null)");
  CHECK(f.api.ask("POST", "/v1/functions/hello/scale", R"({"scale":1.5})").status == 400);
}

TEST_CASE("api: events come after the number given, with the wait that was asked for") {
  Fixture f;
  f.put_hello();
  const auto all = f.api.ask("GET", "/v1/functions/hello/events");
  CHECK_CONTAINS(all.body, R"("kind":"created")");
  const auto later = f.api.ask("GET", "/v1/functions/hello/events?after=2&wait_ms=1500");
  CHECK_FALSE(fakes::contains(later.body, R"("kind":"created")"));
  CHECK_CONTAINS(later.body, R"("kind":"traffic")");
  CHECK(f.service.event_waits.back() == std::pair<std::uint64_t, Duration>(2, 1500ms));
}

TEST_CASE("api: logs of a hostile function are valid JSON") {
  Fixture f;
  f.put_hello();
  f.service.log_lines = {{SandboxId{1}, NodeId{"n1"}, WallTime(5us), false, "one"},
                         {SandboxId{2}, NodeId{"n1"}, WallTime(6us), true, "\xff\x1b[31m\"two"}};
  const auto answer = f.api.ask("GET", "/v1/functions/hello/logs?lines=1");
  CHECK(answer.status == 200);
  CHECK_CONTAINS(answer.body, "\\u001b[31m\\\"two");
  CHECK_FALSE(fakes::contains(answer.body, "one"));
  CHECK_CONTAINS(f.api.ask("GET", "/v1/functions/hello/logs?sandbox=0000000000000001").body, "\"one\"");
}

TEST_CASE("api: nodes are listed, cordoned and given back") {
  Fixture f;
  NodeView node;
  node.info.id = NodeId{"laptop"};
  node.status = "ready";
  node.info.capacity = {Millicpu{2000}, 8_GiB};
  f.service.node_list = {node};
  CHECK_CONTAINS(f.api.ask("GET", "/v1/nodes").body, R"("name":"laptop","status":"ready")");
  CHECK_CONTAINS(f.api.ask("POST", "/v1/nodes/laptop/cordon").body, R"("status":"cordoned")");
  CHECK_CONTAINS(f.api.ask("POST", "/v1/nodes/laptop/uncordon").body, R"("status":"ready")");
  CHECK_CONTAINS(f.api.ask("POST", "/v1/nodes/laptop/drain").body, R"("status":"drained")");
  CHECK_CONTAINS(f.api.ask("POST", "/v1/nodes/laptop/uncordon").body, R"("status":"ready")");
  const auto unknown = f.api.ask("POST", "/v1/nodes/labtop/cordon");
  CHECK(unknown.status == 404);
  CHECK_CONTAINS(unknown.body, "laptop");
}

namespace {
// What `part` says, `whole` says too; of arrays, element by element.
bool is_part(const Json& part, const Json& whole) {
  if (part.is_object()) {
    return whole.is_object() && std::all_of(part.items().begin(), part.items().end(), [&](const auto& item) {
             return whole.contains(item.key()) && is_part(item.value(), whole.at(item.key()));
           });
  }
  if (part.is_array()) {
    return whole.is_array() && std::equal(part.begin(), part.end(), whole.begin(), whole.end(), is_part);
  }
  return part == whole;
}
}  // namespace

TEST_CASE("api: a summary says nothing that the whole list does not, whatever the texts hold") {
  Fixture f;
  f.put_hello();
  auto& view = f.service.functions.at(FunctionName{"hello"});
  view.invocable_reason = "a \"quoted\" \\ back\nslash, \t and \x01, \xc3\xa9 and \xff";
  view.function.revisions.back().spec.image = "exec:/bin/\"odd\"";
  view.requests_per_second = 1.0 / 3;
  view.sandboxes.resize(2);
  view.sandboxes[1].status.id = SandboxId{7};
  view.last_scaling.emplace();
  view.last_scaling->panicking = true;
  const auto both = [&] {
    auto summary = parse_json(f.api.ask("GET", "/v1/functions?summary=1").body);
    auto whole = parse_json(f.api.ask("GET", "/v1/functions").body);
    REQUIRE(summary);
    REQUIRE(whole);
    CHECK((*summary)["functions"].size() == f.service.functions.size());
    CHECK(is_part(*summary, *whole));
  };
  both();
  view.function.serving = RevisionNumber{1};
  view.function.manual_scale = 3;
  // More than one turn of the loop takes.
  for (int i = 0; i < 100; ++i) {
    auto more = view;
    more.function.name = FunctionName{fmt::format("more-{}", i)};
    f.service.functions.emplace(more.function.name, more);
  }
  both();
}

TEST_CASE("api: the list has of each function what its own view has, byte for byte") {
  Fixture f;
  f.put_hello();
  // More than the list samples to make room, and more than one turn of the loop takes.
  for (int i = 0; i < 50; ++i) {
    auto view = i % 2 == 0 ? fakes::sample_view() : f.service.functions.at(FunctionName{"hello"});
    view.function.name = FunctionName{fmt::format("more-{}", i)};
    if (i % 4 == 0) view.function.serving.reset();
    f.service.functions.emplace(view.function.name, view);
  }
  for (const bool has_data_plane : {true, false}) {
    if (!has_data_plane) f.service.data_plane_list.clear();
    std::string expected;
    for (const auto& [name, view] : f.service.functions) {
      expected += (expected.empty() ? "" : ",") + f.api.ask("GET", "/v1/functions/" + name.value).body;
    }
    CHECK(f.api.ask("GET", "/v1/functions").body == R"({"functions":[)" + expected + "]}");
  }
  const auto one = parse_json(f.api.ask("GET", "/v1/functions/more-0").body);
  REQUIRE(one);
  CHECK((*one)["status"]["sandboxes"].size() == 5);
  CHECK((*one)["events"][1]["end"]["cause"] == "out-of-memory");
  CHECK((*one)["revisions"][1]["spec"]["secrets"]["key.pem"].is_null());
  CHECK((*one)["revisions"][1]["spec"]["timeout_ms"] == 1500);
}

TEST_CASE("api: health, readiness, metrics, cluster and data planes answer what the role says") {
  Fixture f;
  CHECK(f.api.ask("GET", "/healthz").status == 200);
  CHECK(f.api.ask("GET", "/readyz").status == 200);
  f.service.leader = false;
  CHECK(f.api.ask("GET", "/readyz").status == 503);
  const auto metrics = f.api.ask("GET", "/metrics");
  CHECK_CONTAINS(header(metrics, "Content-Type"), "version=0.0.4");
  CHECK(metrics.body == "dirigent_build_info 1\n");
  CHECK_CONTAINS(f.api.ask("GET", "/v1/cluster").body, R"("version":"1.2.3")");
  CHECK_CONTAINS(f.api.ask("GET", "/v1/data-planes").body, R"("invoke_address":"127.0.0.1:18080")");
  f.put_hello();
  CHECK(f.api.ask("GET", "/v1/functions?names_only=1").body == R"({"names":["hello"]})");
  const std::string summary = f.api.ask("GET", "/v1/functions?summary=1").body;
  CHECK_CONTAINS(summary, R"("name":"hello")");
  CHECK_CONTAINS(summary, R"("scale_max":0)");
  CHECK(summary.find("events") == std::string::npos);
  CHECK(summary.size() < f.api.ask("GET", "/v1/functions").body.size() / 2);
  CHECK(f.api.ask("GET", "/v1/functions?summary=maybe").status == 400);
  f.service.data_plane_list.clear();
  CHECK_CONTAINS(f.api.ask("GET", "/v1/functions/hello").body, R"("url":null)");
}

TEST_CASE("api: a refusal of the role becomes the status of its error code") {
  Fixture f;
  f.service.deploy_error = Error{ErrorCode::exhausted, "the state log is full"};
  const auto answer = f.put_hello();
  CHECK(answer.status == 503);
  CHECK(header(answer, "Retry-After") == "1");
  CHECK_CONTAINS(answer.body, R"("retriable":true)");
  CHECK_CONTAINS(answer.body, "the state log is full");
}

}  // namespace
}  // namespace dirigent::roles
