// SPDX-License-Identifier: MIT
//
// A group of control planes: the production consensus core in the same virtual time (consensus::SimulatedGroup), and a
// conductor at whoever believes that it leads. What is proposed is a number here; the commands are kept beside it.
#include <algorithm>

#include "dirigent/base/assert.h"
#include "sim/cluster.h"

namespace dirigent::sim {

namespace {

// Of the members' log: as in production, but for the snapshots, which a short run shall see.
constexpr Duration kGroupDelayMax = 1ms;
constexpr Duration kGroupDiskMax = 2ms;
constexpr consensus::Index kCompactEvery = 20;
constexpr Duration kOutageMax = 3s;  // of a member
constexpr Duration kCutMax = 4s;
constexpr Duration kPauseMax = 2s;

}  // namespace

void Cluster::form_group() {
  controls_.resize(options_.control_members);
  consensus::SimulationOptions options;
  options.seed = options_.seed ^ 0x67726f7570ULL;
  options.members = static_cast<int>(options_.control_members);
  options.delay_max = kGroupDelayMax;
  options.disk_max = kGroupDiskMax;
  options.compact_every = kCompactEvery;
  options.begin = now_;
  consensus::SimulationHooks hooks;
  hooks.acknowledged = [this](std::uint32_t member, std::uint64_t proposal) { acknowledged(member - 1, proposal); };
  hooks.changed = [this](std::uint32_t member) { settle_leadership(member - 1); };
  group_ = std::make_unique<consensus::SimulatedGroup>(options, std::move(hooks));
}

// What the control role does when its replica says that something has changed.
void Cluster::settle_leadership(std::uint32_t number) {
  if (!group_) return;  // the members are being made
  Control& control = controls_[number];
  const consensus::Core* core = group_->core(number + 1);
  if (core == nullptr) return;
  now_ = std::max(now_, group_->now());
  const consensus::GroupView view = core->view(now_);
  const bool is_same = control.conductor && view.is_ready && control.conductor->options().term == view.term;
  if (control.conductor && !is_same) stop_control(number);
  if (view.is_ready && !control.conductor) lead(number, view.term);
}

void Cluster::lead(std::uint32_t number, Term term) {
  term_ = std::max(term_, term);
  const std::vector<std::uint64_t> log = group_->applied(number + 1);
  for (const std::uint64_t proposal : acknowledged_) {
    if (std::find(log.begin(), log.end(), proposal) == log.end()) {
      violate(fmt::format("control plane {} leads in term {} without a change of {} that was acknowledged", number, term,
                          core::function_of(commands_.at(proposal))));
    }
  }
  std::vector<Function> functions;
  auto known = functions_of_log(number);
  for (auto& [name, function] : known) functions.push_back(std::move(function));
  make_conductor(number, term, std::move(functions));
  // The user registers what is not there, until it is.
  for (const auto& function : workload_.functions) {
    core::Conductor* conductor = controls_[number].conductor.get();
    if (conductor == nullptr) return;
    if (conductor->catalog().find(function.name) != nullptr) continue;
    RevisionSpec spec = options_.spec;
    spec.resources.memory = std::min(function.memory, options_.node_capacity.memory);
    const auto plan = conductor->catalog().plan_deploy(function.name, spec, true, false, {});
    ASSERT(plan.has_value(), "cannot deploy {}: {}", function.name, plan.error().message);
    if (conductor->mutable_catalog().begin(function.name)) propose(number, plan->command);
  }
}

std::map<FunctionName, Function> Cluster::functions_of_log(std::uint32_t number) const {
  std::map<FunctionName, Function> functions;
  for (const std::uint64_t proposal : group_->applied(number + 1)) {
    const core::CatalogCommand& command = commands_.at(proposal);
    if (const auto* put = std::get_if<core::PutFunction>(&command)) {
      functions.insert_or_assign(put->function.name, put->function);
    } else {
      functions.erase(core::function_of(command));
    }
  }
  return functions;
}

// The command has been claimed in the catalog of this conductor.
void Cluster::propose(std::uint32_t number, core::CatalogCommand command) {
  const std::uint32_t life = controls_[number].life;
  // Proposing may acknowledge at once (a member alone), so that the command has to be known before.
  const std::uint64_t proposal = group_->next_proposal();
  commands_.insert_or_assign(proposal, command);
  controls_[number].proposed.insert_or_assign(proposal, command);
  const auto taken = group_->propose(number + 1);
  Control& control = controls_[number];
  if (taken) {
    if (options_.acknowledge_too_early) acknowledged(number, proposal);
    return;
  }
  commands_.erase(proposal);
  if (control.life != life || !control.conductor) return;
  control.proposed.erase(proposal);
  core::ConductorEffects effects;
  control.conductor->abort(command, now_, effects);
  perform(number, effects);
}

void Cluster::acknowledged(std::uint32_t number, std::uint64_t proposal) {
  now_ = std::max(now_, group_->now());
  Control& control = controls_[number];
  const auto found = control.proposed.find(proposal);
  if (found == control.proposed.end()) return;  // of a conductor that is no more
  const core::CatalogCommand command = std::move(found->second);
  control.proposed.erase(found);
  acknowledged_.insert(proposal);
  core::ConductorEffects effects;
  control.conductor->commit(command, now_, effects);
  perform(number, effects);
}

// --- who leads ----------------------------------------------------------------------------------------------------

std::optional<std::uint32_t> Cluster::acting() const {
  std::optional<std::uint32_t> best;
  for (std::uint32_t i = 0; i < controls_.size(); ++i) {
    if (!controls_[i].conductor) continue;
    if (!best || controls_[*best].conductor->options().term < controls_[i].conductor->options().term) best = i;
  }
  return best;
}

Instant Cluster::paused_until(std::uint32_t number) const { return has_group() ? group_->paused_until(number + 1) : Instant{}; }

// Whom a worker or data plane joins: it asks any member, which takes it or names whom it believes to lead. An old leader that
// has not noticed yet takes it, too.
std::optional<std::uint32_t> Cluster::choose_control() {
  if (!has_group()) return controls_[0].conductor ? std::optional<std::uint32_t>(0) : std::nullopt;
  const auto asked = static_cast<std::uint32_t>(rng_.below(controls_.size()));
  if (!controls_[asked].is_alive) return std::nullopt;
  if (controls_[asked].conductor) return asked;
  const consensus::MemberId named = group_->core(asked + 1)->view(now_).leader;
  if (named.value == 0 || !controls_[named.value - 1].conductor) return std::nullopt;
  return named.value - 1;
}

// --- faults -------------------------------------------------------------------------------------------------------

void Cluster::crash_control(std::uint32_t number, bool connections_close) {
  if (!controls_[number].is_alive) return;
  controls_[number].is_alive = false;
  group_->crash(number + 1, connections_close);
  stop_control(number);
  add(20ms + Duration(static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(kOutageMax.count())))), EventKind::control_start, number);
}

