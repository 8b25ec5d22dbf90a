// SPDX-License-Identifier: MIT
#include "dirigent/core/async_call.h"

#include <algorithm>
#include <cstring>

#include "dirigent/base/text.h"

namespace dirigent::core {

namespace {

constexpr std::uint8_t kStateVersion = 1;
constexpr Duration kRetryAfterMax = 1h;
constexpr std::size_t kTextMax = 4096;

class Encoder {
 public:
  template <class T>
  Encoder& number(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      text_ += static_cast<char>(static_cast<std::uint64_t>(value) >> 8 * i & 0xff);
    }
    return *this;
  }
  Encoder& text(std::string_view value) {
    number(static_cast<std::uint16_t>(value.size()));
    text_ += value;
    return *this;
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  T number() {
    std::uint64_t value = 0;
    if (bytes_.size() < sizeof(T)) {
      failed_ = true;
      return T{};
    }
    for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::uint64_t{static_cast<std::uint8_t>(bytes_[i])} << 8 * i;
    bytes_.remove_prefix(sizeof(T));
    return static_cast<T>(value);
  }
  std::string text() {
    const auto size = number<std::uint16_t>();
    if (size > bytes_.size() || size > kTextMax) {
      failed_ = true;
      return {};
    }
    std::string value(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return value;
  }
  [[nodiscard]] bool ok() const { return !failed_; }

 private:
  std::string_view bytes_;
  bool failed_ = false;
};

std::int64_t ticks(WallTime time) { return time.time_since_epoch().count(); }
WallTime wall(std::int64_t ticks) { return WallTime(std::chrono::microseconds(ticks)); }

template <class Enum>
Enum checked(std::uint8_t value, Enum last, bool& ok) {
  ok = ok && value <= static_cast<std::uint8_t>(last);
  return static_cast<Enum>(value);
}

}  // namespace

std::string_view to_string(CallPhase phase) {
  constexpr std::string_view kNames[] = {"queued", "waiting", "running", "done", "dead", "expired"};
  return kNames[static_cast<std::size_t>(phase)];
}

std::string_view to_string(CallbackPhase phase) {
  constexpr std::string_view kNames[] = {"none", "due", "delivered", "failed"};
  return kNames[static_cast<std::size_t>(phase)];
}

std::string_view to_string(CallEnd end) {
  constexpr std::string_view kNames[] = {"", "answered", "permanent", "attempts", "age", "corrupt", "cancelled", "purged"};
  return kNames[static_cast<std::size_t>(end)];
}

std::string encode(const CallState& state) {
  const CallPhase phase = state.phase == CallPhase::running ? CallPhase::queued : state.phase;
  Encoder to;
  to.number(kStateVersion).number(static_cast<std::uint8_t>(phase)).number(static_cast<std::uint8_t>(state.end));
  to.number(state.attempts).number(state.attempts_max).number(static_cast<std::uint8_t>(state.callback));
  to.number(state.callback_attempts).number(static_cast<std::uint8_t>(state.truncated ? 1 : 0));
  to.number(state.callback_status).number(state.status).number(static_cast<std::uint8_t>(state.reason));
  to.number(state.sequence).number(ticks(state.accepted_at)).number(ticks(state.born_at)).number(ticks(state.due_at));
  to.number(ticks(state.ended_at)).number(state.waited.count()).number(state.ran.count());
  to.number(state.request_bytes).number(state.result_bytes).text(state.function.value).text(state.idempotency_key);
  return to.take();
}

Result<CallState> decode_call_state(std::string_view bytes) {
  Decoder from(bytes);
  CallState state;
  bool ok = from.number<std::uint8_t>() == kStateVersion;
  state.phase = checked(from.number<std::uint8_t>(), CallPhase::expired, ok);
  state.end = checked(from.number<std::uint8_t>(), CallEnd::purged, ok);
  state.attempts = from.number<std::uint8_t>();
  state.attempts_max = from.number<std::uint8_t>();
  state.callback = checked(from.number<std::uint8_t>(), CallbackPhase::failed, ok);
  state.callback_attempts = from.number<std::uint8_t>();
  state.truncated = from.number<std::uint8_t>() != 0;
  state.callback_status = from.number<std::uint16_t>();
  state.status = from.number<std::uint16_t>();
  state.reason = checked(from.number<std::uint8_t>(), all_reasons().back().reason, ok);
  state.sequence = from.number<std::uint64_t>();
  state.accepted_at = wall(from.number<std::int64_t>());
  state.born_at = wall(from.number<std::int64_t>());
  state.due_at = wall(from.number<std::int64_t>());
  state.ended_at = wall(from.number<std::int64_t>());
  state.waited = Duration(from.number<std::int64_t>());
  state.ran = Duration(from.number<std::int64_t>());
  state.request_bytes = from.number<std::uint32_t>();
  state.result_bytes = from.number<std::uint32_t>();
  state.function.value = from.text();
  state.idempotency_key = from.text();
  if (!ok || !from.ok()) return failure(ErrorCode::corrupt, "{} bytes are no state of a call", bytes.size());
  return state;
}

RetryPolicy with_labels(RetryPolicy policy, const std::vector<std::pair<std::string, std::string>>& labels) {
  constexpr std::string_view kPrefix = "com.openfaas.retry.";
  for (const auto& [name, value] : labels) {
    if (!name.starts_with(kPrefix)) continue;
    const std::string_view key = std::string_view(name).substr(kPrefix.size());
    if (key == "attempts") {
      if (const auto number = parse_integer(value); number && *number >= 1 && *number <= 250) {
        policy.attempts_max = static_cast<std::uint32_t>(*number);
      }
    } else if (key == "min_wait" || key == "max_wait") {
      const auto wait = parse_duration(value);
      if (wait && *wait >= Duration::zero() && *wait <= 24h) (key == "min_wait" ? policy.backoff_min : policy.backoff_max) = *wait;
    } else if (key == "codes") {
      std::vector<std::uint16_t> codes;
      for (const std::string_view part : split(value, ',')) {
        const auto code = parse_integer(trim(part));
        if (code && *code >= 100 && *code <= 599) codes.push_back(static_cast<std::uint16_t>(*code));
      }
      policy.codes = std::move(codes);
    }
  }
  policy.backoff_max = std::max(policy.backoff_max, policy.backoff_min);
  return policy;
}

Settlement settle(const AttemptOutcome& outcome, const RetryPolicy& policy) {
  if (outcome.unreadable) return Settlement::permanent;
  switch (outcome.reason) {
    case Reason::none: break;
    // The cluster had no room, or this data plane is about to stop: the function has had no chance.
    case Reason::queue_full: case Reason::queue_timeout: case Reason::no_capacity: case Reason::no_node: case Reason::paused:
    case Reason::draining: case Reason::overloaded: case Reason::max_inflight: case Reason::rate_limited:
    case Reason::store_unavailable: case Reason::client_gone:
      return Settlement::hold;
    // The request itself is at fault.
    case Reason::bad_request: case Reason::body_too_large: case Reason::unauthorized: case Reason::forbidden:
      return Settlement::permanent;
    default: return Settlement::retry;
  }
  if (outcome.status >= 200 && outcome.status < 400) return Settlement::done;
  if (!policy.codes.empty()) {
    const bool is_listed = std::find(policy.codes.begin(), policy.codes.end(), outcome.status) != policy.codes.end();
    return is_listed ? Settlement::retry : Settlement::permanent;
  }
  const bool again = outcome.status >= 500 || outcome.status == 408 || outcome.status == 429 || outcome.status < 200;
  return again ? Settlement::retry : Settlement::permanent;
}

Duration backoff(const RetryPolicy& policy, std::uint32_t attempts, Duration retry_after, Rng& rng) {
  Duration limit = policy.backoff_min;
  for (std::uint32_t i = 1; i < attempts && limit < policy.backoff_max; ++i) limit *= 2;
  limit = std::min(limit, policy.backoff_max);
  const Duration jittered = from_seconds(rng.unit() * to_seconds(limit));
  return std::max(jittered, std::min(retry_after, kRetryAfterMax));
}

}  // namespace dirigent::core
