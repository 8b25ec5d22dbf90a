// SPDX-License-Identifier: MIT
#include "dirigent/core/async_queue.h"

#include <deque>
#include <map>
#include <set>

#include "catch.h"

using namespace dirigent;
using namespace dirigent::core;

namespace {

CallId id_of(std::uint32_t number) {
  std::array<std::uint8_t, 10> random{};
  for (std::size_t i = 0; i < 4; ++i) random[i] = static_cast<std::uint8_t>(number >> 8 * i);
  return make_call_id(7, random);
}

constexpr WallTime kStart{std::chrono::microseconds(1'800'000'000'000'000)};

AsyncPolicy small_policy() {
  AsyncPolicy policy;
  policy.inflight_max = 2;
  policy.retry.backoff_min = 1s;
  policy.retry.backoff_max = 4s;
  policy.callback_retry = policy.retry;
  return policy;
}

AttemptOutcome answer(std::uint16_t status) {
  AttemptOutcome outcome;
  outcome.status = status;
  return outcome;
}
AttemptOutcome refused(Reason reason) {
  AttemptOutcome outcome;
  outcome.status = static_cast<std::uint16_t>(traits(reason).http_status);
  outcome.reason = reason;
  return outcome;
}

// A queue whose writes are all durable at once.
struct Bench {
  explicit Bench(AsyncPolicy policy = small_policy()) : queue(std::move(policy), 1) {}

  CallId accept(const std::string& function, std::string key = {}, bool callback = false) {
    const CallId id = id_of(++accepted);
    queue.accept(id, {FunctionName{function}, std::move(key), 10, callback}, now);
    queue.stored(id, now);
    return id;
  }
  std::vector<CallId> run() {
    queue.dispatch(now, [](const FunctionName&, std::uint32_t) { return true; }, effects);
    std::vector<CallId> ids;
    for (const auto& run : effects.run) ids.push_back(run.id);
    settle();
    return ids;
  }
  void finish(const CallId& id, const AttemptOutcome& outcome) {
    queue.finish(id, outcome, now, effects);
    settle();
  }
  void pass(Duration time) {
    now += std::chrono::duration_cast<std::chrono::microseconds>(time);
    queue.tick(now, effects);
    settle();
  }
  void settle() {
    while (!effects.save.empty() || !effects.callbacks.empty()) {
      auto saves = std::exchange(effects.save, {});
      for (const auto& save : saves) {
        saved.push_back(save);
        queue.saved(save.id, now, effects);
      }
      for (const CallId& id : std::exchange(effects.callbacks, {})) callbacks.push_back(id);
    }
    for (const auto& forget : effects.forget) forgotten.push_back(forget.id);
    effects.clear();
  }
  CallPhase phase(const CallId& id) { return queue.find(id)->phase; }

  AsyncQueue queue;
  AsyncEffects effects;
  WallTime now = kStart;
  std::uint32_t accepted = 0;
  std::vector<AsyncEffects::Save> saved;
  std::vector<CallId> callbacks;
  std::vector<CallId> forgotten;
};

}  // namespace

TEST_CASE("call id: it looks like a version 4 UUID, names its store, and a slip of the pen is no id") {
  const CallId id = make_call_id(0xdeadbeef, {1, 2, 0xff, 4, 0xff, 6, 7, 8, 9, 10});
  const std::string text = to_string(id);
  CHECK(text.size() == 36);
  CHECK(text.starts_with("deadbeef-"));
  CHECK(text[14] == '4');
  CHECK(std::string("89ab").find(text[19]) != std::string::npos);
  REQUIRE(parse_call_id(text).has_value());
  CHECK(*parse_call_id(text) == id);
  CHECK(id.store() == 0xdeadbeef);
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string wrong = text;
    wrong[i] = wrong[i] == '1' ? '2' : '1';
    CHECK_FALSE(parse_call_id(wrong).has_value());
  }
  CHECK_FALSE(parse_call_id("").has_value());
  CHECK_FALSE(parse_call_id(text + "0").has_value());
}

TEST_CASE("async: what the end of an attempt means") {
  const RetryPolicy policy;
  for (const int status : {200, 201, 204, 299, 301, 304}) CHECK(settle(answer(static_cast<std::uint16_t>(status)), policy) == Settlement::done);
  for (const int status : {400, 401, 404, 410, 413, 422, 499}) CHECK(settle(answer(static_cast<std::uint16_t>(status)), policy) == Settlement::permanent);
  for (const int status : {408, 429, 500, 501, 502, 503, 504}) CHECK(settle(answer(static_cast<std::uint16_t>(status)), policy) == Settlement::retry);
  for (const Reason reason : {Reason::sandbox_lost, Reason::sandbox_reset, Reason::bad_response, Reason::max_duration,
                              Reason::start_failed, Reason::image_pull, Reason::not_found, Reason::internal}) {
    CHECK(settle(refused(reason), policy) == Settlement::retry);
  }
  for (const Reason reason : {Reason::queue_full, Reason::no_capacity, Reason::no_node, Reason::draining, Reason::overloaded}) {
    CHECK(settle(refused(reason), policy) == Settlement::hold);
  }
  CHECK(settle(refused(Reason::body_too_large), policy) == Settlement::permanent);
  AttemptOutcome damaged;
  damaged.unreadable = true;
  CHECK(settle(damaged, policy) == Settlement::permanent);
}

TEST_CASE("async: OpenFaaS labels change attempts, waits and what is tried again") {
  const RetryPolicy policy = with_labels({}, {{"com.openfaas.retry.attempts", "10"},
                                              {"com.openfaas.retry.codes", "429, 500,x"},
                                              {"com.openfaas.retry.min_wait", "5s"},
                                              {"com.openfaas.retry.max_wait", "2s"},
                                              {"other", "1"}});
  CHECK(policy.attempts_max == 10);
  CHECK(policy.backoff_min == 5s);
  CHECK(policy.backoff_max == 5s);
  CHECK(settle(answer(429), policy) == Settlement::retry);
  CHECK(settle(answer(503), policy) == Settlement::permanent);
  CHECK(with_labels({}, {{"com.openfaas.retry.attempts", "0"}}) == RetryPolicy{});
}

TEST_CASE("async: waits are spread from nothing to twice the last limit, and the function's own Retry-After is kept") {
  const RetryPolicy policy{5, 1s, 8s, {}};
  Rng rng(11);
  for (std::uint32_t attempts = 1; attempts <= 6; ++attempts) {
    const Duration limit = std::min<Duration>(8s, 1s * (1 << (attempts - 1)));
    Duration least = 1h;
    Duration most{};
    for (int i = 0; i < 2000; ++i) {
      const Duration wait = backoff(policy, attempts, Duration::zero(), rng);
      least = std::min(least, wait);
      most = std::max(most, wait);
    }
    CHECK(most <= limit);
    CHECK(most > limit * 9 / 10);
    CHECK(least < limit / 10);
  }
  CHECK(backoff(policy, 1, 30s, rng) == 30s);
  CHECK(backoff(policy, 1, 24h, rng) == 1h);
}

TEST_CASE("async: a state survives being written, and half of one is none") {
  CallState state;
  state.function = FunctionName{"hello.team"};
  state.sequence = 0x123456789abcdef;
  state.phase = CallPhase::dead;
  state.end = CallEnd::attempts;
  state.attempts = 3;
  state.attempts_max = 3;
  state.callback = CallbackPhase::failed;
  state.callback_status = 503;
  state.status = 502;
  state.reason = Reason::sandbox_reset;
  state.truncated = true;
  state.accepted_at = state.born_at = kStart;
  state.ended_at = kStart + 5s;
  state.waited = 7ms;
  state.ran = -1ns;
  state.request_bytes = 5;
  state.result_bytes = 0xffffffff;
  state.idempotency_key = std::string("a\0b\xff", 4);
  const std::string bytes = encode(state);
  REQUIRE(decode_call_state(bytes).has_value());
  CHECK(*decode_call_state(bytes) == state);
  for (std::size_t size = 0; size < bytes.size(); ++size) CHECK_FALSE(decode_call_state(bytes.substr(0, size)).has_value());
  state.phase = CallPhase::running;
  CHECK(decode_call_state(encode(state))->phase == CallPhase::queued);
}

TEST_CASE("async: a function's calls begin in their order, so many at a time as are allowed") {
  Bench bench;
  std::vector<CallId> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(bench.accept("f"));
  const CallId other = bench.accept("g");
  CHECK(bench.run() == std::vector<CallId>{calls[0], calls[1], other});
  CHECK(bench.run().empty());
  bench.finish(calls[1], answer(200));
  CHECK(bench.run() == std::vector<CallId>{calls[2]});
  CHECK(bench.phase(calls[1]) == CallPhase::done);
  CHECK(bench.phase(calls[0]) == CallPhase::running);
}

TEST_CASE("async: an attempt keeps its place until its end is saved, and is not told before") {
  AsyncPolicy policy = small_policy();
  policy.inflight_max = 1;
  Bench bench(policy);
  const CallId first = bench.accept("f");
  const CallId second = bench.accept("f");
  bench.run();
  bench.queue.finish(first, answer(200), bench.now, bench.effects);
  CHECK(bench.phase(first) == CallPhase::running);
  bench.queue.dispatch(bench.now, [](const FunctionName&, std::uint32_t) { return true; }, bench.effects);
  CHECK(bench.effects.run.empty());
  bench.settle();
  CHECK(bench.phase(first) == CallPhase::done);
  CHECK(bench.run() == std::vector<CallId>{second});
}

TEST_CASE("async: what fails is tried again before what came later, and becomes a dead letter") {
  Bench bench;
  const CallId call = bench.accept("f");
  bench.run();
  bench.finish(call, answer(500));
  CHECK(bench.phase(call) == CallPhase::waiting);
  CHECK(bench.queue.find(call)->attempts == 1);
  bench.accept("f");
  bench.pass(4s);
  REQUIRE(bench.run().front() == call);
  AttemptOutcome busy = answer(429);
  busy.retry_after = 20s;
  bench.finish(call, busy);
  bench.pass(19s);
  CHECK(bench.phase(call) == CallPhase::waiting);
  bench.pass(1s);
  CHECK(bench.run() == std::vector<CallId>{call});
  bench.finish(call, answer(503));
  CHECK(bench.phase(call) == CallPhase::dead);
  CHECK(bench.queue.find(call)->end == CallEnd::attempts);
  CHECK(bench.queue.dead_letters() == 1);

  REQUIRE(bench.queue.redrive(call, bench.now, bench.effects));
  bench.settle();
  CHECK(bench.queue.dead_letters() == 0);
  CHECK(bench.run() == std::vector<CallId>{call});
  CHECK(bench.queue.find(call)->attempts == 1);
  bench.finish(call, answer(404));
  CHECK(bench.queue.find(call)->end == CallEnd::permanent);
  REQUIRE(bench.queue.purge(call, bench.now, bench.effects));
  bench.settle();
  CHECK(bench.phase(call) == CallPhase::expired);
  CHECK(bench.queue.redrive(call, bench.now, bench.effects).error().code == ErrorCode::already_exists);
}

TEST_CASE("async: a cluster without room costs no attempt, but age does end a call") {
  AsyncPolicy policy = small_policy();
  policy.age_max = 60s;
  Bench bench(policy);
  const CallId call = bench.accept("f");
  for (int i = 0; bench.phase(call) != CallPhase::dead; ++i) {
    REQUIRE(i < 1000);
    if (!bench.run().empty()) bench.finish(call, refused(Reason::no_capacity));
    bench.pass(1s);
  }
  CHECK(bench.queue.find(call)->end == CallEnd::age);
  CHECK(bench.queue.find(call)->attempts == 0);
  CHECK(bench.now - kStart >= 55s);
  CHECK(bench.now - kStart <= 70s);
}

TEST_CASE("async: only a call that waits can be cancelled") {
  Bench bench;
  const CallId running = bench.accept("f");
  bench.accept("f");
  const CallId waiting = bench.accept("f");
  bench.run();
  CHECK(bench.queue.cancel(running, bench.now, bench.effects).error().code == ErrorCode::already_exists);
  CHECK(bench.queue.cancel(waiting, bench.now, bench.effects));
  bench.settle();
  CHECK(bench.phase(waiting) == CallPhase::expired);
  CHECK(bench.saved.back().drops_request);
  bench.finish(running, answer(200));
  CHECK(bench.run().empty());
  CHECK(bench.queue.cancel(id_of(99), bench.now, bench.effects).error().code == ErrorCode::not_found);
}

TEST_CASE("async: results, dead letters and names are kept for their time") {
  Bench bench;
  const CallId done = bench.accept("f", "key");
  const CallId dead = bench.accept("f");
  bench.run();
  bench.finish(done, answer(200));
  bench.finish(dead, answer(400));
  bench.pass(3599s);
  CHECK(bench.phase(done) == CallPhase::done);
  bench.pass(1s);
  CHECK(bench.phase(done) == CallPhase::expired);
  CHECK(bench.forgotten == std::vector<CallId>{done});
  CHECK(bench.phase(dead) == CallPhase::dead);
  CHECK(bench.queue.find_key(FunctionName{"f"}, "key") == done);
  CHECK_FALSE(bench.queue.find_key(FunctionName{"g"}, "key"));
  bench.pass(24h);
  CHECK_FALSE(bench.queue.find(done).has_value());
  CHECK_FALSE(bench.queue.find_key(FunctionName{"f"}, "key"));
  bench.pass(7 * 24h);
  CHECK_FALSE(bench.queue.find(dead).has_value());
  CHECK(bench.queue.size() == 0);
}

TEST_CASE("async: a callback is made when the end is saved, and again by the same rules") {
  Bench bench;
  const CallId call = bench.accept("f", "", true);
  bench.run();
  bench.finish(call, answer(200));
  REQUIRE(bench.callbacks == std::vector<CallId>{call});
  CHECK_FALSE(bench.saved.back().drops_request);  // it has the address
  bench.queue.called_back(call, 500, false, bench.now, bench.effects);
  bench.settle();
  bench.pass(4s);
  REQUIRE(bench.callbacks.size() == 2);
  bench.queue.called_back(call, 204, false, bench.now, bench.effects);
  bench.settle();
  CHECK(bench.queue.find(call)->callback == CallbackPhase::delivered);
  CHECK(bench.saved.back().drops_request);
  bench.pass(60s);
  CHECK(bench.callbacks.size() == 2);
  const CallId other = bench.accept("f", "", true);
  bench.run();
  bench.finish(other, answer(200));
  bench.queue.called_back(other, 0, true, bench.now, bench.effects);
  CHECK(bench.queue.find(other)->callback == CallbackPhase::failed);
}

TEST_CASE("async: calls that may not run yet are held back, not lost") {
  Bench bench;
  const CallId call = bench.accept("f");
  bench.queue.dispatch(bench.now, [](const FunctionName&, std::uint32_t) { return false; }, bench.effects);
  CHECK(bench.effects.run.empty());
  CHECK(bench.queue.is_held_back());
  CHECK(bench.run() == std::vector<CallId>{call});
  CHECK_FALSE(bench.queue.is_held_back());
}

// --- crashes --------------------------------------------------------------------------------------------------------

namespace {

// A queue with a disk: writes wait, become durable in order, and a crash loses those that wait.
class Crashing {
 public:
  explicit Crashing(std::uint64_t seed) : rng_(seed), queue_(std::make_unique<AsyncQueue>(policy(), seed)) {}

