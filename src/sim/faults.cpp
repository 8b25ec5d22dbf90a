// SPDX-License-Identifier: MIT
//
// What goes wrong, and when: a Poisson process over the whole cluster, each fault chosen by its rate.
#include <algorithm>
#include <iterator>

#include "dirigent/base/text.h"
#include "sim/cluster.h"

namespace dirigent::sim {

namespace {

constexpr double kRateMax = 6000;
constexpr double kStandardRate = 6;          // a minute
constexpr double kStandardStartFailures = 0.1;
constexpr Duration kSilenceMax = 3s;         // after which the ends of a link give their connection up

struct NamedFault {
  std::string_view name;
  double Faults::*rate;
};
constexpr NamedFault kFaults[] = {
    {"crash", &Faults::crash}, {"partition", &Faults::partition}, {"cut", &Faults::cut},   {"slow", &Faults::slow},
    {"sandbox", &Faults::sandbox}, {"control", &Faults::control}, {"data", &Faults::data}, {"change", &Faults::change},
};

Duration up_to(Rng& rng, Duration most) { return Duration(static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(most.count())))); }

}  // namespace

double Faults::per_minute() const {
  double sum = 0;
  for (const auto& fault : kFaults) sum += this->*fault.rate;
  return sum;
}

bool Faults::any() const { return per_minute() > 0 || start > 0; }

const std::vector<std::string>& fault_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& fault : kFaults) all.emplace_back(fault.name);
    all.emplace_back("start");
    all.emplace_back("mixed");
    return all;
  }();
  return names;
}

Status add_fault(Faults& faults, std::string_view text) {
  const auto equals = text.find('=');
  const std::string name(text.substr(0, equals));
  const auto& names = fault_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return failure(ErrorCode::invalid_argument, "unknown fault \"{}\"{}", name, did_you_mean_suffix(name, names));
  }
  const bool is_start = name == "start";
  double rate = is_start ? kStandardStartFailures : kStandardRate;
  if (equals != std::string_view::npos) {
    const auto given = parse_number(text.substr(equals + 1));
    const double most = is_start ? 1 : kRateMax;
    if (!given || *given < 0 || *given > most) {
      return failure(ErrorCode::invalid_argument, "fault {}: \"{}\" is not a rate ({})", name, text.substr(equals + 1),
                     is_start ? "share of the starts, 0..1" : "per minute, 0..6000");
    }
    rate = *given;
  }
  if (is_start) {
    faults.start = rate;
  } else if (name == "mixed") {
    for (const auto& fault : kFaults) faults.*fault.rate = rate;
    faults.start = kStandardStartFailures;
  } else {
    for (const auto& fault : kFaults) {
      if (fault.name == name) faults.*fault.rate = rate;
    }
  }
  return {};
}

void Cluster::plan_fault() {
  const double rate = options_.faults.per_minute();
  if (rate <= 0) return;
  const Instant at = std::max(now_, begin_) + from_seconds(rng_.exponential(60 / rate));
  if (at < faults_until_) events_.add(at, EventKind::fault);
}

std::optional<SandboxId> Cluster::any_sandbox() {
  if (sandboxes_.empty()) return std::nullopt;
  return std::next(sandboxes_.begin(), static_cast<std::ptrdiff_t>(rng_.below(sandboxes_.size())))->first;
}

