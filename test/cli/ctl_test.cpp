// SPDX-License-Identifier: MIT
//
// The verbs against the real API on a real port, with a fake control plane behind it in a thread of its own.
#include "cli/ctl/ctl.h"

#include "catch.h"
#include "cli/config_command.h"
#include "fakes/contains.h"
#include "fakes/fake_control_service.h"
#include "roles/control/http_api.h"
#include "server_thread.h"

namespace dirigent::cli {
namespace {

using test::ServerThread;

struct Run {
  int status = -1;
  std::string out;
  std::string err;
};

Run ctl_at(const std::string& server, std::vector<std::string> words) {
  Run run;
  words.insert(words.end(), {"--server", server});
  run.status = run_ctl(words, Terminal([&](std::string_view text) { run.out += text; },
                                       [&](std::string_view text) { run.err += text; }, false));
  return run;
}

// The service is touched by the test only while no call is running.
struct Cluster {
  fakes::FakeControlService service;
  ServerThread api{roles::make_api(service)};
  Run ctl(std::vector<std::string> words) { return ctl_at(api.address(), std::move(words)); }
};

TEST_CASE("ctl deploy: the steps go to stderr, the address to stdout") {
  Cluster c;
  const Run run = c.ctl({"deploy", "hello", "--image", "builtin:hello"});
  CHECK(run.status == 0);
  CHECK_CONTAINS(run.err, "Deploying hello in namespace default\n");
  CHECK_CONTAINS(run.err, "s  image builtin:hello (built in, no pull)\n");
  CHECK_CONTAINS(run.err, "s  revision hello-00001 created\n");
  CHECK_CONTAINS(run.err, "s  test instance ready after 2 probes\n");
  CHECK_CONTAINS(run.err, "s  traffic 100% -> hello-00001\n");
  CHECK_CONTAINS(run.err, "next: curl http://127.0.0.1:18080/function/hello\n");
  CHECK_CONTAINS(run.out, "hello is ready in ");
  CHECK_CONTAINS(run.out, "  url     http://127.0.0.1:18080/function/hello\n");
  const Run again = c.ctl({"deploy", "hello", "--image", "builtin:hello"});
  CHECK(again.status == 0);
  CHECK_CONTAINS(again.out, "hello is up to date");
}

TEST_CASE("ctl deploy: a test start that fails is told with its end and last output, status 1") {
  Cluster c;
  c.service.verification_end =
      SandboxEnd{EndCause::exited, 3, 0, "the process ended after 2 ms", "first\nlast words\n"};
  const Run run = c.ctl({"deploy", "bad", "--image", "exec:/bin/false"});
  CHECK(run.status == 1);
  CHECK(run.out.empty());
  CHECK_CONTAINS(run.err, "error: bad-00001 did not become ready: exited\n");
  CHECK_CONTAINS(run.err, "  the process ended after 2 ms\n");
  CHECK_CONTAINS(run.err, "  exit status 3\n");
  CHECK_CONTAINS(run.err, "  last output:\n    | first\n    | last words\n");
  CHECK_CONTAINS(run.err, "traffic was not changed; keep or remove it with: dirigent ctl delete bad\n");
}

TEST_CASE("ctl deploy: a silent end says so, and a revision that serves goes on") {
  Cluster c;
  CHECK(c.ctl({"deploy", "f", "--image", "builtin:hello", "-q"}).status == 0);
  c.service.verification_end = SandboxEnd{EndCause::start_timeout, 0, 9, "no answer in 60 s", ""};
  const Run run = c.ctl({"deploy", "f", "--image", "builtin:echo"});
  CHECK(run.status == 1);
  CHECK_CONTAINS(run.err, "last output: (none)\n");
  CHECK_CONTAINS(run.err, "ended by signal 9\n");
  CHECK_CONTAINS(run.err, "revision 1 still serves\n");
}

TEST_CASE("ctl deploy: outputs for scripts are one word or JSON, quiet says nothing") {
  Cluster c;
  CHECK(c.ctl({"deploy", "f", "--image", "builtin:hello", "-q"}).out.empty());
  CHECK(c.ctl({"deploy", "f", "--image", "builtin:echo", "-q", "-o", "url"}).out ==
        "http://127.0.0.1:18080/function/f\n");
  CHECK(c.ctl({"deploy", "f", "--image", "builtin:hello", "-qo", "name"}).out == "f\n");
  CHECK_CONTAINS(c.ctl({"deploy", "g", "--image", "builtin:echo", "-qojson"}).out, "\"name\": \"g\"");
  CHECK(c.ctl({"deploy", "g", "--image", "builtin:echo", "--create-only"}).status == 1);
  CHECK(c.ctl({"deploy", "h", "--image", "builtin:echo", "--no-verify"}).status == 0);
  CHECK_FALSE(c.service.deployed.back().verify);
}

TEST_CASE("ctl deploy: what the server refuses is told with the field") {
  Cluster c;
  const Run run = c.ctl({"deploy", "f", "--image", "builtin:helo"});
  CHECK(run.status == 1);
  CHECK_CONTAINS(run.err, "did you mean \"hello\"?");
  CHECK(c.ctl({"deploy", "Hello", "--image", "builtin:hello"}).status == 1);
  CHECK(c.service.functions.empty());
}

TEST_CASE("ctl list: a table, wide, names, urls, JSON") {
  Cluster c;
  const Run none = c.ctl({"list"});
  CHECK(none.status == 0);
  CHECK(none.out.empty());
  CHECK_CONTAINS(none.err, "dirigent ctl deploy hello");
  c.ctl({"deploy", "zulu", "--image", "builtin:hello", "-q"});
  c.ctl({"deploy", "alpha", "--image", "builtin:echo", "--scale", "..4", "-q"});
  const Run table = c.ctl({"ls"});
  CHECK_CONTAINS(table.out, "NAME   URL");
  CHECK_CONTAINS(table.out, "\nalpha  http://127.0.0.1:18080/function/alpha  alpha-00001  yes    0          0.0  ");
  CHECK(table.out.find("alpha") < table.out.find("zulu"));
  CHECK_CONTAINS(c.ctl({"list", "-o", "wide"}).out, "0..4");
  CHECK(c.ctl({"list", "-o", "name"}).out == "alpha\nzulu\n");
  CHECK(c.ctl({"-o", "url", "list"}).out ==
        "http://127.0.0.1:18080/function/alpha\nhttp://127.0.0.1:18080/function/zulu\n");
  CHECK_FALSE(fakes::contains(c.ctl({"list", "--no-headers"}).out, "NAME"));
  CHECK(c.ctl({"list", "-o", "json"}).out.starts_with("{\n  \"functions\": ["));
}

TEST_CASE("ctl describe: the headline says whether and why, then settings, conditions, errors and events") {
  Cluster c;
  c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"});
  roles::FunctionView& view = c.service.functions.at(FunctionName{"hello"});
  view.wanted = 1;
  roles::SandboxView sandbox;
  sandbox.status.id = SandboxId{7};
  sandbox.status.state = SandboxState::ready;
  sandbox.node = NodeId{"laptop"};
  view.sandboxes = {sandbox};
  view.last_failure = SandboxEnd{EndCause::out_of_memory, 0, 9, "used more than 128 MiB", "boom\x1b[2J\n"};
  const Run run = c.ctl({"get", "hello"});
  CHECK(run.status == 0);
  CHECK_CONTAINS(run.out, "hello  invocable: yes, 1 of 1 sandboxes ready\n");
  CHECK_CONTAINS(run.out, "  image     builtin:hello\n");
  CHECK_CONTAINS(run.out, "  revision  hello-00001  100%\n");
  CHECK_CONTAINS(run.out, "0..∞  target 70 in flight per sandbox (limit none)  window 60s\n");
  CHECK_CONTAINS(run.out, "timeout 300s, first byte 300s, idle off, queue 10000 / 30s\n");
  CHECK_CONTAINS(run.out, "    ++ Routed");
  CHECK_CONTAINS(run.out, "1 wanted, 1 ready");
  CHECK_CONTAINS(run.out, "  last errors  out-of-memory, signal 9: used more than 128 MiB\n    | boom\\x1b[2J\n");
  CHECK_CONTAINS(run.out, "traffic 100% -> hello-00001\n");
}

TEST_CASE("ctl: what is not there exits 3 with the nearest name, what cannot be reached exits 4") {
  Cluster c;
  c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"});
  const Run run = c.ctl({"describe", "helo"});
  CHECK(run.status == 3);
  CHECK(run.err ==
        "error: function \"helo\" not found\n  did you mean \"hello\"?\n  list functions:  dirigent ctl list\n");
  CHECK(c.ctl({"delete", "helo"}).status == 3);
  CHECK(c.ctl({"scale", "helo", "1"}).status == 3);
  CHECK(c.ctl({"logs", "helo"}).status == 3);
  std::string closed;
  {
    ServerThread gone(roles::make_api(c.service));
    closed = gone.address();
  }
  const Run unreachable = ctl_at(closed, {"list"});
  CHECK(unreachable.status == 4);
  CHECK_CONTAINS(unreachable.err, "dirigent dev");
}

TEST_CASE("ctl: slips of the pen exit 2 with the nearest verb or flag") {
  Cluster c;
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"lst"}, "did you mean \"list\"?"},
      {{"list", "--outptu", "x"}, "did you mean --output?"},
      {{"list", "-o", "jsn"}, "did you mean \"json\"?"},
      {{"describe"}, "describe needs NAME"},
      {{"list", "x"}, "unexpected word"},
      {{"scale", "f"}, "scale needs a number or --auto"},
      {{"scale", "f", "many"}, "not a number of sandboxes"},
      {{"scale", "f", "1", "--auto"}, "scale needs a number or --auto"},
      {{"deploy", "f"}, "needs --image"},
      {{"logs", "f", "--tail", "0"}, "--tail"},
      {{"deploy", "f", "--image", "x", "--wait-timeout", "5"}, "--wait-timeout"},
      {{"completion", "fish"}, "bash"},
  };
  for (const auto& [words, text] : cases) {
    const Run run = c.ctl(words);
    INFO(run.err);
    CHECK(run.status == 2);
    CHECK(run.out.empty());
    CHECK_CONTAINS(run.err, text);
  }
  CHECK(ctl_at("https://x", {"list"}).status == 2);
}

