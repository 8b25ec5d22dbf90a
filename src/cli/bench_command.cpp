// SPDX-License-Identifier: MIT
#include "cli/bench_command.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <thread>

#include "cli/bench_options.h"
#include "cli/bench_plan.h"
#include "cli/ctl/deploy_body.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "dirigent/base/random.h"
#include "dirigent/bench/engine.h"
#include "dirigent/io/loop.h"

namespace dirigent::cli {

namespace {

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;
constexpr int kCheckFailed = 8;
constexpr int kInterrupted = 130;
// A step of a sweep in which more than this fails, or takes longer, shows that the cluster is saturated: higher rates
// would only measure how a queue grows.
constexpr double kSaturatedShare = 0.5;
constexpr double kSaturatedMs = 5000;
constexpr Duration kServedPatience = 60s;
// Registrations that nobody waits for travel to the data planes meanwhile.

std::atomic<bool> stop_asked{false};

// The first signal ends the run in order, the second one the process.
class StopOnSignal {
 public:
  StopOnSignal() {
    struct sigaction action {};
    action.sa_handler = [](int) { stop_asked.store(true); };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGINT, &action, &before_[0]);
    ::sigaction(SIGTERM, &action, &before_[1]);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  ~StopOnSignal() {
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
  }

 private:
  struct sigaction before_[2]{};
};

// One line on stderr that is written over, when that is a terminal.
class ProgressLine {
 public:
  ProgressLine(Terminal& terminal, bool quiet) : terminal_(terminal), on_(!quiet && ::isatty(STDERR_FILENO) == 1) {}

  void say(const std::string& text) {
    if (on_) terminal_.talk("\r\x1b[K{}", text);
  }
  void show(const std::string& name, const bench::Progress& p) {
    if (!on_) return;
    constexpr int kWidth = 20;
    const int filled = static_cast<int>(p.fraction * kWidth);
    std::string line =
        fmt::format("{}[{:#<{}}{:.<{}}] {:3.0f} %", name, "", filled, "", kWidth - filled, p.fraction * 100);
    if (p.planned > Duration::zero())
      line += fmt::format("  {:.0f} s left", std::max(0.0, to_seconds(p.planned - p.elapsed)));
    if (p.is_warm_up) line += "  warming up";
    line += fmt::format("  {:.0f}/s", p.rate);
    if (p.recent.count() > 0) {
      line += fmt::format("  p50 {}  p99 {}", format_duration(Duration(p.recent.quantile(0.5))),
                          format_duration(Duration(p.recent.quantile(0.99))));
    }
    line += fmt::format("  in flight {}", p.in_flight);
    if (p.failed > 0) line += fmt::format("  failed {}", p.failed);
    say(line);
  }
  void clear() {
    if (on_) terminal_.talk("\r\x1b[K");
  }

 private:
  Terminal& terminal_;
  bool on_;
};

class Bench {
 public:
  Bench(BenchOptions options, Terminal& terminal)
      : options_(std::move(options)), terminal_(terminal), line_(terminal, options_.quiet) {}

  int run() {
    if (const int status = deploy(); status != 0) return status;
    put_targets(options_, functions_, endpoints_);
    int status = stop_asked ? kInterrupted : measure();
    remove();
    return status;
  }

 private:
  int deploy() {
    if (!options_.deploy) return 0;
    functions_ = functions_to_deploy(options_, entropy_seed());
    line_.say(fmt::format("registering {} function(s) ...", functions_.size()));
    const Instant began = io::Loop::now();
    auto endpoints = bench::deploy(*options_.deploy, functions_);
    line_.clear();
    if (!endpoints) {
      terminal_.error(endpoints.error().message);
      return endpoints.error().code == ErrorCode::unavailable || endpoints.error().code == ErrorCode::not_found
                 ? 4
                 : kFailed;
    }
    if (!options_.quiet)
      terminal_.talk("registered {} function(s) in {}\n", functions_.size(), format_duration(io::Loop::now() - began));
    endpoints_ = std::move(*endpoints);
    const bool is_cold =
        options_.mode == BenchMode::sweep || options_.mode == BenchMode::trace || options_.mode == BenchMode::replay;
    // Registered is not yet calm: logs are synced, spares started.
    if (is_cold) {
      wait("settling", options_.settle);
      return 0;
    }
    if (auto served = bench::wait_until_served(functions_, endpoints_, kServedPatience); !served) {
      terminal_.error(served.error().message);
      remove();
      return kFailed;
    }
    return 0;
  }

