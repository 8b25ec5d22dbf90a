// SPDX-License-Identifier: MIT
#include <algorithm>
#include <set>

#include "catch.h"
#include "cli/bench_options.h"
#include "cli/bench_plan.h"

using namespace dirigent;
using namespace dirigent::cli;

namespace {

Result<BenchOptions> options_of(std::vector<std::string> words) {
  const auto arguments = parse_arguments(words, bench_flags(), 100);
  REQUIRE(arguments);
  return bench_options(*arguments);
}

BenchOptions good(std::vector<std::string> words) {
  auto options = options_of(std::move(words));
  if (!options) FAIL(options.error().message);
  return std::move(*options);
}

std::string error_of(std::vector<std::string> words) {
  const auto options = options_of(std::move(words));
  return options ? "no error" : options.error().message;
}

}  // namespace

TEST_CASE("bench options: the mode follows from what says when to call") {
  CHECK(good({"hello"}).mode == BenchMode::closed);
  CHECK(good({"hello"}).plan.connections == 1);
  CHECK(good({"hello", "--rate", "5"}).mode == BenchMode::load);
  CHECK(good({"hello", "--rate", "5"}).plan.connections == 10'000);
  CHECK(good({"hello", "--rate", "5", "--protocol", "h2c"}).plan.connections == 1);
  CHECK(good({"hello", "--load", "ramp:from=1,to=9"}).plan.load->kind == workload::Load::Kind::ramp);
  CHECK(good({"hello", "--rate", "5", "--arrivals", "constant"}).plan.load->kind == workload::Load::Kind::constant);
  const auto sweep = good({"--sweep", "1,0.5"});
  CHECK(sweep.mode == BenchMode::sweep);
  CHECK(sweep.sweep_rates == std::vector<double>{1, 0.5});
  CHECK(sweep.deploy);
  CHECK(sweep.deploy->is_sweep);
  CHECK(sweep.plan.request.invitro);
  CHECK(sweep.by_host);
  CHECK(error_of({"hello", "--rate", "5", "--sweep", "1"}).find("give one") != std::string::npos);
}

TEST_CASE("bench options: a value that cannot be meant is refused with its flag") {
  for (const auto& [words, part] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"hello", "--rate", "0"}, "--rate"},
           {{"hello", "--rate", "5", "--arrivals", "odd"}, "poisson or constant"},
           {{"hello", "--load", "odd"}, "--load: unknown load"},
           {{"--sweep", "1,-2"}, "--sweep"},
           {{"hello", "-d", "0"}, "--duration"},
           {{"hello", "-d", "10"}, "--duration"},
           {{"hello", "-c", "0"}, "--connections"},
           {{"hello", "--header", "no colon"}, "Name: value"},
           {{"hello", "--header", "A: b\r\nC: d"}, "Name: value"},
           {{"hello", "--body-bytes", "2GiB"}, "more than 1GiB"},
           {{"hello", "--body", "@/no/such/file"}, "/no/such/file"},
           {{"hello", "--by", "name"}, "neither path nor host"},
           {{"hello", "--protocol", "h3"}, "neither http1 nor h2c"},
           {{"hello", "--address", "nonsense"}, "--address"},
           {{"hello", "--deploy", "x", "--set", "novalue"}, "KEY=VALUE"},
           {{"http://127.0.0.1:1/", "--deploy", "x"}, "needs names"},
           {{"http://:x/"}, "http://:x/"},
           {{"hello", "--sweep", "1"}, "brings its functions"},
           {{"--replay", "/no/such/file"}, "cannot read /no/such/file"},
           {{"hello", "--assert", "err"}, "--assert"}}) {
    INFO(part);
    CHECK(error_of(words).find(part) != std::string::npos);
  }
}