  void step() {
    switch (rng_.below(12)) {
      case 0: case 1: case 2: accept(); break;
      case 3: case 4: case 5: sync(1 + rng_.below(5)); break;
      case 6: case 7: case 8: finish_one(); break;
      case 9: pass(std::chrono::milliseconds(rng_.below(3000))); break;
      case 10: change_one(); break;
      case 11: if (rng_.below(8) == 0) crash(); break;
    }
    dispatch();
  }
  // Lets everything come to an end.
  void settle() {
    for (int i = 0; i < 100'000 && !is_over(); ++i) {
      sync(100);
      finish_one();
      pass(1s);
      dispatch();
    }
    sync(1000);
  }
  void check() {
    for (const CallId& id : promised_) {
      INFO("call " << to_string(id));
      const auto state = queue_->find(id);
      REQUIRE(state.has_value());
      CHECK((state->phase == CallPhase::done || state->phase == CallPhase::dead || state->phase == CallPhase::expired));
    }
  }

 private:
  struct Stored { CallState state; bool has_request = false, has_result = false; };
  struct Write { CallId id; CallState state; bool is_new = false, with_result = false, drops_request = false, drops_result = false; };

  static AsyncPolicy policy() {
    AsyncPolicy policy = small_policy();
    policy.inflight_max = 3;
    return policy;
  }
  [[nodiscard]] bool is_over() const {
    if (!pending_.empty() || !running_.empty()) return false;
    for (const auto& depth : queue_->depths()) {
      if (depth.queued + depth.waiting + depth.in_flight > 0) return false;
    }
    return true;
  }
  void accept() {
    const CallId id = id_of(++accepted_);
    const CallState state = queue_->accept(id, {FunctionName{rng_.below(2) == 0 ? "f" : "g"}, "", 1, false}, now_);
    pending_.push_back({id, state, true});
  }
  void sync(std::uint64_t count) {
    for (; count > 0 && !pending_.empty(); --count) {
      const Write write = pending_.front();
      pending_.pop_front();
      Stored& stored = disk_[write.id];
      stored.state = *decode_call_state(encode(write.state));
      if (write.is_new) stored.has_request = true;
      if (write.with_result) stored.has_result = true;
      if (write.drops_request) stored.has_request = false;
      if (write.drops_result) stored.has_result = false;
      if (write.is_new) {
        queue_->stored(write.id, now_);
        promised_.insert(write.id);
      } else {
        queue_->saved(write.id, now_, effects_);
      }
      take_effects();
    }
  }
  void finish_one() {
    if (running_.empty()) return;
    auto it = running_.begin();
    std::advance(it, rng_.below(running_.size()));
    const CallId id = *it;
    running_.erase(it);
    static constexpr int kStatuses[] = {200, 200, 200, 500, 429, 404};
    if (rng_.below(10) == 0) {
      queue_->finish(id, refused(Reason::queue_full), now_, effects_);
    } else {
      queue_->finish(id, answer(static_cast<std::uint16_t>(kStatuses[rng_.below(6)])), now_, effects_);
    }
    take_effects();
  }
  void change_one() {
    if (promised_.empty()) return;
    auto it = promised_.begin();
    std::advance(it, rng_.below(promised_.size()));
    if (rng_.below(2) == 0) {
      (void)queue_->redrive(*it, now_, effects_);
    } else {
      (void)queue_->cancel(*it, now_, effects_);
    }
    take_effects();
  }
  void pass(Duration time) {
    now_ += std::chrono::duration_cast<std::chrono::microseconds>(time);
    queue_->tick(now_, effects_);
    take_effects();
  }
  void dispatch() {
    queue_->dispatch(now_, [](const FunctionName&, std::uint32_t) { return true; }, effects_);
    take_effects();
    CHECK(running_.size() <= 6);
  }
  void take_effects() {
    for (const auto& save : effects_.save) {
      pending_.push_back({save.id, save.state, false, save.with_result, save.drops_request, save.drops_result});
    }
    for (const auto& run : effects_.run) {
      const auto stored = disk_.find(run.id);
      REQUIRE(stored != disk_.end());  // not before its record is durable
      CHECK(stored->second.has_request);
      CHECK(stored->second.state.phase != CallPhase::done);  // not after its end is
      CHECK(running_.insert(run.id).second);                 // not twice at a time
    }
    effects_.clear();
  }
  void crash() {
    pending_.clear();
    running_.clear();
    queue_ = std::make_unique<AsyncQueue>(policy(), rng_());
    for (const auto& [id, stored] : disk_) queue_->restore(id, stored.state, now_, effects_);
    queue_->restored(now_);
    take_effects();
  }

  Rng rng_;
  std::unique_ptr<AsyncQueue> queue_;
  AsyncEffects effects_;
  WallTime now_ = kStart;
  std::uint32_t accepted_ = 0;
  std::deque<Write> pending_;
  std::map<CallId, Stored> disk_;
  std::set<CallId> running_;
  std::set<CallId> promised_;
};

}  // namespace

TEST_CASE("async: whatever happens in whatever order, with crashes, no promise is broken") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    INFO("seed " << seed);
    Crashing world(seed);
    for (int i = 0; i < 400; ++i) world.step();
    world.settle();
    world.check();
  }
}
