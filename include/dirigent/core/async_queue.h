// SPDX-License-Identifier: MIT
//
// What a data plane decides about asynchronous calls: whose turn it is, what the end of an attempt means, when to try
// again, what is kept and for how long. Plain synchronous code, one owner, one thread; time comes in as an argument.
//
//   accept -> (stored) -> queued -> running -> (saved) done ---> expired -> forgotten
//                           ^          |  \--> (saved) dead -----/  |
//                           |          v                  \-redrive-> queued
//                           \---- waiting (saved)
// An attempt has its place among those of its function until its end is saved, so that no more calls than that may run
// again after a crash.
//
// Promises: no call is run before its record is durable; none whose end has been saved is run again; a function's calls
// begin in the order of their acceptance, retries before what came later; a call is in one phase only.
//
// About 100 bytes a call are kept here, whatever its size: bodies are the store's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dirigent/core/async_call.h"
#include "dirigent/model/call_id.h"

namespace dirigent::core {

struct AsyncPolicy {
  RetryPolicy retry;
  RetryPolicy callback_retry;        // attempts and backoff of callbacks
  std::uint32_t inflight_max = 16;   // of one function
  std::uint32_t inflight_total_max = 1024;
  Duration age_max = 6h;             // from acceptance to the last attempt's begin
  Duration result_keep = 1h;
  Duration dead_keep = 7 * 24h;
  Duration name_keep = 24h;          // after acceptance: idempotency keys, and that a call has been
  std::uint32_t names_max = 1'000'000;  // expired calls whose names are remembered
};

// What the queue wants done.
struct AsyncEffects {
  struct Run { CallId id; std::uint32_t attempt; };
  // Write the state, and what belongs to it; then call saved().
  struct Save {
    CallId id;
    CallState state;
    bool with_result = false;    // the last attempt's answer
    bool drops_request = false;
    bool drops_result = false;
  };
  struct Forget { CallId id; bool everything; };  // without a write; else request and result only

  std::vector<Run> run;
  std::vector<Save> save;
  std::vector<Forget> forget;
  std::vector<CallId> callbacks;  // deliver the result; then call called_back()

  void clear();
};

struct AsyncCounters {
  std::uint64_t accepted = 0, repeated = 0, done = 0, dead = 0, retried = 0, held = 0, expired = 0, cancelled = 0, redriven = 0;
  std::uint64_t callbacks_delivered = 0, callbacks_failed = 0, callbacks_retried = 0;
};

class AsyncQueue {
 public:
  AsyncQueue(AsyncPolicy policy, std::uint64_t seed);
  ~AsyncQueue();

  // --- accepting
  struct NewCall {
    FunctionName function;
    std::string idempotency_key;  // "" = none
    std::uint32_t request_bytes = 0;
    bool has_callback = false;
  };
  // The call that had this key first; nullopt: nobody.
  [[nodiscard]] std::optional<CallId> find_key(const FunctionName& function, std::string_view key) const;
  // The state to be written together with the request. REQUIRES: `id` and its key are new.
  CallState accept(const CallId& id, NewCall call, WallTime now);
  void stored(const CallId& id, WallTime now);
  void not_stored(const CallId& id);
  [[nodiscard]] bool is_being_stored(const CallId& id) const;

  // --- at the start
  // So many calls are about to be restored.
  void reserve(std::size_t calls);
  void restore(const CallId& id, const CallState& state, WallTime now, AsyncEffects& effects);
  // Its state cannot be read.
  void restore_damaged(const CallId& id, WallTime now, AsyncEffects& effects);
  // After the last one: puts queues in order.
  void restored(WallTime now);

  // --- running
  // Whose turn it is. `may_run` says whether a call of a function that has so many in flight may begin now.
  void dispatch(WallTime now, const std::function<bool(const FunctionName&, std::uint32_t)>& may_run, AsyncEffects& effects);
  // Somebody is queued that could run but for `may_run` or the total.
  [[nodiscard]] bool is_held_back() const { return !ready_.empty(); }
  // The attempt that `run` began is over. Ignored when the call is not running.
  void finish(const CallId& id, const AttemptOutcome& outcome, WallTime now, AsyncEffects& effects);
  void saved(const CallId& id, WallTime now, AsyncEffects& effects);
  // `status`: the receiver's answer, 0 = none; `refused`: it will never be delivered.
  void called_back(const CallId& id, std::uint16_t status, bool refused, WallTime now, AsyncEffects& effects);
  void set_retry(const FunctionName& function, const RetryPolicy& policy);

