// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>

#include "core/async_queue_entry.h"
#include "dirigent/base/assert.h"

namespace dirigent::core {

namespace {
// Waits of calls that the cluster has no room for: short, because it is not the function that is at fault.
const RetryPolicy kHoldPolicy{250, 100ms, 5s, {}};
}  // namespace

void AsyncEffects::clear() {
  run.clear();
  save.clear();
  forget.clear();
  callbacks.clear();
}

AsyncQueue::AsyncQueue(AsyncPolicy policy, std::uint64_t seed) : policy_(std::move(policy)), rng_(seed) {}
AsyncQueue::~AsyncQueue() = default;

// --- small parts --------------------------------------------------------------------------------------------------

AsyncQueue::Entry* AsyncQueue::entry_of(const CallId& id) {
  const auto known = entries_.find(id);
  return known == entries_.end() ? nullptr : &known->second;
}
const AsyncQueue::Entry* AsyncQueue::entry_of(const CallId& id) const {
  const auto known = entries_.find(id);
  return known == entries_.end() ? nullptr : &known->second;
}

std::uint32_t AsyncQueue::line_index(const FunctionName& function) {
  const auto [known, is_new] = line_of_.try_emplace(function.value, static_cast<std::uint32_t>(lines_.size()));
  if (is_new) lines_.push_back(std::make_unique<Line>(function));
  return known->second;
}

std::string AsyncQueue::key_of(const FunctionName& function, std::string_view key) const {
  return fmt::format("{}\n{}", function.value, key);
}

const RetryPolicy& AsyncQueue::retry_of(const Entry& entry) const {
  const Line& line = *lines_[entry.line];
  return line.retry ? *line.retry : policy_.retry;
}

// The one place where a phase changes, so that the counts of its line follow.
void AsyncQueue::set_phase(Entry& entry, CallPhase phase) {
  Line& line = *lines_[entry.line];
  const auto count = [&](CallPhase of, std::int64_t by) {
    switch (of) {
      case CallPhase::queued: line.queued += static_cast<std::uint64_t>(by); break;
      case CallPhase::waiting: line.waiting += static_cast<std::uint64_t>(by); break;
      case CallPhase::running:
        line.in_flight += static_cast<std::uint32_t>(by);
        in_flight_ += static_cast<std::uint64_t>(by);
        break;
      case CallPhase::dead: dead_now_ += static_cast<std::uint64_t>(by); break;
      case CallPhase::done:
      case CallPhase::expired: break;
    }
  };
  if (!entry.storing) count(entry.phase, -1);
  entry.storing = false;
  entry.phase = phase;
  count(phase, 1);
}

void AsyncQueue::mark_ready(std::uint32_t index) {
  Line& line = *lines_[index];
  if (line.is_ready || (line.again.empty() && line.fresh.empty())) return;
  if (line.in_flight + line.ending >= policy_.inflight_max) return;
  line.is_ready = true;
  ready_.push_back(index);
}

void AsyncQueue::enqueue(const CallId& id, Entry& entry, bool in_front) {
  set_phase(entry, CallPhase::queued);
  entry.in_queue = true;
  Line& line = *lines_[entry.line];
  (in_front ? line.again : line.fresh).push_back(id);
  mark_ready(entry.line);
}

void AsyncQueue::set_timer(const CallId& id, Entry& entry, WallTime when) {
  clear_timer(id, entry);
  entry.timer = when;
  timers_.emplace(when, id);
}

void AsyncQueue::clear_timer(const CallId& id, Entry& entry) {
  if (entry.timer == WallTime{}) return;
  timers_.erase({entry.timer, id});
  entry.timer = WallTime{};
}

CallState AsyncQueue::state_of(const CallId& id, const Entry& entry) const {
  CallState state;
  state.function = lines_[entry.line]->function;
  state.sequence = entry.sequence;
  state.phase = entry.phase;
  state.end = entry.end;
  state.attempts = entry.attempts;
  state.attempts_max = entry.attempts_max;
  state.callback = entry.callback;
  state.callback_attempts = entry.callback_attempts;
  state.callback_status = entry.callback_status;
  state.status = entry.status;
  state.reason = entry.reason;
  state.truncated = entry.truncated;
  state.accepted_at = entry.accepted_at;
  state.born_at = entry.born_at;
  state.due_at = entry.due_at;
  state.ended_at = entry.ended_at;
  state.waited = std::chrono::microseconds(entry.waited_us);
  state.ran = std::chrono::microseconds(entry.ran_us);
  state.request_bytes = entry.request_bytes;
  state.result_bytes = entry.result_bytes;
  if (const auto key = key_of_.find(id); key != key_of_.end()) state.idempotency_key = key->second;
  return state;
}

void AsyncQueue::save(const CallId& id, Entry& entry, AsyncEffects& effects, bool with_result, bool drops_request,
                      bool drops_result) {
  ++entry.saving;
  effects.save.push_back({id, state_of(id, entry), with_result, drops_request, drops_result});
}

// --- accepting ----------------------------------------------------------------------------------------------------

std::optional<CallId> AsyncQueue::find_key(const FunctionName& function, std::string_view key) const {
  const auto known = keys_.find(key_of(function, key));
  if (known == keys_.end()) return std::nullopt;
  return known->second;
}

CallState AsyncQueue::accept(const CallId& id, NewCall call, WallTime now) {
  const auto [known, is_new] = entries_.try_emplace(id);
  ASSERT(is_new, "call {} is accepted twice", to_string(id));
  Entry& entry = known->second;
  entry.sequence = next_sequence_++;
  entry.line = line_index(call.function);
  entry.accepted_at = entry.born_at = now;
  entry.request_bytes = call.request_bytes;
  entry.callback = call.has_callback ? CallbackPhase::due : CallbackPhase::none;
  entry.attempts_max = static_cast<std::uint8_t>(std::min<std::uint32_t>(retry_of(entry).attempts_max, 255));
  entry.storing = true;
  if (!call.idempotency_key.empty()) {
    keys_.emplace(key_of(call.function, call.idempotency_key), id);
    key_of_.emplace(id, std::move(call.idempotency_key));
  }
  return state_of(id, entry);
}

void AsyncQueue::stored(const CallId& id, WallTime) {
  Entry* entry = entry_of(id);
  ASSERT(entry != nullptr && entry->storing);
  ++counters_.accepted;
  enqueue(id, *entry, false);
}

void AsyncQueue::not_stored(const CallId& id) {
  const Entry* entry = entry_of(id);
  ASSERT(entry != nullptr && entry->storing);
  erase(id);
}

bool AsyncQueue::is_being_stored(const CallId& id) const {
  const Entry* entry = entry_of(id);
  return entry != nullptr && entry->storing;
}

void AsyncQueue::erase(const CallId& id) {
  if (const auto key = key_of_.find(id); key != key_of_.end()) {
    keys_.erase(key_of(lines_[entries_.at(id).line]->function, key->second));
    key_of_.erase(key);
  }
  entries_.erase(id);
}

// --- running ------------------------------------------------------------------------------------------------------

// The next call of a line that is still queued. Those that are too old by now are given up on the way.
bool AsyncQueue::take_next(Line& line, WallTime now, AsyncEffects& effects, CallId& id) {
  for (std::deque<CallId>* queue : {&line.again, &line.fresh}) {
    while (!queue->empty()) {
      id = queue->front();
      Entry* entry = entry_of(id);
      if (entry == nullptr || entry->phase != CallPhase::queued || !entry->in_queue) {
        queue->pop_front();
        continue;
      }
      if (now > later(entry->born_at, policy_.age_max)) {
        queue->pop_front();
        give_up(id, *entry, CallEnd::age, now, effects);
        continue;
      }
      queue->pop_front();
      return true;
    }
  }
  return false;
}

void AsyncQueue::dispatch(WallTime now, const std::function<bool(const FunctionName&, std::uint32_t)>& may_run,
                          AsyncEffects& effects) {
  for (std::size_t left = ready_.size(); left > 0; --left) {
    const std::uint32_t index = ready_.front();
    ready_.pop_front();
    Line& line = *lines_[index];
    line.is_ready = false;
    while (line.in_flight + line.ending < policy_.inflight_max && in_flight_ < policy_.inflight_total_max && line.queued > 0 &&
           may_run(line.function, line.in_flight)) {
      CallId id;
      if (!take_next(line, now, effects, id)) break;
      Entry& entry = entries_.at(id);
      entry.in_queue = false;
      set_phase(entry, CallPhase::running);
      if (entry.attempts < 255) ++entry.attempts;
      entry.due_at = now;
      effects.run.push_back({id, entry.attempts});
    }
    mark_ready(index);
  }
}

void AsyncQueue::finish(const CallId& id, const AttemptOutcome& outcome, WallTime now, AsyncEffects& effects) {
  Entry* entry = entry_of(id);
  if (entry == nullptr || entry->phase != CallPhase::running) return;
  entry->is_ending = true;
  ++lines_[entry->line]->ending;
  const RetryPolicy& retry = retry_of(*entry);
  entry->attempts_max = static_cast<std::uint8_t>(std::min<std::uint32_t>(retry.attempts_max, 255));
  entry->status = outcome.status;
  entry->reason = outcome.reason;
  entry->ran_us = microseconds(outcome.ran);
  entry->waited_us = microseconds(entry->due_at - entry->born_at + outcome.waited);
  entry->result_bytes = outcome.result_bytes;
  entry->truncated = outcome.truncated;
  switch (settle(outcome, retry)) {
    case Settlement::done:
      entry->end = CallEnd::answered;
      entry->ended_at = now;
      set_phase(*entry, CallPhase::done);
      done_order_.push_back(id);
      ++counters_.done;
      save(id, *entry, effects, true, entry->callback != CallbackPhase::due, false);  // it has the callback's address
      break;
    case Settlement::permanent:
      give_up(id, *entry, outcome.unreadable ? CallEnd::corrupt : CallEnd::permanent, now, effects);
      break;
    case Settlement::retry: {
      if (entry->attempts >= retry.attempts_max) {
        give_up(id, *entry, CallEnd::attempts, now, effects);
        break;
      }
      const WallTime due = later(now, backoff(retry, entry->attempts, outcome.retry_after, rng_));
      if (due > later(entry->born_at, policy_.age_max)) {
        give_up(id, *entry, CallEnd::age, now, effects);
        break;
      }
      entry->due_at = due;
      entry->holds = 0;
      set_phase(*entry, CallPhase::waiting);
      ++counters_.retried;
      save(id, *entry, effects, false, false, false);
      set_timer(id, *entry, due);
      break;
    }
    case Settlement::hold: {
      // Not an attempt, and nothing that a restart would have to know.
      --entry->attempts;
      if (entry->holds < 255) ++entry->holds;
      const WallTime due = later(now, backoff(kHoldPolicy, entry->holds, outcome.retry_after, rng_));
      if (due > later(entry->born_at, policy_.age_max)) {
        give_up(id, *entry, CallEnd::age, now, effects);
        break;
      }
      entry->due_at = due;
      set_phase(*entry, CallPhase::waiting);
      end_attempt(*entry);
      ++counters_.held;
      set_timer(id, *entry, due);
      break;
    }
  }
}

// Its slot goes to the next.
void AsyncQueue::end_attempt(Entry& entry) {
  if (!entry.is_ending) return;
  entry.is_ending = false;
  --lines_[entry.line]->ending;
  mark_ready(entry.line);
}

void AsyncQueue::give_up(const CallId& id, Entry& entry, CallEnd end, WallTime now, AsyncEffects& effects) {
  const bool has_answer = entry.phase == CallPhase::running && !entry.storing;
  clear_timer(id, entry);
  entry.in_queue = false;
  entry.end = end;
  entry.ended_at = now;
  set_phase(entry, CallPhase::dead);
  dead_order_.push_back(id);
  ++counters_.dead;
  save(id, entry, effects, has_answer, false, false);
}

void AsyncQueue::saved(const CallId& id, WallTime now, AsyncEffects& effects) {
  Entry* entry = entry_of(id);
  if (entry == nullptr || entry->saving == 0) return;
  if (--entry->saving > 0) return;
  end_attempt(*entry);
  if (entry->phase == CallPhase::queued && !entry->in_queue) {
    enqueue(id, *entry, false);  // redriven
    return;
  }
  const bool is_over = entry->phase == CallPhase::done || entry->phase == CallPhase::dead;
  if (is_over && entry->callback == CallbackPhase::due && entry->timer == WallTime{}) {
    effects.callbacks.push_back(id);
  } else if (entry->phase == CallPhase::waiting && entry->timer == WallTime{}) {
    set_timer(id, *entry, std::max(entry->due_at, now));  // it was due while its state was being written
  }
}

void AsyncQueue::called_back(const CallId& id, std::uint16_t status, bool refused, WallTime now, AsyncEffects& effects) {
  Entry* entry = entry_of(id);
  if (entry == nullptr || entry->callback != CallbackPhase::due) return;
  if (entry->callback_attempts < 255) ++entry->callback_attempts;
  entry->callback_status = status;
  const RetryPolicy& retry = policy_.callback_retry;
  if (status >= 200 && status < 300) {
    entry->callback = CallbackPhase::delivered;
    ++counters_.callbacks_delivered;
  } else if (refused || entry->callback_attempts >= retry.attempts_max) {
    entry->callback = CallbackPhase::failed;
    ++counters_.callbacks_failed;
  } else {
    entry->due_at = later(now, backoff(retry, entry->callback_attempts, Duration::zero(), rng_));
    set_timer(id, *entry, entry->due_at);
    ++counters_.callbacks_retried;
    return;  // counted anew after a restart: a callback may come more than once anyway
  }
  save(id, *entry, effects, false, entry->phase == CallPhase::done, false);
}

void AsyncQueue::set_retry(const FunctionName& function, const RetryPolicy& policy) {
  Line& line = *lines_[line_index(function)];
  if (policy == policy_.retry) {
    line.retry.reset();
  } else {
    line.retry = policy;
  }
}

}  // namespace dirigent::core
