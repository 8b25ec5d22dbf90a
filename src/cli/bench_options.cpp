// SPDX-License-Identifier: MIT
#include "cli/bench_options.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "cli/ctl/client.h"
#include "cli/ctl/deploy_body.h"
#include "cli/flag_reader.h"
#include "dirigent/io/address.h"

namespace dirigent::cli {

namespace {

constexpr std::uint64_t kBodyBytesMax = 1ull << 30;
constexpr const char* kDefaultServer = "127.0.0.1:9092";
constexpr const char* kDefaultImage = "builtin:trace";

std::string_view name_of(BenchMode mode) {
  switch (mode) {
    case BenchMode::closed: return "a closed loop";
    case BenchMode::load: return "an open loop";
    case BenchMode::sweep: return "a sweep";
    case BenchMode::trace: return "a trace";
    case BenchMode::replay: return "a replay";
  }
  return "";
}

Result<BenchMode> choose_mode(const Arguments& arguments) {
  std::optional<BenchMode> mode;
  std::string first;
  for (const auto& [flag, chosen] : {std::pair{"rate", BenchMode::load},
                                     {"load", BenchMode::load},
                                     {"sweep", BenchMode::sweep},
                                     {"trace", BenchMode::trace},
                                     {"replay", BenchMode::replay}}) {
    if (!arguments.has(flag)) continue;
    if (mode)
      return failure(ErrorCode::invalid_argument, "--{} and --{} are two ways of saying when to call: give one", first,
                     flag);
    mode = chosen;
    first = flag;
  }
  return mode.value_or(BenchMode::closed);
}

// A flag that another mode would need is a misunderstanding, and the figures would not be what was asked for.
Status check_fits(const Arguments& arguments, BenchMode mode) {
  struct Rule {
    const char* flag;
    std::vector<BenchMode> modes;
  };
  static const std::vector<Rule> rules{{"arrivals", {BenchMode::load}},
                                       {"requests", {BenchMode::closed}},
                                       {"streams", {BenchMode::closed}},
                                       {"cooldown", {BenchMode::sweep}},
                                       {"settle", {BenchMode::sweep, BenchMode::trace, BenchMode::replay}},
                                       {"minutes", {BenchMode::trace}},
                                       {"iat", {BenchMode::trace}},
                                       {"speed", {BenchMode::trace, BenchMode::replay}},
                                       {"duration", {BenchMode::closed, BenchMode::load, BenchMode::sweep}},
                                       {"run-time", {BenchMode::closed, BenchMode::load, BenchMode::sweep}},
                                       {"functions", {BenchMode::closed, BenchMode::load}}};
  for (const Rule& rule : rules) {
    if (arguments.has(rule.flag) && std::find(rule.modes.begin(), rule.modes.end(), mode) == rule.modes.end()) {
      return failure(ErrorCode::invalid_argument, "--{} means nothing to {} (dirigent bench --help)", rule.flag,
                     name_of(mode));
    }
  }
  return {};
}

Result<BenchTarget> parse_target(const std::string& word) {
  BenchTarget target;
  if (word.starts_with("https://"))
    return failure(ErrorCode::unsupported, "\"{}\": TLS is not supported here, use http://", word);
  if (word.starts_with("http://")) {
    const auto slash = word.find('/', 7);
    target.endpoint = word.substr(7, slash == std::string::npos ? std::string::npos : slash - 7);
    if (target.endpoint.find(':') == std::string::npos) target.endpoint += ":80";
    if (auto address = io::parse_address(target.endpoint); !address) return failure(address.error().within(word));
    target.rest = slash == std::string::npos ? "/" : word.substr(slash);
    return target;
  }
  const auto end = word.find_first_of("/?");
  auto name = parse_function_name(word.substr(0, end));
  if (!name) return failure(name.error());
  target.function = name->value;
  if (end != std::string::npos) target.rest = word.substr(end);
  return target;
}

Result<std::vector<double>> parse_rates(const std::string& text) {
  std::vector<double> rates;
  for (const auto part : split(text, ',')) {
    const auto rate = parse_number(trim(part));
    if (!rate || *rate <= 0 || *rate > 1e6)
      return failure(ErrorCode::invalid_argument, "\"{}\" is not a rate above 0 (as in 1,10,100)", part);
    rates.push_back(*rate);
  }
  return rates;
}

Status read_request(const Arguments& arguments, BenchOptions& options) {
  bench::Request& request = options.plan.request;
  request.invitro = options.mode == BenchMode::trace || options.mode == BenchMode::sweep ||
                    options.mode == BenchMode::replay || arguments.has("run-time");
  const bool has_body = arguments.has("body") || arguments.has("body-bytes");
  request.method = arguments.value("method").value_or(request.invitro || has_body ? "POST" : "GET");
  for (const auto& text : arguments.values("header")) {
    const auto colon = text.find(':');
    if (colon == std::string::npos || colon == 0 || text.find_first_of("\r\n") != std::string::npos) {
      return failure(ErrorCode::invalid_argument, "--header \"{}\" is not of the form \"Name: value\"", text);
    }
    request.headers.emplace_back(trim(text.substr(0, colon)), trim(text.substr(colon + 1)));
  }
  if (const auto body = arguments.value("body")) {
    if (body->starts_with('@')) {
      auto file = read_whole_file(body->substr(1));
      if (!file) return failure(file.error());
      request.body = std::move(*file);
    } else {
      request.body = *body;
    }
  }
  FlagReader reader(arguments);
  std::uint64_t size = 0;
  reader.read("body-bytes", size, [](const std::string& text) -> Result<std::uint64_t> {
    auto bytes = parse_bytes(text);
    if (!bytes) return failure(bytes.error());
    if (bytes->value < 0 || static_cast<std::uint64_t>(bytes->value) > kBodyBytesMax)
      return failure(ErrorCode::invalid_argument, "\"{}\" is more than 1GiB", text);
    return static_cast<std::uint64_t>(bytes->value);
  });
  if (size > 0) request.body.assign(size, 'x');
  return reader.status();
}

Status read_load(const Arguments& arguments, BenchOptions& options) {
  if (const auto text = arguments.value("load")) {
    auto load = workload::Load::parse(*text);
    if (!load) return failure(load.error().within("--load"));
    options.plan.load = *load;
    options.plan.description = fmt::format("open loop, {}", *text);
    return {};
  }
  const auto text = *arguments.value("rate");
  const auto rate = parse_number(text);
  if (!rate || *rate <= 0 || *rate > 1e7)
    return failure(ErrorCode::invalid_argument, "--rate \"{}\" is not a number above 0 (calls a second)", text);
  const std::string arrivals = arguments.value("arrivals").value_or("poisson");
  if (arrivals != "poisson" && arrivals != "constant") {
    return failure(ErrorCode::invalid_argument,
                   "--arrivals \"{}\": it must be poisson or constant (for others: --load)", arrivals);
  }
  workload::Load load;
  load.kind = arrivals == "poisson" ? workload::Load::Kind::poisson : workload::Load::Kind::constant;
  load.rate = load.rate_end = *rate;
  options.plan.load = load;
  options.plan.description = fmt::format("open loop, {}, {:g} calls/s", arrivals, *rate);
  return {};
}

Status read_workload(const Arguments& arguments, BenchOptions& options) {
  FlagReader reader(arguments);
  Result<workload::Workload> workload;
  if (options.mode == BenchMode::trace) {
    workload::TraceOptions trace;
    trace.seed = options.plan.seed;
    reader.whole("minutes", trace.minutes, 0, 100'000);
    reader.read("iat", trace.spacing, workload::parse_spacing);
    if (auto status = reader.status(); !status) return status;
    workload = workload::read_trace(*arguments.value("trace"), trace);
  } else {
    workload = workload::read_recording(*arguments.value("replay"));
  }
  if (!workload) return failure(workload.error());
  reader.read("speed", options.plan.speed, [](const std::string& text) -> Result<double> {
    const auto speed = parse_number(text);
    if (!speed || *speed <= 0 || *speed > 1000)
      return failure(ErrorCode::invalid_argument, "\"{}\" is not a number in 0..1000", text);
    return *speed;
  });
  if (auto status = reader.status(); !status) return status;
  const Duration length = from_seconds(to_seconds(workload->length) / options.plan.speed);
  if (options.plan.warm_up >= length) {
    return failure(ErrorCode::invalid_argument, "--warmup {} leaves nothing of {} s to measure",
                   *arguments.value("warmup"), to_seconds(length));
  }
  options.plan.length = length - options.plan.warm_up;
  options.plan.description =
      fmt::format("{} {}: {} functions, {} calls in {:.0f} s", options.mode == BenchMode::trace ? "trace" : "replay of",
                  workload->source, workload->functions.size(), workload->arrivals.size(), to_seconds(length));
  options.plan.workload = std::make_shared<const workload::Workload>(std::move(*workload));
  return {};
}

Status read_deploy(const Arguments& arguments, BenchOptions& options) {
  const bool always = options.mode == BenchMode::trace || options.mode == BenchMode::sweep;
  if (!always && !arguments.has("deploy")) {
    for (const char* flag : {"form", "set", "keep", "functions"}) {
      if (arguments.has(flag)) return failure(ErrorCode::invalid_argument, "--{} needs --deploy IMAGE", flag);
    }
    return {};
  }
  bench::DeployOptions deploy;
  deploy.image = arguments.value("deploy").value_or(kDefaultImage);
  const char* const environment = std::getenv("DIRIGENT_SERVER");
  auto server = parse_server(arguments.value("server").value_or(
      environment != nullptr && *environment != '\0' ? environment : kDefaultServer));
  if (!server) return failure(server.error().within("--server"));
  deploy.server = *server;
  if (const auto form = arguments.value("form")) {
    auto address = parse_server(*form);
    if (!address) return failure(address.error().within("--form"));
    deploy.form = *address;
  }
  for (const auto& text : arguments.values("set")) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      return failure(ErrorCode::invalid_argument, "--set \"{}\" is not KEY=VALUE", text);
    deploy.fields.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  deploy.is_sweep = options.mode == BenchMode::sweep;
  // 6 s of the original's 10 s: the sandbox is gone when its function is called again. Less is not allowed.
  deploy.window = std::max<Duration>(6s, options.cooldown * 6 / 10);
  options.deploy = deploy;
  return {};
}

}  // namespace

const std::vector<Flag>& bench_flags() {
  static const std::vector<Flag> flags{
      {"rate", 0, "R", "open loop: so many calls a second, whatever the answers do"},
      {"arrivals", 0, "KIND", "of --rate: poisson or constant [poisson]", false, {"poisson", "constant"}},
      {"load", 0, "LOAD", "open loop of another shape: ramp:from=1,to=200 or burst:size=100,every_ms=1000"},
      {"sweep", 0, "R,R,...",
       "cold starts a second, one step after the other: ceil(R x cooldown) functions, each called once per cooldown"},
      {"cooldown", 0, "DURATION", "of the sweep [10s]"},
      {"settle", 0, "DURATION", "of a sweep, trace or replay: from the registrations to the first call [1s]"},
      {"trace", 0, "PATH", "a folder (Azure 2019) or a file (Azure 2021)"},
      {"minutes", 0, "N", "of the trace [30]; 0 = the whole trace"},
      {"iat", 0, "SPACING", "of the calls of a minute [exponential]", false, workload::spacing_names()},
      {"replay", 0, "FILE", "calls as --csv recorded them"},
      {"speed", 0, "FACTOR", "of a trace or replay [1]"},
      {"duration", 'd', "DURATION", "of the measured part, of each step of a sweep [10s, sweep: 30s]"},
      {"warmup", 0, "DURATION", "calls before that are made but not measured [0s]"},
      {"requests", 'n', "N", "closed loop: stop after so many, instead of --duration"},
      {"connections", 'c', "N", "closed loop: so many; open loop: at most so many [closed: 1, open: 10000, h2c: 1]"},
      {"streams", 0, "N", "closed loop over h2c: calls at a time on each connection [100]"},
      {"threads", 't', "N", "of the generator [1]"},
      {"protocol", 0, "NAME", "http1 or h2c (prior knowledge) [http1]", false, {"http1", "h2c"}},
      {"timeout", 0, "DURATION", "of each call, from its intended start [60s; trace, replay: 15m]"},
      {"address", 'a', "HOST:PORT", "of a data plane or load balancer [what registrations say, else 127.0.0.1:8080]",
       true},
      {"by",
       0,
       "WAY",
       "how functions are named: path or host [path; host where calls look like Invitro's]",
       false,
       {"path", "host"}},
      {"method", 'X', "METHOD", "of the requests [GET; POST with a body]"},
      {"header", 'H', "NAME: VALUE", "further header", true},
      {"body", 0, "TEXT", "of the requests; @FILE reads it"},
      {"body-bytes", 0, "SIZE", "a body of that size, such as 64KiB"},
      {"run-time", 0, "DURATION", "sends Invitro's headers: a trace function then takes that long"},
      {"deploy",
       0,
       "IMAGE",
       "register functions before and delete them after [trace, sweep: builtin:trace]",
       false,
       {"builtin:trace", "builtin:hello", "builtin:echo", "builtin:sleep"}},
      {"functions", 0, "N", "to deploy [1]"},
      {"set", 0, "KEY=VALUE", "a field of the registration, such as profile=dirigent or concurrency_limit=1", true},
      {"server", 0, "ADDRESS", "control plane [127.0.0.1:9092, DIRIGENT_SERVER]"},
      {"form", 0, "HOST:PORT", "register at this port by form, as Invitro does"},
      {"keep", 0, "", "leave the deployed functions"},
      {"output", 'o', "FILE", "the report as JSON; - is stdout instead of the table"},
      {"csv", 0, "FILE", "every call, with Invitro's 15 columns"},
      {"plot", 0, "FILE", "the distributions (and the sweep) as SVG"},
      {"assert", 0, "TERMS", "such as 'overhead.p99<5ms,err==0'; exit status 8 when one does not hold", true},
      {"compare", 0, "", "instead of a run: two reports beside each other"},
      {"seed", 0, "N", "of everything random [1]"},
      {"quiet", 'q', "", "no progress line"},
      {"help", 'h', "", "show this help"}};
  return flags;
}

std::string bench_help() {
  return "usage: dirigent bench FUNCTION[?QUERY]... --rate R [FLAGS]      open loop\n"
         "       dirigent bench FUNCTION[?QUERY]... [-c N] [FLAGS]        closed loop: as fast as the answers come\n"
         "       dirigent bench --sweep R,R,... [FLAGS]                   cold starts\n"
         "       dirigent bench --trace PATH [FLAGS]\n"
         "       dirigent bench --replay FILE [FLAGS]\n"
         "       dirigent bench --compare A.json B.json [--assert TERMS]\n"
         "       dirigent bench http://HOST:PORT/PATH ...                 any server\n\n"
         "Latency counts from when a call should have started. Exit status: 0, 1 = could not run or nothing was "
         "answered, 2 = bad\n"
         "usage or input, 4 = no control plane there, 8 = an assertion does not hold, 130 = interrupted.\n\nflags:\n" +
         describe_flags(bench_flags());
}

Result<BenchOptions> bench_options(const Arguments& arguments) {
  BenchOptions options;
  auto mode = choose_mode(arguments);
  if (!mode) return failure(mode.error());
  options.mode = *mode;
  if (auto fits = check_fits(arguments, options.mode); !fits) return failure(fits.error());
  bench::Plan& plan = options.plan;
  plan.pace = options.mode == BenchMode::closed ? bench::Pace::closed : bench::Pace::open;
  plan.length = options.mode == BenchMode::sweep ? 30s : 10s;
  // Calls of a trace run for up to a minute by themselves; Invitro waits for 15 minutes.
  plan.timeout = options.mode == BenchMode::trace || options.mode == BenchMode::replay ? 15min : 60s;

  FlagReader reader(arguments);
  reader.whole("seed", plan.seed, 0, INT64_MAX);
  reader.whole("threads", plan.threads, 1, 256);
  reader.whole("streams", plan.streams, 1, 100'000);
  reader.whole("requests", plan.requests, 1, INT64_MAX);
  reader.whole("functions", options.functions, 1, 100'000);
  reader.read("duration", plan.length, parse_duration);
  reader.read("warmup", plan.warm_up, parse_duration);
  reader.read("timeout", plan.timeout, parse_duration);
  reader.read("cooldown", options.cooldown, parse_duration);
  reader.read("settle", options.settle, parse_duration);
  reader.read("run-time", plan.run_time, parse_duration);
  reader.read("protocol", plan.protocol, [](const std::string& text) -> Result<bench::Protocol> {
    if (text == "http1" || text == "http/1.1") return bench::Protocol::http1;
    if (text == "h2c") return bench::Protocol::h2c;
    return failure(ErrorCode::invalid_argument, "\"{}\" is neither http1 nor h2c", text);
  });
  const bool is_many = plan.pace == bench::Pace::open && plan.protocol == bench::Protocol::http1;
  plan.connections = is_many ? 10'000 : 1;
  reader.whole("connections", plan.connections, 1, 1'000'000);
  reader.read("sweep", options.sweep_rates, parse_rates);
  if (auto status = reader.status(); !status) return failure(status.error());
  if (plan.length <= Duration::zero() || plan.timeout <= Duration::zero() || options.cooldown < 100ms ||
      options.settle < Duration::zero()) {
    return failure(ErrorCode::invalid_argument, "--duration and --timeout must be above 0, --cooldown at least 100ms, --settle not negative");
  }
  // A thread without a connection of its own could not make its share of the calls.
  if (plan.threads > plan.connections) {
    return failure(ErrorCode::invalid_argument, "{} threads cannot share {} connection(s): give --connections {}",
                   plan.threads, plan.connections, plan.threads);
  }
  options.quiet = arguments.is_on("quiet");
  options.keep = arguments.is_on("keep");
  options.output = arguments.value("output").value_or("");
  options.csv = arguments.value("csv").value_or("");
  options.plot = arguments.value("plot").value_or("");
  plan.keep_records = !options.csv.empty();
  for (const auto& text : arguments.values("assert")) {
    auto assertions = bench::parse_assertions(text, false);
    if (!assertions) return failure(assertions.error().within("--assert"));
    options.assertions.insert(options.assertions.end(), assertions->begin(), assertions->end());
  }
  for (const auto& address : arguments.values("address")) {
    if (auto parsed = io::parse_address(address); !parsed) return failure(parsed.error().within("--address"));
    options.addresses.push_back(address);
  }
  if (auto status = read_request(arguments, options); !status) return failure(status.error());
  const std::string by = arguments.value("by").value_or(plan.request.invitro ? "host" : "path");
  if (by != "host" && by != "path")
    return failure(ErrorCode::invalid_argument, "--by \"{}\" is neither path nor host", by);
  options.by_host = by == "host";

  for (const auto& word : arguments.words()) {
    auto target = parse_target(word);
    if (!target) return failure(target.error());
    options.targets.push_back(std::move(*target));
  }
  const bool has_own_names =
      options.mode == BenchMode::trace || options.mode == BenchMode::replay || options.mode == BenchMode::sweep;
  if (has_own_names && !options.targets.empty())
    return failure(ErrorCode::invalid_argument, "{} brings its functions with it: name none", name_of(options.mode));
  if (auto status = read_deploy(arguments, options); !status) return failure(status.error());
  if (!has_own_names && options.targets.empty()) {
    if (!options.deploy)
      return failure(ErrorCode::invalid_argument,
                     "name a function or a URL to call, or --deploy IMAGE (dirigent bench --help)");
    options.targets.push_back({"bench", "", ""});
  }
  for (const auto& target : options.targets) {
    if (options.deploy && target.function.empty())
      return failure(ErrorCode::invalid_argument, "--deploy needs names, not URLs");
  }
  if (options.mode == BenchMode::load) {
    if (auto status = read_load(arguments, options); !status) return failure(status.error());
    plan.description += fmt::format(" for {:g} s", to_seconds(plan.length));
  } else if (options.mode == BenchMode::trace || options.mode == BenchMode::replay) {
    if (auto status = read_workload(arguments, options); !status) return failure(status.error());
  } else if (options.mode == BenchMode::closed) {
    const std::uint64_t at_once =
        plan.protocol == bench::Protocol::h2c ? std::uint64_t{plan.connections} * plan.streams : plan.connections;
    plan.description = fmt::format("closed loop, {} call(s) at a time{}", at_once,
                                   plan.requests > 0 ? fmt::format(", {} calls", plan.requests)
                                                     : fmt::format(" for {:g} s", to_seconds(plan.length)));
  } else {
    plan.description = fmt::format("cold-start sweep, cooldown {:g} s", to_seconds(options.cooldown));
  }
  return options;
}

}  // namespace dirigent::cli
