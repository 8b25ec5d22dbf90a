// SPDX-License-Identifier: MIT
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <unistd.h>

#include "catch.h"
#include "dirigent/sim/report.h"
#include "dirigent/sim/settings.h"

using namespace dirigent;
using namespace dirigent::sim;
using namespace dirigent::workload;

namespace {

// A folder that is gone at the end of the test.
class Folder {
 public:
  Folder() {
    std::string pattern = std::filesystem::temp_directory_path() / "dirigent-sim-XXXXXX";
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path + "/" + name) << text; }
  std::string path;
};

constexpr const char* kDurations =
    "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1,percentile_Average_25,"
    "percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n"
    "o,a,aaaa,100,5,1,900,0,10,50,100,200,800,900\no,a,bbbb,10,5,1,90,1,1,5,10,20,80,90000\n";
constexpr const char* kMemory = "HashFunction,HashOwner,HashApp,SampleCount,AverageAllocatedMb\naaaa,o,a,1,200.0\nbbbb,o,a,1,64\n";
constexpr const char* kInvocations = "HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,aaaa,http,30,0\no,a,bbbb,timer,2,5\n";

void write_trace(const Folder& folder, const std::string& invocations = kInvocations) {
  folder.write("durations.csv", kDurations);
  folder.write("memory.csv", kMemory);
  folder.write("invocations.csv", invocations);
}

SimOptions small_cluster() {
  SimOptions options;
  options.nodes = 4;
  options.spec.image = "builtin:hello";
  const auto profile = *scaling_profile("dirigent");
  options.spec.scaling = profile.scaling;
  options.spec.concurrency_limit = profile.concurrency_limit;
  return options;
}

std::string error_of(const Result<Workload>& result) { return result ? "no error" : result.error().message; }

}  // namespace

TEST_CASE("sim: the same seed twice gives the same bytes, another seed gives others") {
  auto made = fuzz_case(7);
  made.options.data_planes = 2;
  made.options.shards = 2;
  const auto report = [&] {
    const Outcome outcome = simulate(made.options, made.workload);
    CHECK(outcome.violation.empty());
    return to_json({{"run", outcome}}, made.options, made.workload) + to_svg({{"run", outcome}}, "a plot");
  };
  const std::string first = report();
  CHECK(first == report());
  made.options.seed += 1;
  CHECK(first != report());
}

TEST_CASE("trace: a folder of counts becomes invocations within their minutes, run times within the percentiles") {
  Folder folder;
  write_trace(folder);
  const auto workload = read_trace(folder.path, {});
  REQUIRE(workload);
  REQUIRE(workload->functions.size() == 2);
  CHECK(workload->functions[0].memory == 200_MiB);
  CHECK(workload->length == 120s);
  REQUIRE(workload->arrivals.size() == 37);
  std::size_t in_second_minute = 0;
  for (const auto& arrival : workload->arrivals) {
    CHECK(arrival.at < 120s);
    if (arrival.at >= 60s) ++in_second_minute;
    CHECK(arrival.run_time >= 1ms);
    CHECK(arrival.run_time <= (arrival.function == 0 ? Duration(900ms) : Duration(60s)));
  }
  CHECK(in_second_minute == 5);
  // Every function's first invocation of a minute is at its start.
  CHECK(workload->arrivals[0].at == 0s);
  CHECK(workload->arrivals[1].at == 0s);
}

TEST_CASE("trace: what is malformed is named by file, line and column") {
  Folder folder;
  write_trace(folder, "HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,aaaa,http,30,0\no,a,bbbb,timer,2\n");
  CHECK(error_of(read_trace(folder.path, {})).find("invocations.csv:3:") != std::string::npos);
  CHECK(error_of(read_trace(folder.path, {})).find("5 fields") != std::string::npos);
  write_trace(folder, "HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,aaaa,http,30,x\n");
  CHECK(error_of(read_trace(folder.path, {})).find("invocations.csv:2:18 (481): \"x\" is not a number") != std::string::npos);
  write_trace(folder, "HashOwner,HashApp,HashFunction,Trigger,480\no,a,aaaa,http,-1\n");
  CHECK(error_of(read_trace(folder.path, {})).find("-1 is not within 0..") != std::string::npos);
  write_trace(folder, "HashOwner,HashApp,HashFunction,Trigger,480\no,a,cccc,http,1\n");
  CHECK(error_of(read_trace(folder.path, {})).find("no row for function cccc") != std::string::npos);
  CHECK(error_of(read_trace(folder.path + "/none", {})).find("there is no trace at") != std::string::npos);
}

