// SPDX-License-Identifier: MIT
//
// The conductor's spares: sandboxes of a function that are started beside the wanted ones and kept unused. They have a
// reservation on their node and are in no route. When one more is wanted a spare becomes one of the wanted at once, and
// another spare is started a moment later. A sandbox that has served is not made a spare again: it is drained as ever.
//
// Spares stand back: they never count for the autoscaler, never wait in the queue of starts, are not started while a
// wanted sandbox lacks room, and are given up when one does.
#include <algorithm>

#include "conductor_work.h"

namespace dirigent::core {

namespace {

constexpr Duration kSpareBehind = 50ms;      // so that the call that took one does not share the processors with the next
constexpr Duration kSpareRetry = 200ms;      // when there was no room, or every node was busy starting
constexpr Duration kSpareGivenUpFor = 10s;   // a function that has given one up leaves the room to others for so long

bool fits_without(const Node& node, const Sandbox& spare, const Resources& wanted) {
  Resources left = node.reserved;
  left -= spare.reserved;
  left += wanted;
  return left.fits_in(node.info.capacity);
}

}  // namespace

// Whether it has sandboxes besides spares: those alone are no reason to look at it again and again.
bool Conductor::has_used(const FunctionName& name) const {
  const auto& ids = fleet_.of(name);
  return std::any_of(ids.begin(), ids.end(), [&](SandboxId id) { return !fleet_.sandboxes().at(id).is_spare; });
}

// The ready ones first, the oldest of them first.
void Conductor::use_spares(FunctionControl& control, std::vector<Sandbox*>& spares, std::vector<Sandbox*>& current, Work& work) {
  if (current.size() >= control.wanted || spares.empty()) return;
  std::stable_partition(spares.begin(), spares.end(), [](const Sandbox* spare) { return spare->state == SandboxState::ready; });
  while (current.size() < control.wanted && !spares.empty()) {
    Sandbox* spare = spares.front();
    spares.erase(spares.begin());
    spare->is_spare = false;
    spares_.erase(spare->id);
    spare->last_busy_at = work.now;
    // What its start took was over before anybody asked.
    if (spare->state == SandboxState::ready) {
      spare->phases = {};
      route_changed(*control.name, work);
      if (!control.next_sample) control.next_sample = work.now + 1s;
    }
    if (control.demand_since) spare->phases.schedule = work.now - *control.demand_since;
    control.next_spare = std::max(control.next_spare.value_or(work.now), work.now + kSpareBehind);
    current.push_back(spare);
    work.effects.changed.insert(*control.name);
  }
}

void Conductor::keep_spares(const Function& function, FunctionControl& control, const Revision& serving,
                            std::vector<Sandbox*> spares, std::size_t current, Work& work) {
  const ScalingSettings& scaling = serving.spec.scaling;
  std::size_t target = scaling.warm;
  // The most sandboxes is a promise about all of them; a fixed number is one, too.
  if (scaling.max_scale != 0) target = std::min<std::size_t>(target, scaling.max_scale - std::min<std::size_t>(current, scaling.max_scale));
  if (function.manual_scale) target = 0;
  while (spares.size() > target) {
    stop(*spares.back(), work);
    spares.pop_back();
  }
  if (control.next_spare || spares.size() >= target) return;
  if (current < control.wanted || control.no_room_since || !start_queue_.empty()) {
    control.next_spare = work.now + kSpareRetry;
    return;
  }
  for (std::size_t have = spares.size(); have < target; ++have) {
    if (start_one(function, control, serving, Purpose::spare, work) == Start::ordered) continue;
    control.next_spare = work.now + kSpareRetry;
    return;
  }
}

// A wanted sandbox of `revision` finds no room: true when a spare was stopped that leaves enough. Constraints choose nodes
// by rules of their own; for them nothing is given up.
bool Conductor::give_up_a_spare(const Revision& revision, Work& work) {
  if (!revision.spec.constraints.empty()) return false;
  for (auto place = spares_.rbegin(); place != spares_.rend(); ++place) {
    Sandbox& spare = *fleet_.find(*place);
    const Node& node = *fleet_.find_node(spare.node);
    if (!node.schedulable()) continue;
    // One that is being stopped already will do: its room is on the way.
    if (!fits_without(node, spare, revision.spec.resources)) continue;
    if (spare.state == SandboxState::stopping) return true;
    control_of(spare.function).next_spare = work.now + kSpareGivenUpFor;
    note(spare.function, "spare-given-up", spare.revision, fmt::format("spare {} on {} makes room for a wanted sandbox", to_string(spare.id), spare.node), work);
    stop(spare, work);
    return true;
  }
  return false;
}

}  // namespace dirigent::core
