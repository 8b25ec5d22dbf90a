// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "catch.h"
#include "dirigent/bench/report.h"

using namespace dirigent;
using namespace dirigent::bench;

namespace {

// 100 calls of 1..100 ms to two functions, every tenth of them cold, and one failure.
struct Run {
  Run() {
    plan.description = "a test";
    plan.endpoints = {"127.0.0.1:8080"};
    plan.targets = {{"trace-func-0-17", 0, "", "/", "", 128}, {"trace-func-1-99", 0, "", "/", "", 128}};
    plan.keep_records = true;
    result.measurement = std::make_unique<Measurement>(2, false, true);
    result.cpu_seconds = 0.00101;
    result.started = WallTime(std::chrono::microseconds(1'795'411'185'448'847));
    for (int i = 1; i <= 100; ++i) {
      Call call;
      call.intended = call.sent = Instant{} + 1s + i * 10ms;
      call.run_time = 1ms;
      call.target = static_cast<std::uint32_t>(i % 2);
      call.ordinal = static_cast<std::uint32_t>(i);
      Answer answer;
      answer.status = 200;
      answer.end_at = call.intended + i * 1ms;
      answer.head_at = answer.end_at - 50us;
      answer.body = "x";
      answer.body_bytes = 1;
      answer.timing.is_present = true;
      answer.timing.is_cold = i % 10 == 0;
      answer.timing.ms[static_cast<std::size_t>(Phase::function)] = 1;
      answer.timing.ms[static_cast<std::size_t>(Phase::create)] = answer.timing.is_cold ? 5 : 0;
      result.measurement->record(call, answer, result.started + std::chrono::milliseconds(i * 10));
    }
    Call call;
    call.intended = call.sent = Instant{} + 1s;
    Answer answer;
    answer.fault = Fault::timed_out;
    answer.end_at = call.intended + 1s;
    result.measurement->record(call, answer, result.started);
  }
  [[nodiscard]] Report report() const { return make_report(plan, result); }
  Plan plan;
  RunResult result;
};

double value(const Report& report, std::string_view name) {
  const Metric* const metric = report.find(name);
  REQUIRE(metric != nullptr);
  return metric->value;
}

std::vector<std::string> failures(const std::string& terms, const Report& report) {
  const auto assertions = parse_assertions(terms, false);
  REQUIRE(assertions);
  return failed_assertions(*assertions, report, nullptr);
}

std::string error_of(const std::string& terms, bool is_comparison = false) {
  const auto assertions = parse_assertions(terms, is_comparison);
  return assertions ? "no error" : assertions.error().message;
}

struct Folder {
  Folder() {
    std::string pattern = std::filesystem::temp_directory_path() / "dirigent-bench-XXXXXX";
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

}  // namespace

TEST_CASE("bench report: figures have the values of what was recorded") {
  const Report report = Run().report();
  CHECK(value(report, "sent") == 101);
  CHECK(value(report, "ok") == 100);
  CHECK(value(report, "err") == 1);
  CHECK(value(report, "cold") == 10);
  CHECK(value(report, "latency.p50") == Approx(50).epsilon(0.001));
  CHECK(value(report, "latency.p99") == Approx(99).epsilon(0.001));
  CHECK(value(report, "latency.max") == Approx(100));
  CHECK(value(report, "overhead.p50") == Approx(49).epsilon(0.001));
  CHECK(value(report, "fn.mean") == Approx(1));
  CHECK(value(report, "cold.p50") == Approx(50).epsilon(0.001));
  CHECK(value(report, "phase.create.p99") == Approx(5).epsilon(0.02));
  CHECK(value(report, "mean.create") == Approx(0.5));
  CHECK(value(report, "scheduling.max") == Approx(50));  // 2, 4, ..., 100 less 1
  CHECK(value(report, "client.cpu") == Approx(10));
  CHECK(value(report, "errors.timed-out") == 1);
  CHECK(report.function_slowdown.values.size() == 2);
  CHECK(report.started == "2026-11-23T05:19:45Z");
  // From the first intended start to the last end.
  CHECK(value(report, "seconds") == Approx(1.1));
}

TEST_CASE("bench report: JSON gives back the same report") {
  Report report = Run().report();
  add_sweep_step(report, 0.5, Run().report());
  const auto again = report_from_json(to_json(report));
  REQUIRE(again);
  CHECK(to_json(*again) == to_json(report));
  CHECK(value(*again, "latency.p99") == value(report, "latency.p99"));
  CHECK(again->find("latency.p99")->unit == "ms");
  CHECK(again->find("client.cpu")->unit == "us");
  CHECK(value(*again, "sweep.0.5.latency.p99") == value(report, "latency.p99"));
  CHECK(to_json(report).find("\"latency.p99_ms\"") != std::string::npos);
}

TEST_CASE("bench report: what is no report is refused with a reason") {
  for (const auto* text : {"", "{}", "[]", "{\"tool\":\"dirigent bench\",\"format\":99}",
                           "{\"tool\":\"dirigent bench\",\"format\":1}", "null"}) {
    const auto report = report_from_json(text);
    REQUIRE_FALSE(report);
    CHECK(report.error().code == ErrorCode::invalid_argument);
    CHECK(report.error().message.find("no report") != std::string::npos);
  }
}

TEST_CASE("bench assertions: terms that hold are silent, the others say the value") {
  const Report report = Run().report();
  CHECK(failures("latency.p50<51ms, "
                 "latency.max<=0.1s,err==1,ok>=100,cold!=0,status.200==100,errors.queue-full==0,err.share<0.01",
                 report)
            .empty());
  CHECK(failures("overhead.p99<5ms,err==0", report) ==
        std::vector<std::string>{"overhead.p99<5ms: it is 98.0419 ms", "err==0: it is 1"});
  CHECK(failures("client.cpu<5us", report) == std::vector<std::string>{"client.cpu<5us: it is 10 us"});
  CHECK(failures("client.cpu<1ms", report).empty());
  CHECK(failures("status.503>0", report) == std::vector<std::string>{"status.503>0: it is 0"});
}

TEST_CASE("bench assertions: a figure that was not measured holds nothing") {
  Run run;
  run.result.measurement = std::make_unique<Measurement>(2, false, true);
  const Report report = run.report();
  CHECK(failures("overhead.p99<5ms", report) ==
        std::vector<std::string>{"overhead.p99<5ms: there is no such figure in this run"});
  CHECK(failures("overhead.p99>0", report).size() == 1);
}

TEST_CASE("bench assertions: a term that cannot be meant is refused before the run") {
  CHECK(error_of("overhead.p99<5").find("not a duration with its unit") != std::string::npos);
  CHECK(error_of("overhead.p98<5ms").find("did you mean \"overhead.p9") != std::string::npos);
  CHECK(error_of("err=0").find("is no assertion") != std::string::npos);
  CHECK(error_of("err").find("is no assertion") != std::string::npos);
  CHECK(error_of("err==none").find("is not a number") != std::string::npos);
  CHECK(error_of("err==5ms").find("is not a number") != std::string::npos);
  CHECK(error_of(" , ").find("asserts nothing") != std::string::npos);
  CHECK(error_of("latency.p99.ratio<1.1").find("needs two reports") != std::string::npos);
  CHECK(error_of("latency.p99.ratio<1.1", true) == "no error");
  CHECK(error_of("sweep.100.latency.p99<400ms,sweep.0.5.err==0,rate>=100,latency.p99<0") == "no error");
}

TEST_CASE("bench comparison: figures stand beside each other, and a ratio can be asserted") {
  const Report a = Run().report();
  Report b = a;
  for (Metric& metric : b.metrics) {
    if (metric.name == "latency.p99") metric.value *= 2;
  }
  const std::string table = format_comparison("a.json", a, "b.json", b);
  CHECK(table.find("2.000") != std::string::npos);
  CHECK(table.find("latency.p99") != std::string::npos);
  const auto assertions = parse_assertions("latency.p99.ratio<1.5,latency.p50.ratio<=1,latency.p99<1s", true);
  REQUIRE(assertions);
  const auto lines = failed_assertions(*assertions, b, &a);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].find("latency.p99.ratio<1.5: it is 2 (") == 0);
}

TEST_CASE("bench tables: every figure of a run is told, with its warnings") {
  Run run;
  run.result.was_stopped = true;
  run.result.measurement->not_sent = 7;
  const std::string text = format_report(run.report());
  for (const auto* part : {"a test\n", "sent 101   ok 100   failed 1", "latency, from the intended start",
                           "platform overhead", "cold calls (10)", "  create", "where it went (mean, ms)",
                           "status  200: 100", "failed  timed-out: 1", "stopped early: 7 calls"}) {
    INFO(part << " in\n" << text);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("bench CSV: the columns, units and order are those of the Invitro loader") {
  const Run run;
  const Folder folder;
  const std::string path = folder.path + "/out.csv";
  REQUIRE(write_invitro_csv(path, run.plan, *run.result.measurement));
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  CHECK(line ==
        "phase,instance,invocationID,startTime,requestedDuration,grpcConnEstablish,responseTime,actualDuration,"
        "connectionTimeout,"
        "functionTimeout,actualMemoryUsage,memoryAllocationTimeout,timeToSubmitMs,userCodeExecutionMs,"
        "timeToGetResponseMs");
  std::getline(file, line);
  CHECK(line == "2,trace-func-1-99,min0.inv1,1795411185458847,1000,950,1000,1000,false,false,0,false,0,0,0");
  std::size_t rows = 1;
  std::string timed_out;
  std::int64_t before = 0;
  for (; std::getline(file, line); ++rows) {
    std::istringstream fields(line);
    std::vector<std::string> columns;
    for (std::string field; std::getline(fields, field, ',');) columns.push_back(field);
    REQUIRE(columns.size() == 15);
    const std::int64_t end = std::stoll(columns[3]) + std::stoll(columns[6]);
    CHECK(end >= before);
    before = end;
    if (columns[8] == "true") timed_out = line;
  }
  CHECK(rows == 101);
  CHECK(timed_out == "2,trace-func-0-17,min0.inv0,1795411185448847,0,0,1000000,0,true,false,0,false,0,0,0");
  const auto refused = write_invitro_csv(folder.path + "/none/out.csv", run.plan, *run.result.measurement);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find("cannot write " + folder.path) != std::string::npos);
}

TEST_CASE("bench CSV: a recording can be replayed") {
  const Run run;
  const Folder folder;
  const std::string path = folder.path + "/out.csv";
  REQUIRE(write_invitro_csv(path, run.plan, *run.result.measurement));
  const auto workload = workload::read_recording(path);
  REQUIRE(workload);
  CHECK(workload->functions.size() == 2);
  REQUIRE(workload->arrivals.size() == 101);
  CHECK(workload->arrivals[0].at == 0s);
  CHECK(workload->arrivals[1].at == 10ms);
  CHECK(workload->arrivals[1].run_time == 1ms);
  CHECK(workload->functions[workload->arrivals[1].function].name.value == "trace-func-1-99");
}

TEST_CASE("bench plots: a panel for each kind of figure that there is") {
  Report report = Run().report();
  const std::string plain = draw_reports({{"a & b", &report}});
  CHECK(plain.find("latency from the intended start") != std::string::npos);
  CHECK(plain.find("slowdown of a function") != std::string::npos);
  CHECK(plain.find("a &amp; b") != std::string::npos);
  CHECK(plain.find("cold starts per second") == std::string::npos);
  add_sweep_step(report, 1, Run().report());
  add_sweep_step(report, 10, Run().report());
  CHECK(draw_reports({{"x", &report}}).find("cold starts per second") != std::string::npos);
}
