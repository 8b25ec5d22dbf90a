// SPDX-License-Identifier: MIT
//
// The conductor's scaling: samples, looks, and the difference between wanted and observed.
#include <algorithm>
#include <cmath>

#include "conductor_work.h"
#include "dirigent/base/assert.h"
#include "dirigent/policy/eviction.h"

namespace dirigent::core {

// --- what the autoscaler sees -------------------------------------------------------------------------------------

void Conductor::sample(const Function& function, FunctionControl& control, bool is_urgent, Work& work) {
  policy::LoadSample sample;
  for (const auto& source : control.sources) {
    sample.current += source.waiting + source.in_flight;
    sample.waiting += source.waiting;
  }
  sample.arrivals = control.arrivals;
  sample.completions = control.completions;
  sample.busy = control.busy;
  const bool is_first = control.sampled_at == Instant{};
  sample.interval = is_first ? 1s : work.now - control.sampled_at;
  // Reports cover anything from milliseconds to a second: their averages may not stand for more time than they measured.
  if (sample.interval > Duration::zero()) {
    sample.concurrency = control.request_seconds / to_seconds(sample.interval);
    control.request_seconds = 0;
  }
  if (control.autoscaler) control.autoscaler->observe(work.now, sample);
  if (!is_urgent) {
    const double seconds = std::max(to_seconds(sample.interval), 0.1);
    const double rate = static_cast<double>(sample.completions) / seconds;
    control.requests_per_second = control.requests_per_second == 0 ? rate : 0.7 * control.requests_per_second + 0.3 * rate;
    if (control.requests_per_second < 0.01) control.requests_per_second = 0;
  }
  control.arrivals = 0;
  control.completions = 0;
  control.busy = {};
  control.sampled_at = work.now;
  // A function with a sandbox or with load is sampled every second; silence at zero contributes nothing.
  const bool goes_on = sample.current > 0 || has_used(function.name);
  control.next_sample = goes_on ? std::optional(work.now + 1s) : std::nullopt;
}

void Conductor::look(const Function& function, FunctionControl& control, bool is_urgent, Work& work) {
  const Revision* revision = function.serving ? function.find(*function.serving) : nullptr;
  if (revision == nullptr) {
    control.next_look.reset();
    return;
  }
  const ScalingSettings& settings = revision->spec.scaling;
  policy::ScalingInput input;
  input.now = work.now;
  input.urgent = is_urgent;
  for (const SandboxId id : fleet_.of(function.name)) {
    const Sandbox* sandbox = fleet_.find(id);
    if (sandbox->revision != revision->number || sandbox->is_spare) continue;
    if (sandbox->state == SandboxState::ready) ++input.ready;
    if (is_pending(sandbox->state)) ++input.starting;
  }
  if (!control.autoscaler) {
    control.autoscaler = scalers_->make(function.name, settings, revision->spec.concurrency_limit, input.ready, work.now);
    control.scaled_revision = revision->number;
  } else if (control.scaled_revision != revision->number) {
    control.autoscaler->reconfigure(settings, revision->spec.concurrency_limit);
    control.scaled_revision = revision->number;
  }
  if (is_urgent) sample(function, control, true, work);
  policy::ScalingDecision decision = control.autoscaler->decide(input);
  const std::uint32_t before = control.wanted;
  if (decision.desired) {
    control.wanted = *decision.desired;
    control.wanted_once = true;
  }
  control.wanted = std::max(control.wanted, wanted_floor(function, control));
  if (function.manual_scale) control.wanted = *function.manual_scale;
  control.last_scaling = std::move(decision);
  if (control.wanted != before) {
    note(function.name, "scaled", revision->number, fmt::format("scaled {} -> {}: {} waiting, {} in flight", before, control.wanted,
                                                                control.waiting(), control.in_flight()), work);
  }
  const bool goes_on = control.wanted > 0 || control.waiting() + control.in_flight() > 0 || has_used(function.name);
  control.next_look = goes_on ? std::optional(work.now + settings.look_interval) : std::nullopt;
  if (goes_on && !control.next_sample) control.next_sample = work.now + 1s;
  schedule(control);
}

// Whatever a policy says: somebody who waits gets at least one sandbox.
std::uint32_t Conductor::wanted_floor(const Function& function, const FunctionControl& control) const {
  const Revision* revision = function.serving ? function.find(*function.serving) : nullptr;
  if (revision == nullptr) return 0;
  return std::max<std::uint32_t>(revision->spec.scaling.min_scale, control.waiting() > 0 ? 1 : 0);
}

// --- wanted against observed --------------------------------------------------------------------------------------

void Conductor::reconcile(const FunctionName& name, Work& work) {
  const Function* function = catalog_.find(name);
  if (function == nullptr || recovering(work.now)) return;
  FunctionControl& control = control_of(name);
  if (function->manual_scale && function->serving) control.wanted = *function->manual_scale;
  if (control.next_spare && *control.next_spare <= work.now) control.next_spare.reset();

  const Revision* serving = function->serving ? function->find(*function->serving) : nullptr;
  const Revision* candidate = function->candidate ? function->find(*function->candidate) : nullptr;
  std::vector<Sandbox*> current;
  std::vector<Sandbox*> old;
  std::vector<Sandbox*> spares;
  std::vector<Sandbox*> old_spares;
  std::size_t ready = 0;
  bool has_verification = false;
  const bool some_nodes_are_kept_free = !catalog_.node_uses().empty();
  Sandbox* proven = nullptr;  // the candidate's, and ready
  for (const SandboxId id : fleet_.of(name)) {
    Sandbox* sandbox = fleet_.find(id);
    if (!is_pending(sandbox->state) && sandbox->state != SandboxState::ready) continue;
    // What a drained node has is treated like an older revision: it serves until others can.
    const bool must_leave = some_nodes_are_kept_free && catalog_.use_of(sandbox->node) == NodeUse::drained;
    const bool is_current = serving != nullptr && sandbox->revision == serving->number && !must_leave;
    if (sandbox->is_spare) {
      (is_current ? spares : old_spares).push_back(sandbox);
    } else if (is_current) {
      current.push_back(sandbox);
    } else if (candidate != nullptr && sandbox->revision == candidate->number) {
      has_verification = true;
      if (sandbox->state == SandboxState::ready) proven = sandbox;
    } else {
      old.push_back(sandbox);
    }
  }

  for (Sandbox* sandbox : old_spares) stop(*sandbox, work);
  use_spares(control, spares, current, work);
  for (const Sandbox* sandbox : current) ready += sandbox->state == SandboxState::ready ? 1 : 0;

  const bool may_start = !control.retry_at || *control.retry_at <= work.now;
  if (may_start) control.retry_at.reset();
  if (proven != nullptr && may_start && !catalog_.is_claimed(name)) {
    // Usually proposed when it became ready; not when an earlier control plane saw that, when the write failed, or when
    // somebody else was writing the function just then.
    proven->is_verification = false;
    control.wanted = std::max<std::uint32_t>(control.wanted, 1);
    settle_verification(name, candidate->number, true, nullptr, work);
  }
  if (candidate != nullptr && !has_verification && may_start && control.verifying != candidate->number) {
    if (!control.is_queued) {
      note(name, "verifying", candidate->number, fmt::format("starting a test instance of {}", revision_name(name, candidate->number)), work);
    }
    if (start_one(*function, control, *candidate, Purpose::verification, work) == Start::ordered) control.verifying = candidate->number;
  }
  if (serving != nullptr && may_start) {
    for (std::size_t have = current.size(); have < control.wanted; ++have) {
      if (start_one(*function, control, *serving, Purpose::wanted, work) != Start::ordered) break;
      if (is_serving_starts_) break;  // one each in turn
    }
  }
  if (current.size() >= control.wanted && candidate == nullptr) control.no_room_since.reset();
  const bool start_failing = control.unavailable == Reason::start_failed || control.unavailable == Reason::start_timeout ||
                             control.unavailable == Reason::image_pull;
  if (start_failing && serving != nullptr && may_start && control.wanted == 0) {
    // Half open: the back-off is over and nobody waits, so the next request may try again. Another failure closes at once.
    control.unavailable = Reason::none;
    control.unavailable_detail.clear();
    route_changed(name, work);
  }
  if (current.size() > control.wanted) shrink(*function, control, current, current.size() - control.wanted, work);
  // An old revision keeps serving until the new one can take over.
  if (!old.empty() && (ready >= std::min<std::size_t>(control.wanted, old.size()) || serving == nullptr)) {
    shrink(*function, control, old, old.size(), work);
  }
  if (serving != nullptr && may_start) keep_spares(*function, control, *serving, std::move(spares), current.size(), work);
  update_availability(*function, control, work);
  schedule(control);
}

Conductor::Start Conductor::start_one(const Function& function, FunctionControl& control, const Revision& revision,
                                      Purpose purpose, Work& work) {
  const auto queue = [&] {
    if (!control.is_queued) start_queue_.push_back(&control);
    control.is_queued = true;
    return Start::queued;
  };
  const bool is_spare = purpose == Purpose::spare;
  if (!is_spare && !is_serving_starts_ && !start_queue_.empty()) return queue();
  Sandbox sandbox;
  // The term is in the id, so that no control plane makes an id that another has made (but see observed()).
  sandbox.id = SandboxId{(options_.term.value << 22) + ++next_sandbox_};
  sandbox.function = function.name;
  sandbox.revision = revision.number;
  sandbox.placed_at = work.now;
  sandbox.last_busy_at = work.now;
  sandbox.is_verification = purpose == Purpose::verification;
  sandbox.is_spare = is_spare;
  sandbox.phases.schedule = control.demand_since && !is_spare ? work.now - *control.demand_since : Duration::zero();
  const SandboxId id = sandbox.id;
  auto decision = fleet_.place(std::move(sandbox), revision.spec, control.excluded, rng_);
  if (!decision && !control.excluded.empty()) {
    // Better a node that has just failed than none.
    control.excluded.clear();
    Sandbox again;
    again.id = id;
    again.function = function.name;
    again.revision = revision.number;
    again.placed_at = work.now;
    again.last_busy_at = work.now;
    again.is_verification = purpose == Purpose::verification;
    again.is_spare = is_spare;
    decision = fleet_.place(std::move(again), revision.spec, {}, rng_);
  }
  // Nobody waits for a spare: it is tried again when others have had their turn.
  if (!decision && is_spare) return Start::no_room;
  if (!decision && fleet_.busy_nodes() > 0) return queue();
  if (!decision && give_up_a_spare(revision, work)) {
    control.retry_at = work.now + 20ms;
    return Start::no_room;
  }
  if (!decision) {
    if (!control.no_room_since) {
      control.no_room_since = work.now;
      note(function.name, "no-room", revision.number, fmt::format("no node for a sandbox: {}", decision.error().message), work);
    }
    control.unavailable_detail = decision.error().message;
    control.retry_at = work.now + 250ms;
    return Start::no_room;
  }
  if (is_spare) spares_.insert(id);
  if (!is_spare) control.no_room_since.reset();
  control.last_placement = *decision;
  const Node* node = fleet_.find_node(decision->node);
  const std::string* digest = control.digest_of(revision.number);
  work.effects.worker_orders.emplace_back(*node->session,
                                          StartSandbox{options_.term, id, function.name, revision.number, revision.spec,
                                                       digest == nullptr ? "" : *digest});
  work.effects.changed.insert(function.name);
  return Start::ordered;
}

// A function whose constraints leave only busy nodes does not hold up those behind it, but few are tried in vain.
void Conductor::start_queued(Work& work) {
  constexpr int kVainTriesMax = 8;
  is_serving_starts_ = true;
  for (int vain = 0; vain < kVainTriesMax && !start_queue_.empty() && (fleet_.free_nodes() > 0 || fleet_.busy_nodes() == 0);) {
    FunctionControl& control = *start_queue_.front();
    start_queue_.pop_front();
    control.is_queued = false;
    const std::size_t before = work.effects.worker_orders.size();
    reconcile(*control.name, work);
    if (work.effects.worker_orders.size() == before) {
      ++vain;
    } else if (!control.is_queued && !control.no_room_since) {
      // It may want more; the turn after the others' will tell.
      start_queue_.push_back(&control);
      control.is_queued = true;
    }
  }
  is_serving_starts_ = false;
}

void Conductor::shrink(const Function& function, FunctionControl& control, std::vector<Sandbox*> candidates, std::size_t count,
                       Work& work) {
  (void)control;
  std::vector<policy::EvictionCandidate> views;
  views.reserve(candidates.size());
  const Revision* serving = function.serving ? function.find(*function.serving) : nullptr;
  for (const Sandbox* sandbox : candidates) {
    policy::EvictionCandidate view;
    view.id = sandbox->id;
    view.state = sandbox->state;
    view.is_current_revision = serving != nullptr && sandbox->revision == serving->number;
    // Data planes report every second which sandboxes are occupied.
    const Duration idle = work.now - sandbox->last_busy_at;
    view.in_flight = sandbox->state == SandboxState::ready && idle < 1500ms && control.in_flight() > 0 ? 1 : 0;
    view.idle_for = view.in_flight > 0 ? Duration::zero() : idle;
    view.age = work.now - sandbox->placed_at;
    views.push_back(view);
  }
  for (const std::size_t victim : policy::choose_victims(views, count)) {
    Sandbox& sandbox = *candidates[victim];
    if (sandbox.state == SandboxState::ready) {
      drain(sandbox, work, true);
    } else {
      stop(sandbox, work);
    }
  }
}

// --- when to come back --------------------------------------------------------------------------------------------

void Conductor::schedule(FunctionControl& control) {
  std::optional<Instant> next;
  for (const auto& when : {control.next_look, control.next_sample, control.retry_at, control.next_spare}) {
    if (when && (!next || *when < *next)) next = when;
  }
  if (next == control.wakeup) return;
  if (control.wakeup) function_wakeups_.erase({*control.wakeup, &control});
  control.wakeup = next;
  if (next) function_wakeups_.insert({*next, &control});
}

}  // namespace dirigent::core