void Cluster::inject_fault() {
  double left = rng_.unit() * options_.faults.per_minute();
  std::string_view name = kFaults[0].name;
  for (const auto& fault : kFaults) {
    if (options_.faults.*fault.rate <= 0) continue;
    name = fault.name;
    left -= options_.faults.*fault.rate;
    if (left < 0) break;
  }
  ++measure_.outcome().faults[std::string(name)];
  const auto worker = static_cast<std::uint32_t>(rng_.below(options_.nodes));
  const auto plane = static_cast<std::uint32_t>(rng_.below(options_.data_planes));
  // As often the link of a data plane as that of a worker: there are fewer of them, and more depends on each.
  const std::uint32_t link = rng_.below(2) == 0 ? worker : options_.nodes + plane;
  if (name == "crash" && workers_[worker].is_alive) {
    stop_worker(worker);
    add(20ms + up_to(rng_, 5s), EventKind::worker_start, worker);
  } else if (name == "partition") {
    const Duration length = 100ms + up_to(rng_, 8s);
    links_[link].blocked_until = std::max(links_[link].blocked_until, now_ + length);
    if (length >= kSilenceMax) cut(link, kSilenceMax - up_to(rng_, 1s), kSilenceMax - up_to(rng_, 1s));
  } else if (name == "cut") {
    cut(link, up_to(rng_, kSilenceMax), up_to(rng_, kSilenceMax));
  } else if (name == "slow") {
    if (rng_.below(2) == 0) {
      workers_[worker].slow_until = now_ + 1s + up_to(rng_, 9s);
    } else {
      links_[link].slow_until = now_ + 1s + up_to(rng_, 9s);
      links_[link].slowness = 1ms + up_to(rng_, 300ms);
    }
  } else if (name == "sandbox") {
    if (const auto id = any_sandbox()) {
      const std::uint32_t its = sandboxes_.at(*id).worker;
      add(Duration::zero(), EventKind::crashed, its, id->value, workers_[its].life);
    }
  } else if (name == "control" && has_group()) {
    group_fault();
  } else if (name == "control" && controls_[0].conductor) {
    stop_control(0);
    add(20ms + up_to(rng_, 3s), EventKind::control_start);
  } else if (name == "data" && planes_[plane].is_alive) {
    stop_plane(plane);
    add(20ms + up_to(rng_, 3s), EventKind::plane_start, plane);
  } else if (name == "change") {
    change_function();
  }
  plan_fault();
}

// A user deploys a new revision, or scales by hand and later gives the function back to its autoscaler.
void Cluster::change_function() {
  const auto control = acting();
  if (!control) return;
  core::Conductor* conductor = controls_[*control].conductor.get();
  const FunctionName& name = workload_.functions[rng_.below(workload_.functions.size())].name;
  const Function* function = conductor->catalog().find(name);
  if (function == nullptr || conductor->catalog().is_claimed(name)) return;
  Result<core::CatalogCommand> command = failure(ErrorCode::internal, "no plan");
  if (function->manual_scale) {
    command = conductor->catalog().plan_scale(name, std::nullopt);
  } else if (const auto dice = rng_.below(4); dice == 0) {
    command = conductor->catalog().plan_scale(name, static_cast<std::uint32_t>(rng_.below(4)));
  } else {
    RevisionSpec spec = function->revisions.back().spec;
    spec.environment["REVISION"] = fmt::format("{}", function->revisions.back().number.value + 1);
    if (auto plan = conductor->catalog().plan_deploy(name, spec, false, dice != 1, {})) command = std::move(plan->command);
  }
  if (!command || !conductor->mutable_catalog().begin(name)) return;
  core::ConductorEffects effects;
  effects.proposals.push_back(std::move(*command));
  perform(*control, effects);
}

// After the last fault every function is given back to its autoscaler.
void Cluster::calm_down() {
  const auto control = acting();
  bool is_done = control.has_value();
  core::ConductorEffects effects;
  if (control) {
    core::Conductor* conductor = controls_[*control].conductor.get();
    for (const auto& [name, function] : conductor->catalog().functions()) {
      if (!function.manual_scale && !conductor->catalog().is_claimed(name)) continue;
      is_done = false;
      auto command = conductor->catalog().plan_scale(name, std::nullopt);
      if (!function.manual_scale || !command || !conductor->mutable_catalog().begin(name)) continue;
      effects.proposals.push_back(std::move(*command));
    }
    perform(*control, effects);
  }
  if (!is_done) add(100ms, EventKind::calm);
}

}  // namespace dirigent::sim