  void remove() {
    if (functions_.empty() || options_.keep) return;
    line_.say(fmt::format("deleting {} function(s) ...", functions_.size()));
    const auto removed = bench::remove(*options_.deploy, functions_);
    line_.clear();
    if (!removed)
      terminal_.error(fmt::format("{} (the functions of this run may still be there)", removed.error().message));
    functions_.clear();
  }

  Result<bench::RunResult> run_plan(const std::string& name) {
    bench::EngineOptions engine;
    engine.stop = &stop_asked;
    engine.progress = [&](const bench::Progress& progress) { line_.show(name, progress); };
    auto result = bench::run_plan(options_.plan, engine);
    line_.clear();
    return result;
  }

  int measure() {
    bench::Report report;
    std::optional<bench::RunResult> result;
    if (options_.mode == BenchMode::sweep) {
      const int status = sweep(report, result);
      if (status != 0) return status;
    } else {
      auto run = run_plan("");
      if (!run) {
        terminal_.error(run.error().message);
        return kFailed;
      }
      report = bench::make_report(options_.plan, *run);
      result = std::move(*run);
    }
    return tell(report, *result);
  }

  int sweep(bench::Report& report, std::optional<bench::RunResult>& all) {
    std::vector<std::pair<double, bench::Report>> steps;
    std::optional<std::string> saturated;
    for (const double rate : options_.sweep_rates) {
      if (stop_asked || saturated) break;
      if (!steps.empty()) rest();
      auto step = sweep_step(rate, options_.cooldown, options_.plan.length, options_.plan.run_time);
      options_.plan.workload = std::make_shared<const workload::Workload>(std::move(step));
      auto run = run_plan(fmt::format("{:g}/s ", rate));
      if (!run) {
        terminal_.error(run.error().message);
        return kFailed;
      }
      steps.emplace_back(rate, bench::make_report(options_.plan, *run));
      const bench::Report& made = steps.back().second;
      if (!options_.quiet) terminal_.talk("{:g}/s: {}", rate, summary(made));
      const bench::Metric* const p50 = made.find("latency.p50");
      if (made.find("err.share")->value > kSaturatedShare || (p50 != nullptr && p50->value > kSaturatedMs)) {
        saturated = fmt::format("saturated at {:g} cold starts/s: higher rates were left out", rate);
      }
      if (!all) {
        all = std::move(*run);
      } else {
        all->measurement->merge(*run->measurement);
        all->cpu_seconds += run->cpu_seconds;
        all->connections_opened += run->connections_opened;
        all->in_flight_max = std::max(all->in_flight_max, run->in_flight_max);
        all->was_stopped |= run->was_stopped;
      }
    }
    if (!all) return kInterrupted;
    report = bench::make_report(options_.plan, *all);
    for (const auto& [rate, step] : steps) bench::add_sweep_step(report, rate, step);
    if (saturated) report.warnings.push_back(*saturated);
    return 0;
  }

  static std::string summary(const bench::Report& step) {
    const auto get = [&](std::string_view name) { return step.find(name) == nullptr ? 0 : step.find(name)->value; };
    return fmt::format("{:.0f} calls, {:.0f} failed, {:.1f} % cold, p50 {:.2f} ms, p99 {:.2f} ms\n", get("sent"),
                       get("err"), get("cold.share") * 100, get("latency.p50"), get("latency.p99"));
  }

  // Until the sandboxes of the step before are gone.
  void rest() { wait("resting", options_.cooldown); }

  void wait(const char* what, Duration duration) {
    const Instant until = io::Loop::now() + duration;
    while (io::Loop::now() < until && !stop_asked) {
      line_.say(fmt::format("{}, {:.0f} s left", what, to_seconds(until - io::Loop::now())));
      std::this_thread::sleep_for(std::min<Duration>(100ms, until - io::Loop::now()));
    }
    line_.clear();
  }

