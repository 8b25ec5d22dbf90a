// SPDX-License-Identifier: MIT
#include "cli/sim_command.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "cli/command_line.h"
#include "cli/flag_reader.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "dirigent/base/text.h"
#include "dirigent/sim/report.h"
#include "dirigent/sim/settings.h"
#include "dirigent/sim/simulator.h"

namespace dirigent::cli {

namespace {

const std::vector<Flag>& sim_flags() {
  static const std::vector<Flag> flags{
      {"load", 0, "LOAD", "instead of a trace: poisson:rps=50,duration_ms=100,functions=10, or burst:..., ramp:..."},
      {"minutes", 0, "N", "of the trace, or of the load [30]; 0 = the whole trace"},
      {"iat", 0, "SPACING", "of the invocations of a minute [exponential]", false, workload::spacing_names()},
      {"seed", 0, "N", "of everything random [1]"},
      {"nodes", 0, "N", "workers [93]"},
      {"cores-per-node", 0, "CPUS", "CPUs of each [10]"},
      {"memory-per-node", 0, "BYTES", "memory of each [64GiB]"},
      {"control-members", 0, "N", "control planes with one log [1]"},
      {"data-planes", 0, "N", "data planes [1]"},
      {"shards", 0, "N", "of each data plane [1]"},
      {"autoscaler", 0, "NAME", "of the cluster [knative]", false, policy::autoscaler_names()},
      {"placement", 0, "NAME", "of sandboxes on nodes [kubernetes]", false, policy::placement_names()},
      {"balancer", 0, "NAME", "of requests on sandboxes [knative]", false, policy::balancer_names()},
      {"profile", 0, "NAME", "settings of the functions to begin with [dirigent]", false, scaling_profile_names()},
      {"set", 0, "KEY=VALUE", "a setting of the functions, such as stable_window=30s, concurrency_limit=1 or cpu=250m", true},
      {"start-time", 0, "DISTRIBUTION", "of sandboxes: constant:40ms, lognormal:P50,P99, uniform:LOW,HIGH, file:PATH [lognormal:40ms,60ms]"},
      {"network-delay", 0, "DISTRIBUTION", "one way [100us]"},
      {"warm-up", 0, "DURATION", "requests that arrive earlier are not measured [0s]"},
      {"fault", 0, "NAME[=RATE]", "what goes wrong, times a minute [6]: " + fmt::format("{}", fmt::join(sim::fault_names(), ", ")), true, sim::fault_names()},
      {"compare", 0, "A,B,...", "autoscalers beside each other"},
      {"output", 'o', "FILE", "the report as JSON"},
      {"plot", 0, "FILE", "the distributions as SVG"},
      {"check", 0, "", "check every invariant after every event"},
      {"fuzz", 0, "N", "instead: N short runs with mixed faults and all checks, from --seed on"},
      {"help", 'h', "", "show this help"}};
  return flags;
}

std::string help() {
  return "usage: dirigent sim TRACE [FLAGS]        a folder (Azure 2019) or a file (Azure 2021)\n"
         "       dirigent sim --load LOAD [FLAGS]\n"
         "       dirigent sim --fuzz N [--seed N]\n\n"
         "Runs the production decisions against modelled workers and a modelled network in virtual time. The same flags and\n"
         "input give the same output. Exit status: 0, 1 = an invariant did not hold, 2 = bad usage or input.\n\nflags:\n" +
         describe_flags(sim_flags());
}

Result<sim::SimOptions> read_options(const Arguments& flags) {
  sim::SimOptions options;
  FlagReader reader(flags);
  reader.whole("seed", options.seed, 0, INT64_MAX);
  reader.whole("nodes", options.nodes, 1, 100'000);
  reader.whole("control-members", options.control_members, 1, 7);
  reader.whole("data-planes", options.data_planes, 1, 1000);
  reader.whole("shards", options.shards, 1, 256);
  reader.read("cores-per-node", options.node_capacity.cpu, parse_cpu);
  reader.read("memory-per-node", options.node_capacity.memory, parse_bytes);
  reader.read("autoscaler", options.autoscaler, policy::parse_autoscaler);
  reader.read("placement", options.placement, policy::parse_placement);
  reader.read("balancer", options.balancer, policy::parse_balancer);
  auto profile = *scaling_profile("dirigent");
  reader.read("profile", profile, scaling_profile);
  options.spec.image = "builtin:hello";
  options.spec.scaling = profile.scaling;
  options.spec.concurrency_limit = profile.concurrency_limit;
  for (const auto& setting : flags.values("set")) reader.note(sim::apply_setting(options.spec, setting), "set");
  options.start_time = *sim::Distribution::parse("lognormal:40ms,60ms");
  reader.read("start-time", options.start_time, sim::Distribution::parse);
  reader.read("network-delay", options.network_delay, sim::Distribution::parse);
  reader.read("warm-up", options.warm_up, parse_duration);
  for (const auto& fault : flags.values("fault")) reader.note(sim::add_fault(options.faults, fault), "fault");
  options.check_every_step = flags.is_on("check");
  if (auto status = reader.status(); !status) return failure(status.error());
  if (auto valid = validate(options.spec); !valid) return failure(valid.error().within("--set"));
  if (!options.spec.resources.fits_in(options.node_capacity)) {
    return failure(ErrorCode::invalid_argument, "a sandbox of {} mcpu does not fit on a node of {} (--cores-per-node, --set cpu=...)",
                   options.spec.resources.cpu.value, options.node_capacity.cpu.value);
  }
  return options;
}

Result<workload::Workload> read_workload(const Arguments& flags, std::uint64_t seed) {
  workload::TraceOptions trace;
  trace.seed = seed;
  FlagReader reader(flags);
  reader.whole("minutes", trace.minutes, 0, 100'000);
  reader.read("iat", trace.spacing, workload::parse_spacing);
  if (auto status = reader.status(); !status) return failure(status.error());
  const auto load = flags.value("load");
  if (load.has_value() == !flags.words().empty()) {
    return failure(ErrorCode::invalid_argument, "give either a trace or --load (dirigent sim --help)");
  }
  if (!load) return workload::read_trace(flags.words().front(), trace);
  if (trace.minutes == 0) return failure(ErrorCode::invalid_argument, "--minutes: a load has no end of its own, say how long");
  return workload::make_load(*load, trace.minutes * 60s, seed);
}

// A line on stderr that is written over, when that is a terminal.
class Progress {
 public:
  Progress(Terminal& terminal, std::string name) : terminal_(terminal), name_(std::move(name)), began_(now()), on_(::isatty(STDERR_FILENO) == 1) {}
  void show(double fraction) const {
    if (!on_ || fraction <= 0) return;
    fraction = std::min(fraction, 1.0);
    constexpr int kWidth = 30;
    const int filled = static_cast<int>(fraction * kWidth);
    const double left = seconds() * (1 - fraction) / fraction;
    terminal_.talk("\r{:<12} [{:#<{}}{:.<{}}] {:3.0f} %  {:.0f} s left ", name_, "", filled, "", kWidth - filled, fraction * 100, left);
  }
  void end(const sim::Outcome& outcome) const {
    if (on_) terminal_.talk("\r\x1b[K");
    terminal_.talk("{}: {} events in {:.2f} s, {:.2f} million a second\n", name_, outcome.events, seconds(),
                   static_cast<double>(outcome.events) / std::max(seconds(), 1e-9) / 1e6);
  }

 private:
  static std::chrono::steady_clock::time_point now() { return std::chrono::steady_clock::now(); }
  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(now() - began_).count(); }

  Terminal& terminal_;
  std::string name_;
  std::chrono::steady_clock::time_point began_;
  bool on_;
};

// What reproduces the run under way; an assertion of the cores ends the process, and this is the last thing it says.
char reproduce_text[4096];

void on_abort(int) {
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, reproduce_text, std::strlen(reproduce_text));
  std::_Exit(1);
}

void remember_command(const std::string& command) {
  const std::string text = "reproduce: " + command + "\n";
  const std::size_t size = std::min(text.size(), sizeof reproduce_text - 1);
  std::memcpy(reproduce_text, text.data(), size);
  reproduce_text[size] = 0;
  std::signal(SIGABRT, on_abort);
}

int fuzz(std::uint64_t first, std::uint64_t count, Terminal& terminal) {
  std::uint64_t failed = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    remember_command(fmt::format("dirigent sim --fuzz 1 --seed {}", seed));
    const sim::FuzzCase made = sim::fuzz_case(seed);
    const sim::Outcome outcome = sim::simulate(made.options, made.workload);
    if (!outcome.violation.empty()) {
      ++failed;
      terminal.talk("seed {} ({}): {}\n{}", seed, made.description, outcome.violation, reproduce_text);
    } else if (count == 1) {
      terminal.talk("seed {}: {}\n", seed, made.description);
      terminal.write(sim::format_outcomes({{"fuzz", outcome}}));
    }
  }
  terminal.print("{} passed, {} failed\n", count - failed, failed);
  return failed == 0 ? 0 : 1;
}

Result<std::vector<policy::AutoscalerKind>> compared(const Arguments& flags, policy::AutoscalerKind standard) {
  std::vector<policy::AutoscalerKind> kinds;
  const auto list = flags.value("compare");
  if (!list) return std::vector{standard};
  for (const auto word : split(*list, ',')) {
    auto kind = policy::parse_autoscaler(trim(word));
    if (!kind) return failure(kind.error().within("--compare"));
    kinds.push_back(*kind);
  }
  return kinds;
}

int simulate(const Arguments& flags, const std::vector<std::string>& words, Terminal& terminal) {
  const auto refuse = [&](const Error& error) {
    terminal.error(error.message);
    return 2;
  };
  auto options = read_options(flags);
  if (!options) return refuse(options.error());
  const auto kinds = compared(flags, options->autoscaler);
  if (!kinds) return refuse(kinds.error());
  auto workload = read_workload(flags, options->seed);
  if (!workload) return refuse(workload.error());

  remember_command(fmt::format("dirigent sim {}", fmt::join(words, " ")));
  std::vector<sim::NamedOutcome> outcomes;
  int status = 0;
  for (const auto kind : *kinds) {
    options->autoscaler = kind;
    const std::string name(to_string(kind));
    const Progress progress(terminal, name);
    options->progress = [&progress](double fraction) { progress.show(fraction); };
    outcomes.push_back({name, sim::simulate(*options, *workload)});
    progress.end(outcomes.back().outcome);
    if (const std::string& violation = outcomes.back().outcome.violation; !violation.empty()) {
      terminal.error(fmt::format("{}: {}", name, violation));
      terminal.say(reproduce_text);
      status = 1;
    }
  }
  terminal.print("{}: {} functions, {} invocations in {:.0f} min; {} nodes, seed {}\n\n", workload->source, workload->functions.size(),
                 workload->arrivals.size(), to_seconds(workload->length) / 60, options->nodes, options->seed);
  terminal.write(sim::format_outcomes(outcomes));
  if (const auto path = flags.value("output")) {
    if (auto written = write_file(*path, sim::to_json(outcomes, *options, *workload)); !written) return refuse(written.error());
  }
  std::string plot = flags.value("plot").value_or(flags.has("compare") ? "dirigent-sim.svg" : "");
  if (!plot.empty()) {
    if (auto written = write_file(plot, sim::to_svg(outcomes, workload->source)); !written) return refuse(written.error());
    terminal.talk("plot: {}\n", plot);
  }
  return status;
}

}  // namespace

int run_sim(std::vector<std::string> arguments) {
  Terminal terminal = Terminal::of_process();
  const auto flags = parse_arguments(arguments, sim_flags(), 1);
  if (!flags) {
    terminal.error(flags.error().message);
    return 2;
  }
  if (flags->is_on("help")) {
    terminal.write(help());
    return 0;
  }
  if (!flags->has("fuzz")) return simulate(*flags, arguments, terminal);
  std::uint64_t count = 0;
  std::uint64_t seed = 1;
  FlagReader reader(*flags);
  reader.whole("fuzz", count, 1, INT32_MAX);
  reader.whole("seed", seed, 0, INT64_MAX);
  if (auto status = reader.status(); !status) {
    terminal.error(status.error().message);
    return 2;
  }
  return fuzz(seed, count, terminal);
}

}  // namespace dirigent::cli
