// SPDX-License-Identifier: MIT
#include "dirigent/core/keeper.h"

#include <algorithm>

#include "dirigent/base/assert.h"

namespace dirigent::core {

Keeper::Keeper(KeeperOptions options) : options_(options) {}

SandboxStatus Keeper::status_of(const Kept& kept, Instant now) const {
  SandboxStatus status;
  status.id = kept.order.id;
  status.function = kept.order.function;
  status.revision = kept.order.revision;
  status.term = kept.order.term;
  status.state = kept.state;
  status.address = kept.address;
  status.phases = kept.phases;
  status.age = now - kept.accepted_at;
  status.end = kept.end;
  status.image_digest = kept.image_digest;
  return status;
}

void Keeper::say(const Kept& kept, Instant now, KeeperEffects& effects) const {
  effects.messages.push_back(SandboxChanged{status_of(kept, now)});
}

std::vector<SandboxStatus> Keeper::statuses(Instant now) const {
  std::vector<SandboxStatus> all;
  for (const auto& [id, kept] : sandboxes_) {
    if (kept.state != SandboxState::gone) all.push_back(status_of(kept, now));
  }
  return all;
}

// --- orders -------------------------------------------------------------------------------------------------------

void Keeper::ordered(const WorkerOrder& order, Instant now, KeeperEffects& effects) {
  const Term term = std::visit([](const auto& any) { return any.term; }, order);
  if (term < term_) return;  // an old leader's
  term_ = term;
  if (const auto* start_order = std::get_if<StartSandbox>(&order)) {
    const auto [place, is_new] = sandboxes_.try_emplace(start_order->id);
    Kept& kept = place->second;
    if (!is_new) {
      say(kept, now, effects);
      return;
    }
    kept.order = *start_order;
    kept.accepted_at = now;
    if (sandboxes_.size() > options_.sandboxes_max) {
      kept.state = SandboxState::gone;
      kept.end.cause = EndCause::no_capacity;
      kept.end.detail = fmt::format("the node runs {} sandboxes, its limit", options_.sandboxes_max);
      say(kept, now, effects);
      sandboxes_.erase(place);
      return;
    }
    if (launching_ < options_.launches_max && line_.empty()) {
      start(kept, now, effects);
    } else {
      line_.push_back(start_order->id);
    }
    return;
  }
  if (const auto* prefetch = std::get_if<PrefetchImage>(&order)) {
    effects.prefetches.push_back(prefetch->image);
    return;
  }
  const SandboxId id = std::get<StopSandbox>(order).id;
  const auto found = sandboxes_.find(id);
  if (found == sandboxes_.end()) {
    SandboxStatus status;
    status.id = id;
    status.term = term;
    status.state = SandboxState::gone;
    status.end.cause = EndCause::requested;
    status.end.detail = "not here";
    effects.messages.push_back(SandboxChanged{std::move(status)});
    return;
  }
  SandboxEnd end;
  end.cause = EndCause::requested;
  end.detail = "stopped as ordered";
  remove(found->second, std::move(end), options_.stop_grace, effects, now);
}

void Keeper::adopt(StartSandbox order, LaunchedAt at, Instant launched_at, bool is_ready, Instant now) {
  const SandboxId id = order.id;
  const auto [place, is_new] = sandboxes_.try_emplace(id);
  ASSERT(is_new, "sandbox {}", to_string(id));
  Kept& kept = place->second;
  term_ = std::max(term_, order.term);
  kept.order = std::move(order);
  kept.accepted_at = kept.launched_at = launched_at;
  kept.address = std::move(at.address);
  kept.image_digest = std::move(at.image_digest);
  kept.phases = at.phases;
  kept.step = is_ready ? Step::serving : Step::probing;
  kept.state = is_ready ? SandboxState::ready : SandboxState::starting;
  if (is_ready) return;
  kept.probe_delay = options_.first_probe_delay;
  kept.next_probe = now;
  kept.start_deadline = launched_at + kept.order.spec.limits.start_timeout;
  wake(id, kept);
}

void Keeper::stop_all(Instant now, KeeperEffects& effects) {
  std::vector<SandboxId> ids;
  for (const auto& [id, kept] : sandboxes_) ids.push_back(id);
  for (const SandboxId id : ids) {
    SandboxEnd end;
    end.cause = EndCause::requested;
    end.detail = "the worker is stopping";
    const auto found = sandboxes_.find(id);
    if (found != sandboxes_.end()) remove(found->second, std::move(end), options_.stop_grace, effects, now);
  }
}

void Keeper::start(Kept& kept, Instant now, KeeperEffects& effects) {
  kept.step = Step::launching;
  kept.launched_at = now;
  kept.start_deadline = now + kept.order.spec.limits.start_timeout;
  ++launching_;
  wake(kept.order.id, kept);
  effects.launches.push_back({kept.order});
  say(kept, now, effects);
}

void Keeper::launch_next(Instant now, KeeperEffects& effects) {
  while (launching_ < options_.launches_max && !line_.empty()) {
    const auto found = sandboxes_.find(line_.front());
    line_.pop_front();
    if (found != sandboxes_.end() && found->second.step == Step::waiting) start(found->second, now, effects);
  }
}

// The one way out of every step. The sandbox is forgotten in removed(), or here when nothing of it exists yet.
void Keeper::remove(Kept& kept, SandboxEnd end, Duration grace, KeeperEffects& effects, Instant now) {
  const SandboxId id = kept.order.id;
  switch (kept.step) {
    case Step::waiting:
      kept.state = SandboxState::gone;
      kept.end = std::move(end);
      say(kept, now, effects);
      sandboxes_.erase(id);
      return;
    case Step::launching:
      // launched() sees the state and removes what came to be.
      if (kept.end.cause == EndCause::none) kept.end = std::move(end);
      kept.state = SandboxState::stopping;
      kept.start_deadline.reset();
      wake(id, kept);
      return;
    case Step::removing:
      return;
    case Step::probing:
    case Step::serving:
      if (kept.end.cause == EndCause::none) kept.end = std::move(end);
      kept.step = Step::removing;
      kept.next_probe.reset();
      kept.start_deadline.reset();
      wake(id, kept);
      if (kept.state != SandboxState::gone) kept.state = SandboxState::stopping;
      effects.removals.push_back({id, grace});
      say(kept, now, effects);
      return;
  }
}

// --- what became of the effects -----------------------------------------------------------------------------------

void Keeper::launched(SandboxId id, Result<LaunchedAt> outcome, Instant now, KeeperEffects& effects) {
  const auto found = sandboxes_.find(id);
  ASSERT(found != sandboxes_.end() && found->second.step == Step::launching, "sandbox {}", to_string(id));
  Kept& kept = found->second;
  --launching_;
  if (!outcome) {
    if (kept.end.cause == EndCause::none) {
      const Error& error = outcome.error();
      kept.end.cause = error.code == ErrorCode::not_found   ? EndCause::image_missing
                       : error.code == ErrorCode::exhausted ? EndCause::no_capacity
                                                            : EndCause::start_failed;
      kept.end.detail = error.message;
    }
    kept.state = SandboxState::gone;
    kept.start_deadline.reset();
    wake(id, kept);
    say(kept, now, effects);
    sandboxes_.erase(found);
    launch_next(now, effects);
    return;
  }
  kept.address = std::move(outcome->address);
  kept.image_digest = std::move(outcome->image_digest);
  const Duration waited_in_line = kept.launched_at - kept.accepted_at;
  kept.phases = outcome->phases;
  kept.phases.create += waited_in_line;
  kept.step = Step::probing;
  if (kept.state == SandboxState::stopping || kept.end.cause != EndCause::none) {
    // Told to stop, or ended, while it was being launched.
    SandboxEnd end = kept.end;
    const Duration grace = end.cause == EndCause::requested ? options_.stop_grace : Duration::zero();
    remove(kept, std::move(end), grace, effects, now);
    launch_next(now, effects);
    return;
  }
  kept.launched_at = now;  // from here on: when it ran
  kept.probe_delay = options_.first_probe_delay;
  kept.next_probe = now;   // a sandbox that listens already is found at once
  wake(id, kept);
  launch_next(now, effects);
  tick(now, effects);
}

void Keeper::probed(SandboxId id, bool is_ready, Instant now, KeeperEffects& effects) {
  const auto found = sandboxes_.find(id);
  if (found == sandboxes_.end()) return;
  Kept& kept = found->second;
  kept.is_probing = false;
  if (kept.step != Step::probing) return;
  ++kept.phases.probe_tries;
  if (!is_ready) {
    kept.next_probe = now + kept.probe_delay;
    kept.probe_delay = std::min(Duration(static_cast<std::int64_t>(static_cast<double>(kept.probe_delay.count()) * options_.probe_delay_factor)),
                                options_.probe_delay_max);
    wake(id, kept);
    return;
  }
  kept.phases.probe = now - kept.launched_at;
  kept.step = Step::serving;
  kept.state = SandboxState::ready;
  kept.next_probe.reset();
  kept.start_deadline.reset();
  wake(id, kept);
  say(kept, now, effects);
}

void Keeper::ended(SandboxId id, const SandboxEnd& end, Instant now, KeeperEffects& effects) {
  const auto found = sandboxes_.find(id);
  if (found == sandboxes_.end()) return;
  Kept& kept = found->second;
  if (kept.end.cause == EndCause::none) {
    kept.end = end;
  } else {
    // The reason it was removed for stays; how it ended is added.
    kept.end.exit_code = end.exit_code;
    kept.end.signal = end.signal;
    kept.end.last_output = end.last_output;
  }
  if (kept.step == Step::launching) return;  // launched() looks at `end`
  // Out of the routes at once; cleaning up comes after.
  kept.state = SandboxState::gone;
  if (!kept.said_gone) {
    kept.said_gone = true;
    say(kept, now, effects);
  }
  if (kept.step != Step::removing) {
    kept.step = Step::removing;
    kept.next_probe.reset();
    kept.start_deadline.reset();
    wake(id, kept);
    effects.removals.push_back({id, Duration::zero()});
  }
}

void Keeper::removed(SandboxId id, Instant now, KeeperEffects& effects) {
  const auto found = sandboxes_.find(id);
  if (found == sandboxes_.end()) return;
  Kept& kept = found->second;
  kept.state = SandboxState::gone;
  if (!kept.said_gone) say(kept, now, effects);
  sandboxes_.erase(found);
}

// --- time ---------------------------------------------------------------------------------------------------------

// Keeps exactly one wake-up per sandbox: the earlier of its next probe and its start deadline.
void Keeper::wake(SandboxId id, Kept& kept) {
  std::optional<Instant> next = kept.start_deadline;
  if (kept.next_probe && (!next || *kept.next_probe < *next)) next = kept.next_probe;
  if (next == kept.wakeup) return;
  if (kept.wakeup) wakeups_.erase({*kept.wakeup, id});
  kept.wakeup = next;
  if (next) wakeups_.emplace(*next, id);
}

std::optional<Instant> Keeper::next_wakeup() const {
  if (wakeups_.empty()) return std::nullopt;
  return wakeups_.begin()->first;
}

void Keeper::tick(Instant now, KeeperEffects& effects) {
  while (!wakeups_.empty() && wakeups_.begin()->first <= now) {
    const SandboxId id = wakeups_.begin()->second;
    wakeups_.erase(wakeups_.begin());
    Kept& kept = sandboxes_.at(id);
    kept.wakeup.reset();
    if (kept.start_deadline && *kept.start_deadline <= now) {
      SandboxEnd end;
      end.cause = EndCause::start_timeout;
      end.detail = fmt::format("not ready within {} (port {}{}, {} probes)", format_duration(kept.order.spec.limits.start_timeout),
                               kept.order.spec.port, kept.order.spec.ready_path.empty() ? "" : ", path " + kept.order.spec.ready_path,
                               kept.phases.probe_tries);
      remove(kept, std::move(end), Duration::zero(), effects, now);
      continue;
    }
    if (kept.next_probe && *kept.next_probe <= now && !kept.is_probing) {
      kept.is_probing = true;
      kept.next_probe.reset();
      const Duration longest = kept.order.spec.ready_path.empty() ? 100ms : options_.probe_timeout_max;
      const Duration timeout = std::clamp(3 * kept.probe_delay, options_.probe_timeout_min, longest);
      effects.probes.push_back({id, kept.order.spec.ready_path, timeout});
    }
    wake(id, kept);
  }
}

}  // namespace dirigent::core
