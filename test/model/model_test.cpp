// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/model/function.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/reason.h"
#include "dirigent/model/sandbox.h"
#include "dirigent/model/scaling.h"

using namespace dirigent;

TEST_CASE("ids: function names are labels of DNS, the default namespace is left out") {
  CHECK(parse_function_name("hello")->value == "hello");
  CHECK(parse_function_name("hello.default")->value == "hello");
  CHECK(parse_function_name("hello.team")->value == "hello.team");
  CHECK(parse_function_name(std::string(63, 'a')));
  const std::pair<std::string, std::string> bad[] = {
      {"", "is empty"}, {"Hello", "'H' at position 1"}, {"a_b", "'_' at position 2"}, {"-a", "starts or ends with -"},
      {"a-", "starts or ends with -"}, {"a.", "the namespace"}, {"a.b.c", "'.'"}, {std::string(64, 'a'), "64 characters"},
      {"a\nb", "byte 0x0a"}};
  for (const auto& [name, words] : bad) {
    const auto parsed = parse_function_name(name);
    INFO(name);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().message.find(words) != std::string::npos);
  }
  CHECK(revision_name(FunctionName{"hello"}, RevisionNumber{3}) == "hello-00003");
}

TEST_CASE("ids: sandbox ids are 16 hexadecimal digits both ways") {
  CHECK(to_string(SandboxId{0xabc}) == "0000000000000abc");
  CHECK(parse_sandbox_id("0000000000000abc")->value == 0xabc);
  for (const char* bad : {"", "xyz", "00000000000000000", "12 "}) CHECK_FALSE(parse_sandbox_id(bad));
}

TEST_CASE("images: every kind is recognised, and what is wrong is named") {
  CHECK(parse_image("builtin:hello")->kind == ImageKind::builtin);
  const auto program = parse_image("exec:/bin/server --port 1");
  REQUIRE(program);
  CHECK(program->location == "/bin/server");
  CHECK(program->arguments == std::vector<std::string>{"--port", "1"});
  CHECK(parse_image("dir:/srv/root")->kind == ImageKind::directory);
  CHECK(parse_image("tar:/a.tar")->kind == ImageKind::tar);
  CHECK(parse_image("docker.io/library/nginx:1")->kind == ImageKind::reference);
  for (const char* bad : {"", "builtin:helo", "exec:server", "dir:/a b", "exec:", "a b", "a\nb"}) {
    INFO(bad);
    CHECK_FALSE(parse_image(bad));
  }
  CHECK(parse_image("builtin:helo").error().message.find("did you mean \"hello\"") != std::string::npos);
}

TEST_CASE("sandbox: the table lets no state be left for an earlier one, and gone is the end") {
  const SandboxState all[] = {SandboxState::placed, SandboxState::starting, SandboxState::ready,
                              SandboxState::draining, SandboxState::stopping, SandboxState::gone};
  for (const auto from : all) {
    for (const auto to : all) {
      if (to <= from) CHECK_FALSE(may_move(from, to));
    }
    CHECK(may_move(from, SandboxState::gone) == (from != SandboxState::gone));
    CHECK(parse_sandbox_state(to_string(from)) == Result<SandboxState>(from));
  }
  CHECK_FALSE(may_move(SandboxState::placed, SandboxState::draining));
  CHECK(may_move(SandboxState::ready, SandboxState::draining));
}

TEST_CASE("reasons: 429 and 503 promise that the function did not run, 502 and 504 do not") {
  for (const auto& reason : all_reasons()) {
    INFO(reason.name);
    CHECK(&traits(reason.reason) == &reason);
    if (reason.http_status == 429 || reason.http_status == 503) CHECK(reason.ran == Ran::no);
    if (reason.http_status == 502 || reason.http_status == 504) CHECK(reason.ran == Ran::maybe);
    if (reason.retry_after) CHECK((reason.http_status == 429 || reason.http_status == 503));
  }
}

TEST_CASE("revision: each field's range is checked and named") {
  RevisionSpec good;
  good.image = "builtin:hello";
  REQUIRE(validate(good));
  const auto refused = [&](auto change, const char* field) {
    RevisionSpec spec = good;
    change(spec);
    const auto status = validate(spec);
    INFO(field);
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::invalid_argument);
    CHECK(status.error().message.find(field) != std::string::npos);
  };
  refused([](auto& s) { s.port = 0; }, "port");
  refused([](auto& s) { s.resources.memory = 1_KiB; }, "memory");
  refused([](auto& s) { s.resources.cpu.value = -1; }, "cpu");
  refused([](auto& s) { s.pids_max = 0; }, "pids_max");
  refused([](auto& s) { s.ready_path = "health"; }, "ready_path");
  refused([](auto& s) { s.environment["A=B"] = "x"; }, "environment variable");
  refused([](auto& s) { s.arguments.emplace_back("a\0b", 3); }, "argument");
  refused([](auto& s) { s.constraints = {"zone"}; }, "constraint");
  refused([](auto& s) { s.limits.timeout = 0s; }, "timeout");
  refused([](auto& s) { s.limits.queue_timeout = 25h; }, "queue_timeout");
  refused([](auto& s) { s.concurrency_limit = 200'000; }, "concurrency_limit");
  refused([](auto& s) { s.scaling.stable_window = 5s; }, "scale_window");
  refused([](auto& s) { s.scaling.stable_window = 6500ms; }, "scale_window");
  refused([](auto& s) { s.scaling.utilization_percent = 0; }, "scale_utilization_percent");
  refused([](auto& s) { s.scaling.panic_threshold_percent = 100; }, "panic_threshold_percent");
  refused([](auto& s) { s.scaling.scale_down_rate_max = 1; }, "scale_down_rate_max");
  refused([](auto& s) { s.scaling.min_scale = 3; s.scaling.max_scale = 2; }, "scale_min");
}

TEST_CASE("profiles: the names are known, a slip is told, the values are valid") {
  for (const auto& name : scaling_profile_names()) {
    const auto profile = scaling_profile(name);
    REQUIRE(profile);
    CHECK(validate(profile->scaling));
  }
  CHECK(scaling_profile("knative")->scaling.scale_to_zero_grace == 30s);
  CHECK(scaling_profile("dirigent")->concurrency_limit == 1);
  CHECK(scaling_profile("dirigent")->scaling.utilization_percent == 100);
  CHECK(scaling_profile("latncy").error().message.find("did you mean \"latency\"") != std::string::npos);
}
