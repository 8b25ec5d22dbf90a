// SPDX-License-Identifier: MIT
//
// The conductor's routes: what each data plane is told, and how a sandbox's concurrency limit is shared among them.
//
// One data plane, or no limit: the whole limit. A limit of at least one slot per data plane: equal shares. Less: the
// sandbox belongs to one data plane (its owner) and is handed over when another one needs it more: taken from the old
// owner's routes, drained there, then given to the new one, so that the limit holds at every moment.
#include <algorithm>

#include "conductor_work.h"

namespace dirigent::core {

void Conductor::route_changed(const FunctionName& name, Work& work) { work.routes.insert(name); }

void Conductor::flush_routes(Work& work) {
  if (work.routes.empty()) return;
  for (const auto& name : work.routes) ++control_of(name).version.value;
  for (const auto& [session, plane] : data_planes_) {
    RouteUpdate update{options_.term, false, recovering(work.now), {}};
    for (const auto& name : work.routes) update.functions.push_back(route_for(session, name));
    work.effects.data_plane_orders.emplace_back(session, std::move(update));
  }
  work.effects.changed.insert(work.routes.begin(), work.routes.end());
  work.routes.clear();
}

FunctionRoute Conductor::route_for(SessionId session, const FunctionName& name) const {
  FunctionRoute route;
  route.function = name;
  if (const FunctionControl* known = control(name)) {
    route.version = known->version;
    route.unavailable = known->unavailable;
    route.unavailable_detail = known->unavailable_detail;
  }
  const Function* function = catalog_.find(name);
  if (function == nullptr) {
    route.deleted = true;
    return route;
  }
  const Revision* revision = function->serving ? function->find(*function->serving) : nullptr;
  if (revision == nullptr) {
    const Revision& newest = function->revisions.back();
    route.limits = newest.spec.limits;
    return route;
  }
  route.revision = revision->number;
  route.limits = revision->spec.limits;
  route.protocol = revision->spec.protocol;
  if (route.unavailable == Reason::none) route.unavailable_detail.clear();
  // Sandboxes of older revisions serve until they are drained: a new revision takes over without a gap.
  for (const SandboxId id : fleet_.of(name)) {
    const Sandbox& sandbox = fleet_.sandboxes().at(id);
    if (sandbox.state != SandboxState::ready || sandbox.revision > revision->number) continue;
    const Revision* its = function->find(sandbox.revision);
    const std::uint32_t limit = its == nullptr ? revision->spec.concurrency_limit : its->spec.concurrency_limit;
    const std::uint32_t slots = slots_for(session, sandbox, limit);
    if (limit != 0 && slots == 0) continue;
    route.sandboxes.push_back({id, sandbox.node, sandbox.address, slots, sandbox.phases});
  }
  return route;
}

std::uint32_t Conductor::slots_for(SessionId session, const Sandbox& sandbox, std::uint32_t limit) const {
  if (limit == 0) return 0;
  const auto planes = static_cast<std::uint32_t>(data_planes_.size());
  if (sandbox.owner || sandbox.next_owner) return sandbox.owner == session && !sandbox.next_owner ? limit : 0;
  if (planes <= 1) return limit;
  if (limit < planes) return 0;  // to be assigned
  return limit / planes;
}

void Conductor::assign_owner(Sandbox& sandbox, std::uint32_t limit) {
  sandbox.owner.reset();
  if (limit == 0 || data_planes_.size() <= 1 || limit >= data_planes_.size()) return;
  // To whom it lacks most: waiting plus in flight, less the slots it has.
  std::optional<SessionId> best;
  std::int64_t best_need = 0;
  const FunctionControl& known = control_of(sandbox.function);
  for (const auto& [session, plane] : data_planes_) {
    std::int64_t need = 0;
    for (const auto& [key, source] : known.sources) {
      if (key.first == session) need += source.load.waiting + source.load.in_flight;
    }
    for (const SandboxId id : fleet_.of(sandbox.function)) {
      const Sandbox& other = fleet_.sandboxes().at(id);
      if (other.id != sandbox.id && other.state == SandboxState::ready && (other.next_owner ? other.next_owner : other.owner) == session) {
        need -= limit;
      }
    }
    if (!plane.leaving && (!best || need > best_need)) {
      best = session;
      best_need = need;
    }
  }
  sandbox.owner = best;
}

// A data plane has requests waiting while another one owns more than it uses: one sandbox a call changes hands.
void Conductor::rebalance_owners(const Function& function, FunctionControl& control, Work& work) {
  const Revision* revision = function.serving ? function.find(*function.serving) : nullptr;
  if (revision == nullptr) return;
  const std::uint32_t limit = revision->spec.concurrency_limit;
  if (limit == 0 || data_planes_.size() <= 1 || limit >= data_planes_.size()) return;
  std::map<SessionId, std::int64_t> spare;   // slots minus load
  std::map<SessionId, std::uint32_t> waiting;
  for (const auto& [session, plane] : data_planes_) spare[session] = 0;
  for (const auto& [key, source] : control.sources) {
    spare[key.first] -= source.load.waiting + source.load.in_flight;
    waiting[key.first] += source.load.waiting;
  }
  std::vector<Sandbox*> ready;
  for (const SandboxId id : fleet_.of(function.name)) {
    Sandbox* sandbox = fleet_.find(id);
    if (sandbox->state != SandboxState::ready) continue;
    if (!sandbox->owner) {
      assign_owner(*sandbox, limit);
      route_changed(function.name, work);
    }
    ready.push_back(sandbox);
    const auto holder = sandbox->next_owner ? sandbox->next_owner : sandbox->owner;
    if (holder) spare[*holder] += limit;
  }
  const auto needy = std::min_element(spare.begin(), spare.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto rich = std::max_element(spare.begin(), spare.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (needy == spare.end() || needy->second >= 0 || waiting[needy->first] == 0 || rich->second < limit) return;
  Sandbox* best = nullptr;
  for (Sandbox* sandbox : ready) {
    if (sandbox->owner != rich->first || sandbox->next_owner) continue;
    if (best == nullptr || sandbox->last_busy_at < best->last_busy_at) best = sandbox;
  }
  if (best == nullptr) return;
  best->next_owner = needy->first;
  route_changed(function.name, work);
}

void Conductor::update_availability(const Function& function, FunctionControl& control, Work& work) {
  const bool lacks_room = control.no_room_since && work.now - *control.no_room_since >= options_.no_capacity_patience;
  const bool says_no_room = control.unavailable == Reason::no_capacity || control.unavailable == Reason::no_node;
  if (lacks_room && control.unavailable == Reason::none) {
    control.unavailable = fleet_.nodes().empty() ? Reason::no_node : Reason::no_capacity;
    route_changed(function.name, work);
  } else if (!control.no_room_since && says_no_room) {
    control.unavailable = Reason::none;
    control.unavailable_detail.clear();
    route_changed(function.name, work);
  }
}

}  // namespace dirigent::core