  int tell(const bench::Report& report, const bench::RunResult& result) {
    if (options_.output == "-") {
      terminal_.write(bench::to_json(report));
    } else {
      terminal_.write(bench::format_report(report));
      if (!report.sweep.empty()) terminal_.write("\n" + bench::format_sweep(report));
    }
    if (const auto written = write_files(report, result); !written) {
      terminal_.error(written.error().message);
      return kFailed;
    }
    const auto failed = bench::failed_assertions(options_.assertions, report, nullptr);
    for (const auto& line : failed) terminal_.error("assertion failed: " + line);
    if (!failed.empty()) return kCheckFailed;
    if (result.was_stopped) return kInterrupted;
    const bench::Metric* const ok = report.find("ok");
    if (ok == nullptr || ok->value == 0) {
      terminal_.error("no call was answered with success");
      return kFailed;
    }
    return 0;
  }

  Status write_files(const bench::Report& report, const bench::RunResult& result) {
    if (!options_.output.empty() && options_.output != "-") {
      if (auto status = write_file(options_.output, bench::to_json(report)); !status) return status;
    }
    if (!options_.csv.empty()) {
      if (auto status = bench::write_invitro_csv(options_.csv, options_.plan, *result.measurement); !status)
        return status;
    }
    if (!options_.plot.empty()) {
      if (auto status = write_file(options_.plot, bench::draw_reports({{"this run", &report}})); !status) return status;
    }
    return {};
  }

  BenchOptions options_;
  Terminal& terminal_;
  ProgressLine line_;
  std::vector<bench::NewFunction> functions_;
  std::vector<std::string> endpoints_;
};

Result<bench::Report> read_report(const std::string& path) {
  auto text = read_whole_file(path);
  if (!text) return failure(text.error());
  auto report = bench::report_from_json(*text);
  if (!report) return failure(report.error().within(path));
  return report;
}

int compare(const Arguments& arguments, Terminal& terminal) {
  const auto refuse = [&](const Error& error) {
    terminal.error(error.message);
    return kBadUsage;
  };
  if (arguments.words().size() != 2)
    return refuse({ErrorCode::invalid_argument, "--compare needs two files of --output: A.json B.json"});
  std::vector<bench::Assertion> assertions;
  for (const auto& text : arguments.values("assert")) {
    auto parsed = bench::parse_assertions(text, true);
    if (!parsed) return refuse(parsed.error().within("--assert"));
    assertions.insert(assertions.end(), parsed->begin(), parsed->end());
  }
  const std::string& name_a = arguments.words()[0];
  const std::string& name_b = arguments.words()[1];
  const auto a = read_report(name_a);
  if (!a) return refuse(a.error());
  const auto b = read_report(name_b);
  if (!b) return refuse(b.error());
  terminal.write(bench::format_comparison(name_a, *a, name_b, *b));
  if (const auto plot = arguments.value("plot")) {
    if (auto written = write_file(*plot, bench::draw_reports({{name_a, &*a}, {name_b, &*b}})); !written)
      return refuse(written.error());
  }
  const auto failed = bench::failed_assertions(assertions, *b, &*a);
  for (const auto& line : failed) terminal.error("assertion failed: " + line);
  return failed.empty() ? 0 : kCheckFailed;
}

}  // namespace

int run_bench(std::vector<std::string> arguments) {
  constexpr std::size_t kWordsMax = 10'000;
  Terminal terminal = Terminal::of_process();
  const auto flags = parse_arguments(arguments, bench_flags(), kWordsMax);
  if (!flags) {
    terminal.error(flags.error().message);
    return kBadUsage;
  }
  if (flags->is_on("help")) {
    terminal.write(bench_help());
    return 0;
  }
  if (flags->is_on("compare")) return compare(*flags, terminal);
  auto options = bench_options(*flags);
  if (!options) {
    terminal.error(options.error().message);
    return kBadUsage;
  }
  const StopOnSignal on_signal;
  return Bench(std::move(*options), terminal).run();
}

}  // namespace dirigent::cli
