// SPDX-License-Identifier: MIT
//
// What a start finds in the stores becomes a queue again.
#include <algorithm>

#include "core/async_queue_entry.h"

namespace dirigent::core {

void AsyncQueue::reserve(std::size_t calls) {
  entries_.reserve(entries_.size() + calls);
  restoring_.reserve(restoring_.size() + calls);
}

void AsyncQueue::restore(const CallId& id, const CallState& state, WallTime now, AsyncEffects& effects) {
  const auto [known, is_new] = entries_.try_emplace(id);
  if (!is_new) return;  // in two stores: one had been adopted and is back
  Entry& entry = known->second;
  entry.sequence = state.sequence;
  next_sequence_ = std::max(next_sequence_, state.sequence + 1);
  entry.line = line_index(state.function);
  entry.accepted_at = state.accepted_at;
  entry.born_at = state.born_at;
  entry.due_at = state.due_at;
  entry.ended_at = state.ended_at;
  entry.waited_us = microseconds(state.waited);
  entry.ran_us = microseconds(state.ran);
  entry.request_bytes = state.request_bytes;
  entry.result_bytes = state.result_bytes;
  entry.status = state.status;
  entry.callback_status = state.callback_status;
  entry.reason = state.reason;
  entry.end = state.end;
  entry.callback = state.callback;
  entry.attempts = state.attempts;
  entry.attempts_max = state.attempts_max;
  entry.callback_attempts = state.callback_attempts;
  entry.truncated = state.truncated;
  if (!state.idempotency_key.empty() && keys_.emplace(key_of(state.function, state.idempotency_key), id).second) {
    key_of_.emplace(id, state.idempotency_key);
  }
  entry.storing = true;  // not counted yet
  switch (state.phase) {
    case CallPhase::queued:
    case CallPhase::running:
      set_phase(entry, CallPhase::queued);
      restoring_.emplace_back(state.sequence, id);
      break;
    case CallPhase::waiting:
      set_phase(entry, CallPhase::waiting);
      set_timer(id, entry, state.due_at);
      break;
    case CallPhase::done:
    case CallPhase::dead:
      set_phase(entry, state.phase);
      (state.phase == CallPhase::done ? done_order_ : dead_order_).push_back(id);
      if (entry.callback == CallbackPhase::due) set_timer(id, entry, std::max(entry.due_at, now));
      break;
    case CallPhase::expired:
      set_phase(entry, CallPhase::expired);
      expired_order_.push_back(id);
      effects.forget.push_back({id, false});
      break;
  }
}

void AsyncQueue::restore_damaged(const CallId& id, WallTime now, AsyncEffects& effects) {
  const auto [known, is_new] = entries_.try_emplace(id);
  if (!is_new) return;
  Entry& entry = known->second;
  entry.line = line_index(FunctionName{});
  entry.accepted_at = entry.born_at = now;
  entry.storing = true;
  give_up(id, entry, CallEnd::corrupt, now, effects);
}

void AsyncQueue::restored(WallTime) {
  std::sort(restoring_.begin(), restoring_.end());
  for (const auto& [sequence, id] : restoring_) {
    Entry& entry = entries_.at(id);
    entry.in_queue = true;
    lines_[entry.line]->fresh.push_back(id);
  }
  restoring_ = {};
  for (std::uint32_t line = 0; line < lines_.size(); ++line) mark_ready(line);
  const auto by_end = [this](const CallId& a, const CallId& b) { return entries_.at(a).ended_at < entries_.at(b).ended_at; };
  const auto by_age = [this](const CallId& a, const CallId& b) { return entries_.at(a).accepted_at < entries_.at(b).accepted_at; };
  std::stable_sort(done_order_.begin(), done_order_.end(), by_end);
  std::stable_sort(dead_order_.begin(), dead_order_.end(), by_end);
  std::stable_sort(expired_order_.begin(), expired_order_.end(), by_age);
}

}  // namespace dirigent::core