TEST_CASE("trace: a file of single invocations keeps their exact times") {
  Folder folder;
  folder.write("t.csv", "app,func,end_timestamp,duration\nx,f,10.5,0.5\ny,f,11,9\n");
  const auto workload = read_trace(folder.path + "/t.csv", {});
  REQUIRE(workload);
  CHECK(workload->functions.size() == 2);  // the name is unique within an application only
  REQUIRE(workload->arrivals.size() == 2);
  CHECK(workload->arrivals[0].at == 2s);
  CHECK(workload->arrivals[1].at == 10s);
  CHECK(workload->arrivals[1].run_time == 500ms);
  folder.write("bad.csv", "app,func,end_timestamp,duration\nx,f,10.5\n");
  CHECK(error_of(read_trace(folder.path + "/bad.csv", {})).find("bad.csv:2:") != std::string::npos);
}

TEST_CASE("load: rates come out as asked for, and what is not understood is refused with its bounds") {
  const auto poisson = make_load("poisson:rps=50,duration_ms=10,functions=5", 200s, 3);
  REQUIRE(poisson);
  CHECK(std::abs(static_cast<double>(poisson->arrivals.size()) - 10'000) < 500);  // five standard deviations
  const auto ramp = make_load("ramp:from=0,to=100", 100s, 3);
  REQUIRE(ramp);
  CHECK(std::abs(static_cast<double>(ramp->arrivals.size()) - 5'000) < 360);
  CHECK(make_load("burst:size=10,every_ms=1000", 10s, 1)->arrivals.size() == 100);
  CHECK(error_of(make_load("poison:rps=1", 1s, 1)).find("did you mean \"poisson\"?") != std::string::npos);
  CHECK(error_of(make_load("poisson:rps=-1", 1s, 1)).find("it must be a number in 0.001..") != std::string::npos);
  CHECK(error_of(make_load("poisson:rate=1", 1s, 1)).find("has no \"rate\"") != std::string::npos);
  CHECK(error_of(make_load("poisson:rps=1000000", 1h, 1)).find("the limit is") != std::string::npos);
}

TEST_CASE("sim: one server with constant run times waits as queueing theory says") {
  SimOptions options = small_cluster();
  options.spec.scaling.min_scale = 1;
  options.spec.scaling.max_scale = 1;
  options.network_delay = Distribution::constant(0ns);
  options.warm_up = 20s;
  const auto workload = make_load("poisson:rps=50,duration_ms=10,functions=1", 1200s, 5);
  REQUIRE(workload);
  const Outcome outcome = simulate(options, *workload);
  CHECK(outcome.violation.empty());
  CHECK(outcome.failures.empty());
  // M/D/1 at half load: the mean wait is rho / (2 (1 - rho)) run times = 5 ms.
  CHECK(outcome.latency_ms.mean() > 4.0);
  CHECK(outcome.latency_ms.mean() < 6.0);
  CHECK(outcome.sandbox_seconds_busy / (outcome.sandbox_seconds_busy + outcome.sandbox_seconds_idle) == Approx(0.5).margin(0.05));
}

TEST_CASE("sim: a cold request waits for the start of its sandbox, a warm one for nothing") {
  SimOptions options = small_cluster();
  options.start_time = Distribution::constant(40ms);
  const auto workload = make_load("burst:size=1,every_ms=5000,duration_ms=100,functions=1", 20s, 1);
  const Outcome outcome = simulate(options, *workload);
  CHECK(outcome.violation.empty());
  CHECK(outcome.succeeded == 4);
  CHECK(outcome.creations == 1);
  CHECK(outcome.waited_for_start == 1);
  CHECK(outcome.latency_ms.quantile(1) > 40);
  CHECK(outcome.latency_ms.quantile(1) < 45);
  CHECK(outcome.latency_ms.quantile(0.5) < 0.5);
}

TEST_CASE("sim: a burst that is over within milliseconds does not count as load of a whole second") {
  SimOptions options = small_cluster();
  // 30 requests of 10 ms each second are 0.3 at a time; they wait together for 40 ms at most.
  const auto workload = make_load("burst:size=30,every_ms=1000,duration_ms=10,functions=1", 120s, 1);
  const Outcome outcome = simulate(options, *workload);
  CHECK(outcome.violation.empty());
  CHECK(outcome.failures.empty());
  CHECK(outcome.sandboxes_max <= 60);
}

TEST_CASE("sim: a data plane that is told too large a limit is caught by the checker") {
  SimOptions options = small_cluster();
  const auto workload = make_load("poisson:rps=100,duration_ms=100,functions=2", 10s, 1);
  CHECK(simulate(options, *workload).violation.empty());
  options.spoil_routes = [](RouteUpdate& update) {
    for (auto& route : update.functions) {
      for (auto& sandbox : route.sandboxes) sandbox.slots *= 2;
    }
  };
  CHECK(simulate(options, *workload).violation.find("its limit is 1") != std::string::npos);
}

TEST_CASE("sim: a request that is never answered well after the faults is caught by the checker") {
  SimOptions options = small_cluster();
  options.check_every_step = true;
  REQUIRE(add_fault(options.faults, "cut=60"));
  options.faults_for = 5s;
  const auto workload = make_load("poisson:rps=10,duration_ms=10,functions=1", 60s, 1);
  CHECK(simulate(options, *workload).violation.empty());
  options.spoil_routes = [](RouteUpdate& update) {
    for (auto& route : update.functions) route.sandboxes.clear();
  };
  CHECK(simulate(options, *workload).violation.find("was refused (queue-timeout)") != std::string::npos);
}

namespace {

// A group whose members die, are cut off and paused while functions are changed.
FuzzCase group_case(std::uint64_t seed) {
  FuzzCase made;
  made.options = small_cluster();
  made.options.seed = seed;
  made.options.control_members = 3;
  made.options.data_planes = 2;
  made.options.check_every_step = true;
  made.options.faults.control = 40;
  made.options.faults.change = 200;
  made.options.faults_for = 30s;
  made.workload = *make_load("poisson:rps=20,duration_ms=100,functions=4", 70s, seed);
  return made;
}

}  // namespace

TEST_CASE("sim: a group of control planes comes to one leader and loses nothing, and the same seed gives the same bytes") {
  const auto made = group_case(3);
  const auto report = [&](const SimOptions& options) {
    const Outcome outcome = simulate(options, made.workload);
    CHECK(outcome.violation == "");
    CHECK(outcome.succeeded > 1000);
    CHECK(outcome.faults.at("control") > 5);
    return to_json({{"run", outcome}}, options, made.workload);
  };
  const std::string first = report(made.options);
  CHECK(first == report(made.options));
  SimOptions alone = made.options;
  alone.control_members = 1;
  CHECK(first != report(alone));
}

TEST_CASE("sim: a group that acknowledges a change before it is committed is caught by the checker") {
  std::string found;
  for (std::uint64_t seed = 1; seed <= 20 && found.empty(); ++seed) {
    auto made = group_case(seed);
    made.options.acknowledge_too_early = true;
    found = simulate(made.options, made.workload).violation;
  }
  CHECK(found.find("that was acknowledged") != std::string::npos);
}

TEST_CASE("settings and faults: unknown names are refused with a suggestion") {
  RevisionSpec spec;
  REQUIRE(apply_setting(spec, "stable_window=30s"));
  CHECK(spec.scaling.stable_window == 30s);
  CHECK(apply_setting(spec, "stable_windo=30s").error().message.find("did you mean \"stable_window\"?") != std::string::npos);
  CHECK(apply_setting(spec, "stable_window=x").error().message.find("setting stable_window: ") == 0);
  CHECK(apply_setting(spec, "min_scale").error().message.find("has no value") != std::string::npos);
  Faults faults;
  CHECK(add_fault(faults, "crush").error().message.find("did you mean \"crash\"?") != std::string::npos);
  CHECK(add_fault(faults, "start=2").error().message.find("0..1") != std::string::npos);
  CHECK(Distribution::parse("lognormal:60ms,40ms").error().message.find("is not a distribution") != std::string::npos);
}
