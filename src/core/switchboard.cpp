// SPDX-License-Identifier: MIT
#include "dirigent/core/switchboard.h"

#include <algorithm>
#include <optional>
#include <set>

#include "dirigent/base/assert.h"

namespace dirigent::core {

Switchboard::Switchboard(std::uint32_t shards) : applied_(shards, 0) { ASSERT(shards > 0); }

Switchboard::~Switchboard() = default;

std::uint64_t Switchboard::applied_by_all() const { return *std::min_element(applied_.begin(), applied_.end()); }

struct Switchboard::Applying {
  const RouteUpdate& update;
  RouteTableChange& change;
  Instant now;
};

namespace {
// 0 slots on the wire are no limit.
std::uint32_t bound(std::uint32_t limit) { return limit == 0 ? kUnlimitedSlots : limit; }
}  // namespace

// The shared slots of a sandbox: those there are, also when it had been retired but not yet freed, or new ones.
SandboxSlots* Switchboard::slots_for(const RoutedSandbox& sandbox, FunctionShared* function, const Applying& applying) {
  std::optional<std::uint32_t> held;  // what the control plane may think that we hold, when it is more than the limit
  auto& slots = sandboxes_[sandbox.id];
  if (!slots) {
    const auto retired = std::find_if(retired_.begin(), retired_.end(),
                                      [&](const Retired& r) { return r.slots->sandbox.id == sandbox.id; });
    if (retired != retired_.end()) {
      held = retired->held;
      slots = std::move(retired->owned);
      retired_.erase(retired);
    } else {
      slots = std::make_unique<SandboxSlots>(sandbox, applying.now);
    }
  }
  slots->set_suspect(false);
  const auto pending = std::find_if(lowered_.begin(), lowered_.end(), [&](const Lowered& l) { return l.slots == slots.get(); });
  if (pending != lowered_.end()) held = pending->held;
  if (pending != lowered_.end()) lowered_.erase(pending);
  if (!held) held = bound(slots->limit());
  slots->set_limit(sandbox.slots);
  if (bound(sandbox.slots) < *held) {
    slots->await(sandbox.slots);
    lowered_.push_back({applying.change.number, applying.update.number, *held, function, slots.get()});
  } else {
    slots->await(SandboxSlots::kNobodyWaits);
  }
  return slots.get();
}

void Switchboard::retire(SandboxId id, FunctionShared* function, const Applying& applying) {
  const auto found = sandboxes_.find(id);
  ASSERT(found != sandboxes_.end(), "sandbox {}", id.value);
  SandboxSlots* slots = found->second.get();
  const auto pending = std::find_if(lowered_.begin(), lowered_.end(), [&](const Lowered& l) { return l.slots == slots; });
  const std::uint32_t held = pending != lowered_.end() ? pending->held : bound(slots->limit());
  std::erase_if(lowered_, [&](const Lowered& lowered) { return lowered.slots == slots; });
  slots->await(0);
  Retired retired;
  retired.number = applying.change.number;
  retired.update = applying.update.number;
  retired.held = held;
  retired.function = function;
  retired.slots = slots;
  retired.owned = std::move(found->second);
  retired_.push_back(std::move(retired));
  sandboxes_.erase(found);
}

std::shared_ptr<const RoutedFunction> Switchboard::build(const FunctionRoute& route, FunctionState& state, const Applying& applying) {
  auto routed = std::make_shared<RoutedFunction>();
  routed->route = route;
  routed->shared = state.shared.get();
  std::set<SandboxId> listed;
  for (const auto& sandbox : route.sandboxes) listed.insert(sandbox.id);
  if (state.routed) {
    for (const auto& old : state.routed->route.sandboxes) {
      if (listed.contains(old.id)) continue;
      if (applying.update.provisional) {
        routed->route.sandboxes.push_back(old);
        routed->route.sandboxes.back().slots = sandboxes_.at(old.id)->limit();
      } else {
        retire(old.id, state.shared.get(), applying);
      }
    }
  }
  for (const auto& sandbox : routed->route.sandboxes) routed->sandboxes.push_back(slots_for(sandbox, state.shared.get(), applying));
  return routed;
}

void Switchboard::remove(std::map<FunctionName, FunctionState>::iterator function, const Applying& applying) {
  FunctionState& state = function->second;
  for (const auto& sandbox : state.routed->route.sandboxes) retire(sandbox.id, state.shared.get(), applying);
  applying.change.removed.push_back(state.shared.get());
  removed_.push_back({applying.change.number, false, std::move(state.shared)});
  functions_.erase(function);
}

void Switchboard::apply(const RouteUpdate& update, Instant now, SwitchboardEffects& effects) {
  if (update.term < term_) return;
  const bool is_new_term = update.term > term_;
  term_ = update.term;

  auto change = std::make_shared<RouteTableChange>();
  change->number = change_number_ + 1;
  const Applying applying{update, *change, now};
  std::set<FunctionName> listed;
  for (const auto& route : update.functions) {
    listed.insert(route.function);
    auto found = functions_.find(route.function);
    // Route versions of one term only grow; those of different terms are not compared.
    if (found != functions_.end() && !is_new_term && route.version <= found->second.routed->route.version) continue;
    if (route.deleted) {
      if (found != functions_.end()) remove(found, applying);
      continue;
    }
    if (found == functions_.end()) {
      const auto home = static_cast<std::uint32_t>(std::hash<FunctionName>{}(route.function) % applied_.size());
      found = functions_.emplace(route.function, FunctionState{}).first;
      found->second.shared = std::make_unique<FunctionShared>(route.function, home);
    }
    found->second.routed = build(route, found->second, applying);
    change->changed.push_back(found->second.routed);
  }
  if (update.complete) {
    if (!update.provisional) {
      for (auto function = functions_.begin(); function != functions_.end();) {
        const auto current = function++;
        if (!listed.contains(current->first)) remove(current, applying);
      }
    }
    complete_ = true;
  }
  if (!change->changed.empty() || !change->removed.empty()) {
    change_number_ = change->number;
    effects.published.push_back(std::move(change));
  }
  if (update.confirm) {
    confirmations_.push_back({change_number_, update.number});
    confirm(effects);
  }
}

void Switchboard::shard_applied(std::uint32_t shard, std::uint64_t number, SwitchboardEffects& effects) {
  ASSERT(number > applied_[shard] && number <= change_number_, "shard {} applied {} after {}", shard, number, applied_[shard]);
  applied_[shard] = number;
  confirm(effects);
  settle(effects);
}

void Switchboard::slots_released(SwitchboardEffects& effects) { settle(effects); }

// Only the newest confirmed update is told: it stands for all before it.
void Switchboard::confirm(SwitchboardEffects& effects) {
  const std::uint64_t applied = applied_by_all();
  std::uint64_t confirmed = 0;
  std::erase_if(confirmations_, [&](const Confirmation& confirmation) {
    if (confirmation.number > applied) return false;
    confirmed = std::max(confirmed, confirmation.update);
    return true;
  });
  if (confirmed != 0) effects.told.emplace_back(RoutesApplied{confirmed});
}

// Once every shard has applied the change that lowered a limit, nobody takes a slot above it any more.
void Switchboard::settle(SwitchboardEffects& effects) {
  const std::uint64_t applied = applied_by_all();
  std::erase_if(lowered_, [&](const Lowered& lowered) {
    const std::uint32_t limit = lowered.slots->limit();
    if (lowered.number > applied || lowered.slots->in_use() > limit) return false;
    lowered.slots->await(SandboxSlots::kNobodyWaits);
    effects.told.emplace_back(SlotsReleased{lowered.slots->sandbox.id, limit, lowered.update});
    return true;
  });
  std::erase_if(retired_, [&](Retired& retired) {
    if (retired.number > applied || retired.slots->in_use() != 0) return false;
    effects.told.emplace_back(SlotsReleased{retired.slots->sandbox.id, 0, retired.update});
    // The shard of the last release may still be looking at it: it is freed a change later.
    buried_.push_back({change_number_ + 1, std::move(retired.owned)});
    return true;
  });
  std::erase_if(buried_, [&](const Buried& buried) { return buried.number <= applied; });
  free_removed(applied, effects);
}

void Switchboard::free_removed(std::uint64_t applied, SwitchboardEffects& effects) {
  bool needs_second_round = false;
  std::erase_if(removed_, [&](Removed& removed) {
    if (removed.number > applied) return false;
    const bool has_leases = std::any_of(retired_.begin(), retired_.end(),
                                        [&](const Retired& r) { return r.function == removed.shared.get(); });
    if (has_leases) return false;
    if (removed.is_second_round) return true;
    removed.is_second_round = true;
    removed.number = change_number_ + 1;
    needs_second_round = true;
    return false;
  });
  if (needs_second_round) {
    auto barrier = std::make_shared<RouteTableChange>();
    barrier->number = ++change_number_;
    effects.published.push_back(std::move(barrier));
  }
}

std::vector<SlotShare> Switchboard::begin_session() {
  confirmations_.clear();
  std::vector<SlotShare> shares;
  for (const auto& [id, slots] : sandboxes_) {
    const std::uint32_t granted = bound(slots->limit());
    const auto lowered = std::find_if(lowered_.begin(), lowered_.end(), [&](const Lowered& l) { return l.slots == slots.get(); });
    shares.push_back({id, granted, lowered == lowered_.end() ? granted : lowered->held});
  }
  for (const auto& retired : retired_) shares.push_back({retired.slots->sandbox.id, 0, retired.held});
  for (auto& lowered : lowered_) lowered.update = 0;
  for (auto& retired : retired_) retired.update = 0;
  std::sort(shares.begin(), shares.end(), [](const SlotShare& a, const SlotShare& b) { return a.sandbox < b.sandbox; });
  return shares;
}

}  // namespace dirigent::core
