// SPDX-License-Identifier: MIT
//
// How a sandbox's concurrency limit is shared among data planes.
//
// A ledger per sandbox says what each data plane was granted and what it still holds. The sum of what is held never
// exceeds the limit: a share is lowered by a route update, the data plane says when it uses no more than that, and only
// then is the rest given to another one. What a data plane is to have (the target):
//
//   no limit                         -> no limit
//   a limit of a slot each or more   -> equal shares
//   less                             -> all of it for one data plane, the owner; it changes when another needs it more
//
// A data plane whose connection is lost keeps what it holds for a while, since it may be cut off and not dead; it brings
// its shares along when it joins again. One that stays away longer and serves on is not counted any more: then, and only
// then, may a limit be exceeded, by its share (docs/architecture.md).
#include <algorithm>
#include <limits>

#include "conductor_work.h"

namespace dirigent::core {

namespace {
void erase_empty(std::vector<SlotGrant>& grants) {
  std::erase_if(grants, [](const SlotGrant& grant) { return grant.granted == 0 && grant.held == 0; });
}
void erase_session(std::vector<SlotGrant>& grants, SessionId session) {
  std::erase_if(grants, [&](const SlotGrant& grant) { return grant.session == session; });
}
}  // namespace

bool Conductor::is_missed(const DataPlaneId& id) const {
  return std::any_of(missed_planes_.begin(), missed_planes_.end(), [&](const auto& missed) { return missed.second.id == id; });
}

std::uint32_t Conductor::target_of(const Sandbox& sandbox, SessionId session, std::uint32_t place) const {
  const std::uint32_t limit = sandbox.concurrency_limit;
  const auto planes = static_cast<std::uint32_t>(data_planes_.size());
  if (limit == 0) return kUnlimitedSlots;
  if (limit >= planes) return limit / planes + (place < limit % planes ? 1 : 0);
  return sandbox.owner == session ? limit : 0;
}

// Brings what is granted towards the targets, as far as what others hold allows. True: some share has changed.
bool Conductor::divide(Sandbox& sandbox, const Function* function, Instant now) {
  const std::uint32_t limit = sandbox.concurrency_limit;
  // Sandboxes of older revisions serve until they are drained: a new revision takes over without a gap.
  const bool is_routable = function != nullptr && function->serving && sandbox.state == SandboxState::ready && !sandbox.is_spare &&
                           sandbox.revision <= *function->serving;
  const bool has_owner = sandbox.owner && (data_planes_.contains(*sandbox.owner) || missed_planes_.contains(*sandbox.owner));
  if (is_routable && limit != 0 && limit < data_planes_.size() && !has_owner) assign_owner(sandbox);

  bool is_changed = false;
  std::uint32_t place = 0;
  for (const auto& [session, plane] : data_planes_) {
    const std::uint32_t target = is_routable ? target_of(sandbox, session, place) : 0;
    ++place;
    SlotGrant* grant = sandbox.grant_of(session);
    if (grant == nullptr || grant->granted <= target) continue;
    grant->granted = target;
    grant->lowered_by = update_number_ + 1;
    is_changed = true;
  }
  const std::uint64_t held = sandbox.held();
  std::uint64_t free = limit > held ? limit - held : 0;
  // Somebody we have not heard yet may hold the rest of a sandbox that is older than we are.
  if (sandbox.is_adopted && recovering(now)) free = 0;
  if (limit == 0) free = std::numeric_limits<std::uint64_t>::max() / 2;
  if (limit != 0 && held <= limit) sandbox.is_overcommitted = false;
  place = 0;
  for (const auto& [session, plane] : data_planes_) {
    const std::uint32_t target = is_routable ? target_of(sandbox, session, place) : 0;
    ++place;
    SlotGrant* grant = sandbox.grant_of(session);
    const std::uint32_t has = grant == nullptr ? 0 : grant->held;
    const auto reach = static_cast<std::uint32_t>(std::min<std::uint64_t>(target, has + free));
    if (reach <= (grant == nullptr ? 0 : grant->granted)) continue;
    if (grant == nullptr) grant = &sandbox.grants.emplace_back(SlotGrant{session, 0, 0, 0});
    grant->granted = reach;
    if (reach > has) {
      free -= reach - has;
      grant->held = reach;
    }
    is_changed = true;
  }
  erase_empty(sandbox.grants);
  return is_changed;
}

// Whoever has it already; else the data plane that lacks most: waiting plus in flight, less the slots it has.
void Conductor::assign_owner(Sandbox& sandbox) {
  sandbox.owner.reset();
  const SlotGrant* most = nullptr;
  for (const SlotGrant& grant : sandbox.grants) {
    const bool is_here = data_planes_.contains(grant.session) || missed_planes_.contains(grant.session);
    if (is_here && (most == nullptr || grant.held > most->held)) most = &grant;
  }
  if (most != nullptr) {
    sandbox.owner = most->session;
    return;
  }
  std::int64_t best_need = 0;
  const FunctionControl& known = control_of(sandbox.function);
  for (const auto& [session, plane] : data_planes_) {
    std::int64_t need = 0;
    for (const auto& source : known.sources) {
      if (source.session == session) need += source.waiting + source.in_flight;
    }
    for (const SandboxId id : fleet_.of(sandbox.function)) {
      const Sandbox& other = fleet_.sandboxes().at(id);
      if (other.id != sandbox.id && other.state == SandboxState::ready && other.owner == session) need -= sandbox.concurrency_limit;
    }
    if (!plane.leaving && (!sandbox.owner || need > best_need)) {
      sandbox.owner = session;
      best_need = need;
    }
  }
}

// A data plane has requests waiting while another one owns more than it uses: one sandbox a call changes hands.
void Conductor::rebalance_owners(const Function& function, FunctionControl& control, Work& work) {
  const Revision* revision = function.serving ? function.find(*function.serving) : nullptr;
  if (revision == nullptr) return;
  const std::uint32_t limit = revision->spec.concurrency_limit;
  if (limit == 0 || data_planes_.size() <= 1 || limit >= data_planes_.size()) return;
  std::map<SessionId, std::int64_t> spare;  // slots minus load
  std::map<SessionId, std::uint32_t> waiting;
  for (const auto& [session, plane] : data_planes_) spare[session] = 0;
  for (const auto& source : control.sources) {
    spare[source.session] -= source.waiting + source.in_flight;
    waiting[source.session] += source.waiting;
  }
  std::vector<Sandbox*> ready;
  for (const SandboxId id : fleet_.of(function.name)) {
    Sandbox* sandbox = fleet_.find(id);
    if (sandbox->state != SandboxState::ready || !sandbox->owner) continue;
    ready.push_back(sandbox);
    if (const auto owner = spare.find(*sandbox->owner); owner != spare.end()) owner->second += limit;
  }
  const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto needy = std::min_element(spare.begin(), spare.end(), less);
  const auto rich = std::max_element(spare.begin(), spare.end(), less);
  if (needy == spare.end() || needy->second >= 0 || waiting[needy->first] == 0 || rich->second < limit) return;
  Sandbox* best = nullptr;
  for (Sandbox* sandbox : ready) {
    // One that is on its way to its owner does not turn round.
    const SlotGrant* grant = sandbox->grant_of(rich->first);
    if (sandbox->owner != rich->first || grant == nullptr || grant->granted != limit) continue;
    if (best == nullptr || sandbox->last_busy_at < best->last_busy_at) best = sandbox;
  }
  if (best == nullptr) return;
  best->owner = needy->first;
  route_changed(function.name, work);
}

void Conductor::slots_released(SessionId session, const SlotsReleased& released, Work& work) {
  Sandbox* sandbox = fleet_.find(released.sandbox);
  const auto unreleased = unreleased_.find(released.sandbox);
  if (sandbox == nullptr && unreleased == unreleased_.end()) return;
  std::vector<SlotGrant>& grants = sandbox != nullptr ? sandbox->grants : unreleased->second;
  const auto grant = std::find_if(grants.begin(), grants.end(), [&](const SlotGrant& g) { return g.session == session; });
  // An answer to an older update says nothing: the share may have been raised in between.
  if (grant == grants.end() || released.update < grant->lowered_by) return;
  grant->held = std::max(grant->granted, std::min(grant->held, released.slots));
  erase_empty(grants);
  if (sandbox == nullptr) {
    if (grants.empty()) unreleased_.erase(unreleased);
  } else if (sandbox->state == SandboxState::draining) {
    if (!sandbox->is_held()) stop(*sandbox, work);
  } else if (divide(*sandbox, catalog_.find(sandbox->function), work.now)) {
    route_changed(sandbox->function, work);
  }
}

// A data plane that joins says what it has: that, and not what we thought of its earlier session, counts.
void Conductor::take_in(SessionId session, const DataPlaneHello& hello, Work& work) {
  for (auto missed = missed_planes_.begin(); missed != missed_planes_.end();) {
    const auto current = missed++;
    if (current->second.id != hello.id) continue;
    const SessionId old = current->first;
    missed_planes_.erase(current);
    for (const auto& [id, known] : fleet_.sandboxes()) {
      Sandbox* sandbox = fleet_.find(id);
      erase_session(sandbox->grants, old);
      if (sandbox->owner == old) sandbox->owner = session;
    }
    forget_unreleased(old);
  }
  for (const SlotShare& share : hello.shares) {
    SlotGrant grant{session, share.granted, std::max(share.granted, share.held), 0};
    if (Sandbox* sandbox = fleet_.find(share.sandbox)) {
      sandbox->grants.push_back(grant);
      if (sandbox->concurrency_limit != 0 && sandbox->held() > sandbox->concurrency_limit) sandbox->is_overcommitted = true;
    } else {
      if (!recovering(work.now) && grant.granted > 0) {
        grant.granted = 0;
        grant.lowered_by = update_number_ + 1;  // the complete update that follows leaves it out
      }
      if (grant.held > 0) unreleased_[share.sandbox].push_back(grant);
    }
  }
  stop_drained(work);
}

void Conductor::forget_unreleased(SessionId session) {
  for (auto entry = unreleased_.begin(); entry != unreleased_.end();) {
    erase_session(entry->second, session);
    entry = entry->second.empty() ? unreleased_.erase(entry) : std::next(entry);
  }
}

// The sandbox ends: its worker may report it again (a node thought lost), and its data planes may have requests in it.
void Conductor::keep_unreleased(Sandbox& sandbox) {
  for (SlotGrant& grant : sandbox.grants) {
    if (grant.granted > 0) grant.lowered_by = update_number_ + 1;
    grant.granted = 0;
  }
  std::erase_if(sandbox.grants, [&](const SlotGrant& grant) {
    return grant.held == 0 || !(data_planes_.contains(grant.session) || missed_planes_.contains(grant.session));
  });
  if (!sandbox.grants.empty()) unreleased_[sandbox.id] = std::move(sandbox.grants);
}

// The data plane is not counted any more. What it was asked to drain waits for the drain time from now on, unless it has
// left in order: it may be cut off, with requests in it that are about to be answered.
void Conductor::forget_shares(SessionId session, bool has_left, Work& work) {
  for (const auto& [id, known] : fleet_.sandboxes()) {
    Sandbox* sandbox = fleet_.find(id);
    if (sandbox->owner == session) sandbox->owner.reset();
    if (sandbox->grant_of(session) == nullptr) {
      if (sandbox->state == SandboxState::ready && sandbox->concurrency_limit != 0) work.routes.insert(sandbox->function);
      continue;
    }
    if (sandbox->state == SandboxState::draining && !has_left) {
      set_deadline(*sandbox, std::min(*sandbox->deadline, work.now + drain_timeout_of(*sandbox)));
      continue;
    }
    erase_session(sandbox->grants, session);
    if (sandbox->state == SandboxState::ready) work.routes.insert(sandbox->function);
  }
  forget_unreleased(session);
  stop_drained(work);
}

void Conductor::stop_drained(Work& work) {
  std::vector<SandboxId> drained;
  for (const auto& [id, sandbox] : fleet_.sandboxes()) {
    if (sandbox.state == SandboxState::draining && !sandbox.is_held()) drained.push_back(id);
  }
  // In the order of their ids, not of the hash table: a run repeats.
  std::sort(drained.begin(), drained.end());
  for (const SandboxId id : drained) stop(*fleet_.find(id), work);
}

}  // namespace dirigent::core
