// SPDX-License-Identifier: MIT
//
// How long things are kept, what is done by hand, and what may be seen.
#include <fmt/format.h>

#include <algorithm>

#include "core/async_queue_entry.h"
#include "dirigent/base/assert.h"

namespace dirigent::core {

// --- by hand ------------------------------------------------------------------------------------------------------

Status AsyncQueue::cancel(const CallId& id, WallTime, AsyncEffects& effects) {
  Entry* entry = entry_of(id);
  if (entry == nullptr || entry->storing) return failure(ErrorCode::not_found, "call {} not found", to_string(id));
  const bool waits = (entry->phase == CallPhase::queued || entry->phase == CallPhase::waiting) && entry->saving == 0;
  if (!waits) {
    return failure(ErrorCode::already_exists, "call {} is {}: only a call that waits can be cancelled", to_string(id),
                   entry->saving > 0 ? "being saved" : to_string(entry->phase));
  }
  ++counters_.cancelled;
  expire(id, *entry, CallEnd::cancelled, effects);
  save(id, *entry, effects, false, true, true);
  return {};
}

Status AsyncQueue::redrive(const CallId& id, WallTime now, AsyncEffects& effects) {
  Entry* entry = entry_of(id);
  if (entry == nullptr) return failure(ErrorCode::not_found, "call {} not found", to_string(id));
  if (entry->phase != CallPhase::dead || entry->saving > 0) {
    return failure(ErrorCode::already_exists, "call {} is {}, not a dead letter", to_string(id),
                   entry->saving > 0 ? "being saved" : to_string(entry->phase));
  }
  if (entry->end == CallEnd::corrupt) {
    return failure(ErrorCode::corrupt, "call {} cannot be redriven: what was stored of it is damaged", to_string(id));
  }
  clear_timer(id, *entry);
  ++counters_.redriven;
  entry->attempts = entry->holds = 0;
  entry->end = CallEnd::none;
  entry->born_at = now;
  entry->attempts_max = static_cast<std::uint8_t>(std::min<std::uint32_t>(retry_of(*entry).attempts_max, 255));
  if (entry->callback != CallbackPhase::none) {
    entry->callback = CallbackPhase::due;
    entry->callback_attempts = 0;
  }
  set_phase(*entry, CallPhase::queued);
  save(id, *entry, effects, false, false, true);
  return {};
}

Status AsyncQueue::purge(const CallId& id, WallTime, AsyncEffects& effects) {
  Entry* entry = entry_of(id);
  if (entry == nullptr) return failure(ErrorCode::not_found, "call {} not found", to_string(id));
  if (entry->phase != CallPhase::dead || entry->saving > 0) {
    return failure(ErrorCode::already_exists, "call {} is {}, not a dead letter", to_string(id),
                   entry->saving > 0 ? "being saved" : to_string(entry->phase));
  }
  expire(id, *entry, CallEnd::purged, effects);
  save(id, *entry, effects, false, true, true);
  return {};
}

void AsyncQueue::expire(const CallId& id, Entry& entry, CallEnd end, AsyncEffects&) {
  clear_timer(id, entry);
  entry.in_queue = false;
  entry.end = end;
  if (entry.callback == CallbackPhase::due) entry.callback = CallbackPhase::failed;
  set_phase(entry, CallPhase::expired);
  expired_order_.push_back(id);
}

// --- time ---------------------------------------------------------------------------------------------------------

std::optional<WallTime> AsyncQueue::next_wakeup() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->first;
}

void AsyncQueue::tick(WallTime now, AsyncEffects& effects) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const CallId id = timers_.begin()->second;
    on_timer(id, now, effects);
  }
  expire_old(done_order_, CallPhase::done, policy_.result_keep, now, effects);
  expire_old(dead_order_, CallPhase::dead, policy_.dead_keep, now, effects);
  forget_names(now, effects);
}

