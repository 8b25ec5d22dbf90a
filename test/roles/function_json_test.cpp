// SPDX-License-Identifier: MIT
#include "roles/control/function_json.h"

#include "catch.h"
#include "dirigent/base/random.h"
#include "fakes/contains.h"
#include "fakes/full_function.h"

namespace dirigent::roles {
namespace {

using fakes::every_field_set;
using fakes::sample_function;

// Not a global: those of the model may be made later.
ScalingProfile profile() { return *scaling_profile("latency"); }

std::string error_of(std::string_view body) {
  const auto request = decode_deploy(body, std::nullopt, profile());
  return request ? "no error" : request.error().message;
}

TEST_CASE("function json: a function with every field set survives the state log unchanged") {
  const Function function = sample_function();
  const auto decoded = decode_function(encode_function(function));
  REQUIRE(decoded);
  CHECK(*decoded == function);
}

TEST_CASE("function json: random durations and numbers survive exactly") {
  const std::uint64_t seed = entropy_seed();
  INFO("seed " << seed);
  Rng rng(seed);
  for (int i = 0; i < 200; ++i) {
    Function function = sample_function();
    function.manual_scale.reset();
    RevisionSpec& spec = function.revisions[1].spec;
    spec.limits.timeout = Duration(1 + static_cast<std::int64_t>(rng.below(86'400'000'000'000)));
    spec.limits.idle_timeout = Duration(static_cast<std::int64_t>(rng.below(1'000'000)));
    spec.scaling.target = 0.01 + rng.unit() * 1000;
    spec.scaling.utilization_percent = 1 + rng.unit() * 99;
    const auto decoded = decode_function(encode_function(function));
    REQUIRE(decoded);
    REQUIRE(*decoded == function);
  }
}

TEST_CASE("function json: fields of a newer version in the state log are skipped, wrong ones are corrupt") {
  std::string text = encode_function(sample_function());
  text.insert(1, "\"from_the_future\":{\"x\":[1]},");
  CHECK(decode_function(text).value() == sample_function());
  for (const std::string_view broken :
       {"", "{", "[]", R"({"name":"x"})", R"({"name":"x","created_at_us":1,"revisions":[{}]})",
        R"({"name":"x","created_at_us":1,"revisions":[],"serving":1})"}) {
    const auto decoded = decode_function(broken);
    INFO(broken);
    REQUIRE_FALSE(decoded);
    CHECK(decoded.error().code == ErrorCode::corrupt);
  }
}

TEST_CASE("function json: a registration takes the forms of machines and of people") {
  const auto machine = decode_deploy(
      R"({"name":"f","image":"builtin:echo","memory_bytes":67108864,"cpu_milli":500,"timeout_ms":1500.5})",
      std::nullopt, profile());
  const auto human =
      decode_deploy(R"({"name":"f","image":"builtin:echo","memory":"64MiB","cpu":"0.5","timeout":"1500.5ms"})",
                    std::nullopt, profile());
  REQUIRE(machine);
  REQUIRE(human);
  CHECK(machine->spec == human->spec);
  CHECK(human->spec.resources.memory == 64_MiB);
  CHECK(human->spec.limits.timeout == 1500500us);
}

TEST_CASE("function json: absent fields come from the profile, and a named profile wins wherever it stands") {
  const auto plain =
      decode_deploy(R"({"name":"f","image":"builtin:echo"})", std::nullopt, *scaling_profile("dirigent"));
  REQUIRE(plain);
  CHECK(plain->spec.concurrency_limit == 1);
  CHECK(plain->spec.scaling.utilization_percent == 100);
  const auto named = decode_deploy(R"({"scale_max":4,"name":"f","image":"builtin:echo","profile":"dirigent"})",
                                   std::nullopt, profile());
  REQUIRE(named);
  CHECK(named->spec.scaling.max_scale == 4);
  CHECK(named->spec.concurrency_limit == 1);
}

TEST_CASE("function json: every mistake in a registration is an error that names the field") {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"", "empty"},
      {"   ", "empty"},
      {"{", "line 1"},
      {"[]", "an array"},
      {R"({"image":"builtin:echo"})", "\"name\" is missing"},
      {R"({"name":"f"})", "\"image\" is missing"},
      {R"({"name":"F","image":"builtin:echo"})", "'F'"},
      {R"({"name":5,"image":"builtin:echo"})", "field \"name\" is a number, expected a string"},
      {R"({"name":"f","image":"builtin:helo"})", "did you mean \"hello\"?"},
      {R"({"name":"f","image":"builtin:echo","tiemout":"3s"})",
       "unknown field \"tiemout\" (did you mean \"timeout\"?)"},
      {R"({"name":"f","image":"builtin:echo","port":"80"})",
       "field \"port\" is a string, expected a whole number in 0..65535"},
      {R"({"name":"f","image":"builtin:echo","port":65536})", "field \"port\""},
      {R"({"name":"f","image":"builtin:echo","port":80.5})", "field \"port\" is 80.5"},
      {R"({"name":"f","image":"builtin:echo","port":0})", "port is 0"},
      {R"({"name":"f","image":"builtin:echo","queue_depth":-1})", "field \"queue_depth\""},
      {R"({"name":"f","image":"builtin:echo","timeout":30})", "field \"timeout\" is a number"},
      {R"({"name":"f","image":"builtin:echo","timeout":"30"})", "field \"timeout\": \"30\" is not a duration"},
      {R"({"name":"f","image":"builtin:echo","timeout_ms":-1})", "field \"timeout_ms\""},
      {R"({"name":"f","image":"builtin:echo","timeout_ms":1e300})", "field \"timeout_ms\""},
      {R"({"name":"f","image":"builtin:echo","timeout_ms":1,"timeout":"1ms"})", "say the same"},
      {R"({"name":"f","image":"builtin:echo","memory":"lots"})", "field \"memory\""},
      {R"({"name":"f","image":"builtin:echo","memory_bytes":18446744073709551615})", "field \"memory_bytes\""},
      {R"({"name":"f","image":"builtin:echo","environment":{"A":1}})", "field \"environment.A\" is a number"},
      {R"({"name":"f","image":"builtin:echo","arguments":["a",null]})", "field \"arguments[1]\" is null"},
      {R"({"name":"f","image":"builtin:echo","scale_to_zero":1})", "expected true or false"},
      {R"({"name":"f","image":"builtin:echo","scale_metric":"cpus"})", "scale_metric"},
      {R"({"name":"f","image":"builtin:echo","protocol":"h2"})", "did you mean \"h2c\"?"},
      {R"({"name":"f","image":"builtin:echo","profile":"laziness"})", "field \"profile\""},
      {R"({"name":"f","image":"builtin:echo","scale_window":"1s"})", "scale_window"},
      {R"({"name":"f","image":"builtin:echo","scale_min":3,"scale_max":2})", "above scale_max"},
      {R"({"name":"f","name":"g","image":"builtin:echo"})", "\"name\" is there twice"},
      {R"({"name":"f","image":"builtin:echo","image":null})", "\"image\" is there twice"},
      {R"({"name":"f","image":null})", "field \"image\" is null"},
  };
  for (const auto& [body, expected] : cases) {
    INFO(body);
    CHECK_CONTAINS(error_of(body), expected);
  }
  const auto other = decode_deploy(R"({"name":"g","image":"builtin:echo"})", FunctionName{"f"}, profile());
  REQUIRE_FALSE(other);
  CHECK_CONTAINS(other.error().message, "the path names \"f\"");
}

