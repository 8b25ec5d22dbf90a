// SPDX-License-Identifier: MIT
#include "dirigent/core/switchboard.h"

#include <algorithm>
#include <set>

#include "dirigent/base/assert.h"

namespace dirigent::core {

Switchboard::Switchboard(std::uint32_t shards) : applied_(shards, 0) { ASSERT(shards > 0); }

Switchboard::~Switchboard() = default;

std::uint64_t Switchboard::applied_by_all() const { return *std::min_element(applied_.begin(), applied_.end()); }

// The shared slots of a sandbox: those there are, also when it had been retired but not yet freed, or new ones.
SandboxSlots* Switchboard::slots_for(const RoutedSandbox& sandbox, Instant now) {
  auto& slots = sandboxes_[sandbox.id];
  if (!slots) {
    const auto retired = std::find_if(retired_.begin(), retired_.end(),
                                      [&](const Retired& r) { return r.slots->sandbox.id == sandbox.id; });
    if (retired != retired_.end()) {
      slots = std::move(retired->slots);
      retired_.erase(retired);
    } else {
      slots = std::make_unique<SandboxSlots>(sandbox, now);
    }
  }
  slots->set_retired(false);
  slots->set_suspect(false);
  slots->set_limit(sandbox.slots);
  return slots.get();
}

void Switchboard::retire(SandboxId id, FunctionShared* function, std::uint64_t number) {
  const auto found = sandboxes_.find(id);
  ASSERT(found != sandboxes_.end(), "sandbox {}", id.value);
  found->second->set_retired(true);
  retired_.push_back({number, function, std::move(found->second)});
  sandboxes_.erase(found);
}

std::shared_ptr<const RoutedFunction> Switchboard::build(const FunctionRoute& route, FunctionState& state,
                                                         bool provisional, std::uint64_t number, Instant now) {
  auto routed = std::make_shared<RoutedFunction>();
  routed->route = route;
  routed->shared = state.shared.get();
  std::set<SandboxId> listed;
  for (const auto& sandbox : route.sandboxes) listed.insert(sandbox.id);
  if (state.routed) {
    for (const auto& old : state.routed->route.sandboxes) {
      if (listed.contains(old.id)) continue;
      if (provisional) {
        routed->route.sandboxes.push_back(old);
      } else {
        retire(old.id, state.shared.get(), number);
      }
    }
  }
  for (const auto& sandbox : routed->route.sandboxes) routed->sandboxes.push_back(slots_for(sandbox, now));
  return routed;
}

void Switchboard::remove(std::map<FunctionName, FunctionState>::iterator function, RouteTableChange& change) {
  FunctionState& state = function->second;
  for (const auto& sandbox : state.routed->route.sandboxes) retire(sandbox.id, state.shared.get(), change.number);
  change.removed.push_back(state.shared.get());
  removed_.push_back({change.number, false, std::move(state.shared)});
  functions_.erase(function);
}

void Switchboard::apply(const RouteUpdate& update, Instant now, SwitchboardEffects& effects) {
  if (update.term < term_) return;
  const bool is_new_term = update.term > term_;
  term_ = update.term;

  auto change = std::make_shared<RouteTableChange>();
  change->number = change_number_ + 1;
  std::set<FunctionName> listed;
  for (const auto& route : update.functions) {
    listed.insert(route.function);
    auto found = functions_.find(route.function);
    // Route versions of one term only grow; those of different terms are not compared.
    if (found != functions_.end() && !is_new_term && route.version <= found->second.routed->route.version) continue;
    if (route.deleted) {
      if (found != functions_.end()) remove(found, *change);
      continue;
    }
    if (found == functions_.end()) {
      const auto home = static_cast<std::uint32_t>(std::hash<FunctionName>{}(route.function) % applied_.size());
      found = functions_.emplace(route.function, FunctionState{}).first;
      found->second.shared = std::make_unique<FunctionShared>(route.function, home);
    }
    found->second.routed = build(route, found->second, update.provisional, change->number, now);
    change->changed.push_back(found->second.routed);
  }
  if (update.complete) {
    if (!update.provisional) {
      for (auto function = functions_.begin(); function != functions_.end();) {
        const auto current = function++;
        if (!listed.contains(current->first)) remove(current, *change);
      }
    }
    complete_ = true;
  }
  if (change->changed.empty() && change->removed.empty()) return;
  change_number_ = change->number;
  effects.published.push_back(std::move(change));
}

void Switchboard::shard_applied(std::uint32_t shard, std::uint64_t number, SwitchboardEffects& effects) {
  ASSERT(number > applied_[shard] && number <= change_number_, "shard {} applied {} after {}", shard, number, applied_[shard]);
  applied_[shard] = number;
  free_unused(effects);
}

void Switchboard::sandbox_idle(SandboxSlots*, SwitchboardEffects& effects) { free_unused(effects); }

void Switchboard::free_unused(SwitchboardEffects& effects) {
  const std::uint64_t applied = applied_by_all();
  // No shard's table holds a sandbox retired by an applied change, so nobody can take a slot of it any more: once none
  // is taken, none will be.
  std::erase_if(retired_, [&](const Retired& retired) {
    if (retired.number > applied || retired.slots->in_use() != 0) return false;
    effects.drained.push_back({retired.slots->sandbox.id});
    return true;
  });
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

}  // namespace dirigent::core