void Cluster::group_fault() {
  const auto any = static_cast<std::uint32_t>(rng_.below(controls_.size()));
  const auto other = static_cast<std::uint32_t>(rng_.below(controls_.size()));
  const std::uint32_t victim = rng_.below(3) == 0 ? any : acting().value_or(any);
  const auto up_to = [&](Duration most) { return Duration(static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(most.count())))); };
  const auto heal_later = [&] { add(100ms + up_to(kCutMax), EventKind::group_heal); };
  switch (rng_.below(10)) {
    case 0:
    case 1: crash_control(victim, true); break;
    case 2: crash_control(victim, false); break;  // its machine is gone: nobody is told
    case 3:
      for (std::uint32_t i = 0; i < controls_.size(); ++i) crash_control(i, false);  // the power goes
      break;
    case 4: group_->pause(victim + 1, up_to(kPauseMax)); break;
    case 5:
    case 6:
      group_->isolate(victim + 1);
      heal_later();
      break;
    case 7:
      group_->cut(victim + 1, other + 1);
      heal_later();
      break;
    case 8:
      if (victim != other) group_->lose_connection(victim + 1, other + 1);
      break;
    default:
      if (rng_.below(2) == 0) {
        group_->break_disk(victim + 1, true);
        heal_later();
      } else if (consensus::Core* core = group_->core(victim + 1); core != nullptr && core->hand_over(now_)) {
        group_->step_now(victim + 1);
      }
      break;
  }
}

}  // namespace dirigent::sim