TEST_CASE("function json: a patch changes what it names, merges maps, and null restores the default") {
  RevisionSpec base;
  base.image = "builtin:echo";
  base.environment = {{"A", "1"}, {"B", "2"}};
  base.limits.timeout = 9s;
  base.scaling.target = 5;
  const auto spec =
      decode_patch(R"({"environment":{"A":null,"C":"3"},"timeout_ms":null,"queue_depth":7})", base, profile());
  REQUIRE(spec);
  CHECK(spec->environment == std::map<std::string, std::string>{{"B", "2"}, {"C", "3"}});
  CHECK(spec->limits.timeout == 300s);
  CHECK(spec->limits.queue_depth == 7);
  CHECK(spec->scaling.target == 5.0);
  CHECK(decode_patch("{}", base, profile()).value() == base);
  CHECK_FALSE(decode_patch(R"({"name":"g"})", base, profile()));
  CHECK_FALSE(decode_patch(R"({"image":null})", base, profile()));
  CHECK_FALSE(decode_patch(R"({"environment":{"A":1}})", base, profile()));
}

TEST_CASE("function json: a scale is a number or null and nothing else") {
  CHECK(decode_scale(R"({"scale":3})").value() == 3u);
  CHECK_FALSE(decode_scale(R"({"scale":null})").value().has_value());
  for (const std::string_view bad : {"{}", R"({"scale":"3"})", R"({"scale":-1})", R"({"scale":3,"x":1})", "3", ""}) {
    INFO(bad);
    CHECK_FALSE(decode_scale(bad));
  }
}

}  // namespace
}  // namespace dirigent::roles