TEST_CASE("ctl scale and delete: they say what they did on stderr") {
  Cluster c;
  c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"});
  CHECK_CONTAINS(c.ctl({"scale", "hello", "0"}).err, "the next request starts a sandbox");
  CHECK_CONTAINS(c.ctl({"scale", "hello", "2"}).err, "hello is kept at 2");
  CHECK(c.service.functions.at(FunctionName{"hello"}).function.manual_scale == 2u);
  CHECK_CONTAINS(c.ctl({"scale", "hello", "--auto"}).err, "autoscaler again");
  CHECK_FALSE(c.service.functions.at(FunctionName{"hello"}).function.manual_scale.has_value());
  const Run gone = c.ctl({"rm", "hello"});
  CHECK(gone.status == 0);
  CHECK(gone.err == "hello deleted\n");
  CHECK(c.service.functions.empty());
}

TEST_CASE("ctl logs and events: lines are marked and made safe for a terminal") {
  Cluster c;
  c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"});
  c.service.log_lines = {{SandboxId{1}, NodeId{"n1"}, WallTime(1'000'000us), false, "one"},
                         {SandboxId{1}, NodeId{"n1"}, WallTime(2'000'000us), true, "\x1b[31mtwo"}};
  const Run logs = c.ctl({"logs", "hello"});
  CHECK_CONTAINS(logs.out, " 00000000 n1 out | one\n");
  CHECK_CONTAINS(logs.out, " n1 err | \\x1b[31mtwo\n");
  CHECK_FALSE(fakes::contains(c.ctl({"logs", "hello", "--tail", "1"}).out, "one"));
  CHECK(c.ctl({"logs", "hello", "--since", "1h"}).out.empty());
  CHECK_CONTAINS(c.ctl({"logs", "hello", "-o", "json"}).out, R"("stream":"stderr","text":"\u001b[31mtwo"})");
  CHECK_CONTAINS(c.ctl({"events", "hello"}).out, "traffic 100% -> hello-00001");
}

TEST_CASE("ctl nodes: a table, and cordon by name") {
  Cluster c;
  roles::NodeView node;
  node.info.id = NodeId{"laptop"};
  node.status = "ready";
  node.info.capacity = {Millicpu{2500}, 8_GiB};
  node.reserved = {Millicpu{500}, 1_GiB};
  node.start_p50 = 8ms;
  node.info.labels = {{"disk", "ssd"}};
  c.service.node_list = {node};
  CHECK_CONTAINS(c.ctl({"nodes"}).out, "laptop  ready   0s   0/0.5/2.5");
  CHECK_CONTAINS(c.ctl({"nodes", "-o", "wide"}).out, "disk=ssd");
  CHECK_CONTAINS(c.ctl({"cordon", "laptop"}).err, "no new sandboxes");
  CHECK_CONTAINS(c.ctl({"nodes"}).out, "cordoned");
  c.service.node_list.front().sandboxes = 3;
  const Run drained = c.ctl({"drain", "laptop"});
  CHECK(drained.status == 0);
  CHECK_CONTAINS(drained.err, "laptop has 1 sandboxes left");
  CHECK_CONTAINS(drained.err, "laptop has no sandboxes");
  c.service.node_list.front().sandboxes = 1000;
  const Run late = c.ctl({"drain", "laptop", "--wait-timeout", "1ms"});
  CHECK(late.status == 6);
  CHECK_CONTAINS(late.err, "draining goes on");
  CHECK(c.ctl({"drain", "laptop", "--no-wait"}).status == 0);
  CHECK(c.ctl({"drain", "laptop", "--wait-timeout", "soon"}).status == 2);
  const Run unknown = c.ctl({"uncordon", "labtop"});
  CHECK(unknown.status == 3);
  CHECK_CONTAINS(unknown.err, "did you mean \"laptop\"?");
}

TEST_CASE("ctl invoke: the answer goes to stdout, the picture to stderr, --fail turns its status into 7") {
  Cluster c;
  std::string seen;
  ServerThread plane(
      [&](io::HttpRequest request) -> asio::awaitable<io::HttpResponse, asio::io_context::executor_type> {
        seen = fmt::format("{} {} {} {}", request.method, request.target,
                           io::find_header(request.headers, "X-A").value_or("-"), request.body);
        auto response = io::text_response(request.target.ends_with("fail") ? 503 : 200, "body");
        response.headers.emplace_back("Server-Timing", "cold;desc=\"laptop\", queue;dur=1, fn;dur=3");
        response.headers.emplace_back("X-Call-Id", "01J9");
        co_return response;
      });
  c.service.data_plane_list = {{DataPlaneId{"d"}, plane.address(), 0s, ""}};
  c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"});
  const Run run = c.ctl({"invoke", "hello", "-v", "-d", "hi", "-H", "X-A: b", "--path", "/x?y=1"});
  CHECK(run.status == 0);
  CHECK(run.out == "body");
  CHECK(seen == "POST /function/hello/x?y=1 b hi");
  CHECK_CONTAINS(run.err, "> POST hello  call 01J9\ncold start on laptop");
  CHECK_CONTAINS(run.err, "< 200 OK, 4 bytes\n");
  CHECK(c.ctl({"invoke", "hello", "-X", "GET"}).out == "body");
  CHECK(seen == "GET /function/hello - ");
  CHECK(c.ctl({"invoke", "hello", "--path", "/fail"}).status == 0);
  CHECK(c.ctl({"invoke", "hello", "--path", "/fail", "--fail"}).status == 7);
  CHECK(c.ctl({"invoke", "hello", "--path", "x"}).status == 2);
  c.service.data_plane_list.clear();
  CHECK_CONTAINS(c.ctl({"invoke", "hello"}).err, "no data plane is connected");
}

TEST_CASE("completion: verbs, flags, words of flags and live names") {
  Cluster c;
  c.ctl({"deploy", "hello", "--image", "builtin:hello", "-q"});
  CHECK(complete({"dirigent", "w"}, 1) == "worker\n");
  CHECK(complete({"dirigent", "ctl", "de"}, 2) == "deploy\ndescribe\ndelete\n");
  CHECK(complete({"dirigent", "ctl", "list", "-o", "w"}, 4) == "wide\n");
  CHECK(complete({"dirigent", "ctl", "invoke", "--me"}, 3) == "--method\n");
  CHECK(complete({"dirigent", "dev", "--auto"}, 2) == "--autoscaler\n");
  CHECK_CONTAINS(complete({"dirigent", "dev", "--autoscaler"}, 3), "knative\n");
  setenv("DIRIGENT_SERVER", c.api.address().c_str(), 1);
  CHECK(complete({"dirigent", "ctl", "describe", "h"}, 3) == "hello\n");
  unsetenv("DIRIGENT_SERVER");
  CHECK_CONTAINS(bash_completion(), "complete -o default -F _dirigent dirigent\n");
}

Run config(std::vector<std::string> words, const Environment& environment = {}) {
  Run run;
  run.status = run_config(
      words,
      Terminal([&](std::string_view text) { run.out += text; }, [&](std::string_view text) { run.err += text; }, false),
      environment);
  return run;
}

TEST_CASE("config show: every value with its origin, in the form of a configuration file") {
  const Run changed = config({"show", "control"}, {{"DIRIGENT_CONTROL_RPC_LISTEN", "0.0.0.0:9"}});
  CHECK(changed.status == 0);
  CHECK(changed.out == "[control]\nrpc_listen = \"0.0.0.0:9\"  # DIRIGENT_CONTROL_RPC_LISTEN\n\n");
  const Run effective = config({"show", "--effective"});
  CHECK_CONTAINS(effective.out, "[worker]\n");
  CHECK_CONTAINS(effective.out, "expose_timing = true");
  const auto entries = parse_config(effective.out, "out");
  REQUIRE(entries);
  const auto merged = Settings::merge("data", effective.out, "out", {}, Arguments());
  REQUIRE(merged);
  CHECK(check_options(*merged));
}

TEST_CASE("config validate: 0 when every role could start, 1 with the place otherwise") {
  CHECK(config({"validate"}).status == 0);
  const Run bad = config({"validate"}, {{"DIRIGENT_WORKER_NODES", "none"}});
  CHECK(bad.status == 1);
  CHECK_CONTAINS(bad.err, "DIRIGENT_WORKER_NODES");
  CHECK(config({"validate", "--config", "/nonexistent/file"}).status == 1);
  CHECK(config({"shwo"}).status == 2);
  CHECK(config({}).status == 2);
}

}  // namespace
}  // namespace dirigent::cli
