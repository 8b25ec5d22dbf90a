// SPDX-License-Identifier: MIT
//
// The conductor's routes: what each data plane is told.
#include <algorithm>

#include "conductor_work.h"

namespace dirigent::core {

void Conductor::route_changed(const FunctionName& name, Work& work) { work.routes.insert(name); }

void Conductor::flush_routes(Work& work) {
  if (!start_queue_.empty()) start_queued(work);
  if (work.routes.empty() && work.complete.empty()) return;
  const auto divide_all = [&](const FunctionName& name, const Function* function) {
    bool is_changed = false;
    for (const SandboxId id : fleet_.of(name)) is_changed |= divide(*fleet_.find(id), function, work.now);
    return is_changed;
  };
  if (!work.complete.empty()) {
    for (const auto& [name, function] : catalog_.functions()) {
      if (divide_all(name, &function)) work.routes.insert(name);
      ++control_of(name).version.value;  // it may replace what the data plane kept of an earlier session
    }
  }
  for (const auto& name : work.routes) divide_all(name, catalog_.find(name));
  ++update_number_;
  for (const auto& name : work.routes) ++control_of(name).version.value;
  for (const auto& [session, plane] : data_planes_) {
    RouteUpdate update;
    update.term = options_.term;
    update.number = update_number_;
    update.provisional = recovering(work.now);
    update.complete = work.complete.contains(session);
    update.confirm = work.confirm || update.complete;
    if (update.complete) {
      for (const auto& [name, function] : catalog_.functions()) update.functions.push_back(route_for(session, name));
    } else {
      for (const auto& name : work.routes) update.functions.push_back(route_for(session, name));
    }
    if (update.complete || !update.functions.empty()) work.effects.data_plane_orders.emplace_back(session, std::move(update));
  }
  work.effects.changed.insert(work.routes.begin(), work.routes.end());
  work.routes.clear();
  work.complete.clear();
}

bool Conductor::is_applied(std::uint64_t update) const {
  return std::all_of(data_planes_.begin(), data_planes_.end(),
                     [&](const auto& plane) { return plane.second.leaving || plane.second.applied >= update; });
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
  for (const SandboxId id : fleet_.of(name)) {
    const Sandbox& sandbox = fleet_.sandboxes().at(id);
    const auto grant = std::find_if(sandbox.grants.begin(), sandbox.grants.end(), [&](const SlotGrant& g) { return g.session == session; });
    if (grant == sandbox.grants.end() || grant->granted == 0) continue;
    const std::uint32_t slots = grant->granted == kUnlimitedSlots ? 0 : grant->granted;
    route.sandboxes.push_back({id, sandbox.node, sandbox.address, slots, sandbox.phases});
  }
  return route;
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