TEST_CASE("bench plan: functions are named by path or by host, URLs by themselves") {
  auto by_path = good({"slow?ms=40", "hello.team/x", "--address", "127.0.0.1:1", "--address", "127.0.0.1:2"});
  put_targets(by_path, {}, {});
  CHECK(by_path.plan.endpoints == std::vector<std::string>{"127.0.0.1:1", "127.0.0.1:2"});
  REQUIRE(by_path.plan.targets.size() == 4);
  CHECK(by_path.plan.targets[0].path == "/function/slow?ms=40");
  CHECK(by_path.plan.targets[0].authority == "127.0.0.1:1");
  CHECK(by_path.plan.targets[1].endpoint == 1);
  CHECK(by_path.plan.targets[2].path == "/function/hello.team/x");

  auto by_host = good({"slow?ms=40", "--by", "host"});
  put_targets(by_host, {}, {});
  REQUIRE(by_host.plan.targets.size() == 1);
  CHECK(by_host.plan.targets[0].path == "/?ms=40");
  CHECK(by_host.plan.targets[0].authority == "slow");
  CHECK(by_host.plan.endpoints == std::vector<std::string>{kDefaultDataPlane});

  auto url = good({"http://127.0.0.1:81/a?b", "http://localhost"});
  put_targets(url, {}, {});
  REQUIRE(url.plan.targets.size() == 2);
  CHECK(url.plan.targets[0].path == "/a?b");
  CHECK(url.plan.targets[0].authority == "127.0.0.1:81");
  CHECK(url.plan.targets[1].path == "/");
  CHECK(url.plan.endpoints[1] == "localhost:80");
}

TEST_CASE("bench plan: deployed functions have names of their own, and each keeps one of its endpoints") {
  auto options = good({"hello", "--deploy", "builtin:hello", "--functions", "50"});
  const auto functions = functions_to_deploy(options, 1);
  REQUIRE(functions.size() == 50);
  std::set<std::string> names;
  for (const auto& function : functions) {
    names.insert(function.name);
    CHECK(parse_function_name(function.name));
    CHECK(function.name.starts_with("hello-"));
  }
  CHECK(names.size() == 50);
  CHECK(functions_to_deploy(options, 2)[0].name != functions[0].name);
  put_targets(options, functions, std::vector<std::string>(50, "127.0.0.1:1;127.0.0.1:2"));
  std::size_t first = 0;
  for (const auto& target : options.plan.targets) first += target.endpoint == 0 ? 1 : 0;
  CHECK(first > 5);
  CHECK(first < 45);

  const auto sweep = good({"--sweep", "2,7.5", "--cooldown", "10s", "--settle", "5s"});
  CHECK(sweep.settle == 5s);
  CHECK(good({"--sweep", "2"}).settle == 1s);
  const auto cold = functions_to_deploy(sweep, 1);
  REQUIRE(cold.size() == 75);
  CHECK(cold[74].name.starts_with("cold-function-74-"));
}

TEST_CASE("bench plan: a step of a sweep calls each function once per cooldown, evenly spaced") {
  const auto step = sweep_step(4, 10s, 20s, 5ms);
  REQUIRE(step.arrivals.size() == 80);
  CHECK(step.arrivals[1].at == 250ms);
  CHECK(step.arrivals[39].function == 39);
  CHECK(step.arrivals[40].function == 0);
  CHECK(step.arrivals[40].at == 10s);
  CHECK(step.arrivals[40].run_time == 5ms);
  // A rate that does not divide the cooldown: no function twice within it, and time goes forward.
  const auto odd = sweep_step(0.7, 2s, 6s, 0s);
  CHECK(std::is_sorted(odd.arrivals.begin(), odd.arrivals.end(),
                       [](const auto& a, const auto& b) { return a.at < b.at; }));
  std::map<std::uint32_t, Duration> last;
  for (const auto& arrival : odd.arrivals) {
    if (last.contains(arrival.function)) CHECK(arrival.at - last[arrival.function] >= 2s);
    last[arrival.function] = arrival.at;
  }
}