void AsyncQueue::on_timer(const CallId& id, WallTime now, AsyncEffects& effects) {
  Entry& entry = entries_.at(id);
  clear_timer(id, entry);
  if (entry.phase == CallPhase::waiting) {
    if (entry.saving > 0) return;  // saved() goes on
    if (now > later(entry.born_at, policy_.age_max)) {
      give_up(id, entry, CallEnd::age, now, effects);
    } else {
      enqueue(id, entry, true);
    }
  } else if (entry.callback == CallbackPhase::due && entry.saving == 0) {
    effects.callbacks.push_back(id);
  }
}

void AsyncQueue::expire_old(std::deque<CallId>& order, CallPhase phase, Duration keep, WallTime now, AsyncEffects& effects) {
  while (!order.empty()) {
    const CallId id = order.front();
    Entry* entry = entry_of(id);
    if (entry != nullptr && entry->phase == phase) {
      if (entry->saving > 0 || now < later(entry->ended_at, keep)) return;
      // A dead letter that was redriven and died again stands in the list twice.
      ++counters_.expired;
      expire(id, *entry, entry->end, effects);
      effects.forget.push_back({id, false});
    }
    order.pop_front();
  }
}

void AsyncQueue::forget_names(WallTime now, AsyncEffects& effects) {
  while (!expired_order_.empty()) {
    const CallId id = expired_order_.front();
    const Entry* entry = entry_of(id);
    if (entry != nullptr && entry->phase == CallPhase::expired) {
      const bool is_old = now >= later(entry->accepted_at, policy_.name_keep) || expired_order_.size() > policy_.names_max;
      if (!is_old || entry->saving > 0) return;
      effects.forget.push_back({id, true});
      erase(id);
    }
    expired_order_.pop_front();
  }
}

// --- looking ------------------------------------------------------------------------------------------------------

std::optional<CallState> AsyncQueue::find(const CallId& id) const {
  const Entry* entry = entry_of(id);
  if (entry == nullptr || entry->storing) return std::nullopt;
  CallState state = state_of(id, *entry);
  const bool is_over = state.phase == CallPhase::done || state.phase == CallPhase::dead;
  if (is_over && entry->saving > 0 && state.callback_attempts == 0) state.phase = CallPhase::running;
  return state;
}

CallState AsyncQueue::raw_state(const CallId& id) const { return state_of(id, entries_.at(id)); }

std::vector<AsyncQueue::Listing> AsyncQueue::list(std::string_view function, std::optional<CallPhase> phase,
                                                  std::size_t limit) const {
  std::vector<std::pair<std::uint64_t, CallId>> found;
  for (const auto& [id, entry] : entries_) {
    if (entry.storing || (phase ? entry.phase != *phase : entry.phase == CallPhase::expired)) continue;
    if (!function.empty() && lines_[entry.line]->function.value != function) continue;
    found.emplace_back(entry.sequence, id);
  }
  const std::size_t wanted = std::min(limit, found.size());
  // The newest ones, oldest first.
  std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(wanted), found.end(), std::greater<>());
  found.resize(wanted);
  std::reverse(found.begin(), found.end());
  std::vector<Listing> listing;
  listing.reserve(found.size());
  for (const auto& [sequence, id] : found) listing.push_back({id, state_of(id, entries_.at(id))});
  return listing;
}

std::vector<AsyncQueue::FunctionDepth> AsyncQueue::depths() const {
  std::vector<FunctionDepth> depths;
  for (const auto& line : lines_) {
    if (line->function.value.empty()) continue;
    FunctionDepth depth{line->function, line->queued, line->waiting, line->in_flight, std::nullopt};
    for (const std::deque<CallId>* queue : {&line->again, &line->fresh}) {
      for (const CallId& id : *queue) {
        const Entry* entry = entry_of(id);
        if (entry == nullptr || entry->phase != CallPhase::queued) continue;
        if (!depth.oldest || entry->accepted_at < *depth.oldest) depth.oldest = entry->accepted_at;
        break;
      }
    }
    depths.push_back(std::move(depth));
  }
  return depths;
}

}  // namespace dirigent::core