  // --- by hand. not_found; already_exists (a conflict): it is not in the phase for that, and the message says so.
  Status cancel(const CallId& id, WallTime now, AsyncEffects& effects);
  Status redrive(const CallId& id, WallTime now, AsyncEffects& effects);
  Status purge(const CallId& id, WallTime now, AsyncEffects& effects);

  // --- time
  [[nodiscard]] std::optional<WallTime> next_wakeup() const;
  void tick(WallTime now, AsyncEffects& effects);

  // --- looking
  // What a client may be told: a call whose end is not saved yet is still running.
  [[nodiscard]] std::optional<CallState> find(const CallId& id) const;
  // As it is written to disk. REQUIRES: the call is there.
  [[nodiscard]] CallState raw_state(const CallId& id) const;
  struct Listing { CallId id; CallState state; };
  [[nodiscard]] std::vector<Listing> list(std::string_view function, std::optional<CallPhase> phase, std::size_t limit) const;
  struct FunctionDepth { FunctionName function; std::uint64_t queued, waiting, in_flight; std::optional<WallTime> oldest; };
  [[nodiscard]] std::vector<FunctionDepth> depths() const;
  [[nodiscard]] const AsyncCounters& counters() const { return counters_; }
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] std::uint64_t in_flight() const { return in_flight_; }
  [[nodiscard]] std::uint64_t dead_letters() const { return dead_now_; }

 private:
  struct Entry;
  struct Line;

  Entry* entry_of(const CallId& id);
  [[nodiscard]] const Entry* entry_of(const CallId& id) const;
  std::uint32_t line_index(const FunctionName& function);
  void set_phase(Entry& entry, CallPhase phase);
  void enqueue(const CallId& id, Entry& entry, bool in_front);
  void mark_ready(std::uint32_t line);
  bool take_next(Line& line, WallTime now, AsyncEffects& effects, CallId& id);
  void end_attempt(Entry& entry);
  void give_up(const CallId& id, Entry& entry, CallEnd end, WallTime now, AsyncEffects& effects);
  void expire(const CallId& id, Entry& entry, CallEnd end, AsyncEffects& effects);
  void save(const CallId& id, Entry& entry, AsyncEffects& effects, bool with_result, bool drops_request, bool drops_result);
  void set_timer(const CallId& id, Entry& entry, WallTime when);
  void clear_timer(const CallId& id, Entry& entry);
  void on_timer(const CallId& id, WallTime now, AsyncEffects& effects);
  void expire_old(std::deque<CallId>& order, CallPhase phase, Duration keep, WallTime now, AsyncEffects& effects);
  void forget_names(WallTime now, AsyncEffects& effects);
  void erase(const CallId& id);
  [[nodiscard]] CallState state_of(const CallId& id, const Entry& entry) const;
  [[nodiscard]] const RetryPolicy& retry_of(const Entry& entry) const;
  [[nodiscard]] std::string key_of(const FunctionName& function, std::string_view key) const;

  const AsyncPolicy policy_;
  Rng rng_;
  std::unordered_map<CallId, Entry, CallIdHash> entries_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::unordered_map<std::string, std::uint32_t> line_of_;
  std::deque<std::uint32_t> ready_;
  std::set<std::pair<WallTime, CallId>> timers_;
  std::unordered_map<std::string, CallId> keys_;
  std::unordered_map<CallId, std::string, CallIdHash> key_of_;
  std::deque<CallId> done_order_, dead_order_, expired_order_;  // by the end; those that left the phase are skipped
  std::vector<std::pair<std::uint64_t, CallId>> restoring_;
  std::uint64_t next_sequence_ = 1;
  std::uint64_t in_flight_ = 0;
  std::uint64_t dead_now_ = 0;
  AsyncCounters counters_;
};

}  // namespace dirigent::core
