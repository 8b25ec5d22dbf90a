// SPDX-License-Identifier: MIT
//
// One asynchronous call as it is remembered, and what is made of the end of an attempt. Values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/reason.h"

namespace dirigent::core {

// On disk by number: new ones at the end.
enum class CallPhase : std::uint8_t {
  queued,   // waits for its turn (a call that was running when its process died is queued again)
  waiting,  // for the next attempt, after one that failed
  running,  // in the hands of the data plane; never on disk
  done,     // its answer is kept
  dead,     // given up: a dead letter, with its request and the last answer
  expired,  // only its name is remembered
};
std::string_view to_string(CallPhase phase);

enum class CallbackPhase : std::uint8_t { none, due, delivered, failed };
std::string_view to_string(CallbackPhase phase);

// Why a call is over, beside the status and reason of its last attempt.
enum class CallEnd : std::uint8_t { none, answered, permanent, attempts, age, corrupt, cancelled, purged };
std::string_view to_string(CallEnd end);

struct CallState {
  FunctionName function;
  std::uint64_t sequence = 0;      // order of acceptance
  CallPhase phase = CallPhase::queued;
  CallEnd end = CallEnd::none;
  std::uint8_t attempts = 0;       // ended ones; of a running call with the current one
  std::uint8_t attempts_max = 0;   // as of the last decision; 0 = none yet
  CallbackPhase callback = CallbackPhase::none;
  std::uint8_t callback_attempts = 0;
  std::uint16_t callback_status = 0;
  std::uint16_t status = 0;        // of the last attempt; 0 = no answer
  Reason reason = Reason::none;    // the platform's, of the last attempt
  bool truncated = false;          // the answer was longer than what is kept of it
  WallTime accepted_at{};
  WallTime born_at{};              // accepted or redriven: the maximal age counts from here
  WallTime due_at{};               // of the next attempt, or of the next callback
  WallTime ended_at{};
  Duration waited{};               // from born_at to the last attempt's slot
  Duration ran{};                  // of the last attempt
  std::uint32_t request_bytes = 0;
  std::uint32_t result_bytes = 0;
  std::string idempotency_key;

  friend bool operator==(const CallState&, const CallState&) = default;
};

std::string encode(const CallState& state);
// corrupt: the bytes are no state. (That they are those which were written is the store's business.)
Result<CallState> decode_call_state(std::string_view bytes);

struct RetryPolicy {
  std::uint32_t attempts_max = 3;
  Duration backoff_min = 1s;       // doubled with each attempt
  Duration backoff_max = 60s;
  std::vector<std::uint16_t> codes;  // statuses that are tried again; empty = 408, 429 and 5xx

  friend bool operator==(const RetryPolicy&, const RetryPolicy&) = default;
};
// `policy` with what the OpenFaaS labels com.openfaas.retry.attempts, .codes, .min_wait and .max_wait say; a label that
// makes no sense is left out.
RetryPolicy with_labels(RetryPolicy policy, const std::vector<std::pair<std::string, std::string>>& labels);

// How an attempt ended. `reason` is none when the function itself answered.
struct AttemptOutcome {
  std::uint16_t status = 0;
  Reason reason = Reason::none;
  Duration retry_after{};          // the answer's Retry-After; 0 = none
  Duration waited{};               // for a slot
  Duration ran{};
  std::uint32_t result_bytes = 0;
  bool truncated = false;
  bool unreadable = false;         // the stored request could not be read: it is damaged
};

enum class Settlement {
  done,
  permanent,  // trying again would change nothing
  retry,      // counts as an attempt
  hold,       // the function was not reached for reasons that are not its own: does not count
};
Settlement settle(const AttemptOutcome& outcome, const RetryPolicy& policy);

// Full jitter: anything from 0 to `backoff_min` doubled with each attempt before, at most backoff_max; never before what
// the function asked for, of which at most an hour is believed.
Duration backoff(const RetryPolicy& policy, std::uint32_t attempts, Duration retry_after, Rng& rng);

}  // namespace dirigent::core
