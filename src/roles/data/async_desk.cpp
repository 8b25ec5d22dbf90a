// SPDX-License-Identifier: MIT
#include "roles/data/async_desk.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "dirigent/base/assert.h"
#include "dirigent/base/fault_point.h"
#include "dirigent/base/log.h"
#include "roles/data/problem.h"

namespace dirigent::roles {

using store::CallPart;

namespace {

constexpr Duration kTick = 1s;
constexpr Duration kHeldPause = 10ms;     // calls that yield to waiting synchronous ones look again after this
constexpr Duration kSavePause = 250ms;    // between attempts to write what could not be written
constexpr Duration kOpenPause = 1s;       // between attempts to open a store
constexpr Duration kLabelsKept = 30s;
constexpr std::size_t kHotBytesMax = 64 << 20;
constexpr std::size_t kCallsMax = 10'000'000;  // of about 200 bytes of memory each
constexpr std::size_t kHotRequestMax = 64 << 10;

std::chrono::microseconds rounded(Duration duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration);
}

AsyncReply problem(Reason reason, std::string detail, Duration retry_after = {}) {
  AsyncReply reply;
  reply.reason = reason;
  reply.detail = std::move(detail);
  reply.retry_after = retry_after;
  return reply;
}

core::AsyncPolicy policy_of(const AsyncOptions& options) {
  core::AsyncPolicy policy;
  policy.retry.attempts_max = options.attempts_max;
  policy.retry.backoff_min = options.backoff_min;
  policy.retry.backoff_max = options.backoff_max;
  policy.callback_retry = policy.retry;
  policy.inflight_max = options.inflight_max;
  policy.age_max = options.age_max;
  policy.result_keep = options.result_keep;
  policy.dead_keep = options.dead_keep;
  return policy;
}

}  // namespace

AsyncDesk::AsyncDesk(io::Loop& main, AsyncOptions options, AsyncHost host, OpenStore open_store)
    : main_(main), options_(std::move(options)), host_(std::move(host)), open_store_(std::move(open_store)),
      wall_begun_(io::Loop::wall_now()), begun_(io::Loop::now()), timer_(main, [this] { on_wakeup(); }),
      alive_(std::make_shared<AsyncDesk*>(this)) {
  if (!open_store_) open_store_ = store::open_call_store;
  limits_.body_max = static_cast<std::uint64_t>(options_.body_max.value);
  limits_.takes_everything = options_.takes_everything;
  std::uint64_t seed = 0;
  if (::getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = 1;
  queue_ = std::make_unique<core::AsyncQueue>(policy_of(options_), seed);
  readers_ = std::make_unique<io::BlockingPool>(2, "async-reader");
  tasks_ = std::make_unique<io::TaskGroup>(main, "asynchronous calls");
}

AsyncDesk::~AsyncDesk() { ASSERT(closed_, "the desk is destroyed without having been closed"); }

io::Action AsyncDesk::close() {
  stopping_ = true;
  tasks_->cancel();
  co_await tasks_->wait();
  close_now();
}

void AsyncDesk::close_now() {
  if (closed_) return;
  ASSERT(tasks_->empty());
  closed_ = stopping_ = true;
  timer_.arm(std::nullopt);
  readers_->close();
  if (secure_callers_) secure_callers_->close();
  alive_.reset();
  stores_.clear();  // each writes what it was given, and then ends
}

// Our clock since the start, so that a jump of the wall clock moves nothing while we run.
WallTime AsyncDesk::now() const { return wall_begun_ + rounded(io::Loop::now() - begun_); }

template <class Work>
void AsyncDesk::on_main(Work work) {
  main_.post([alive = std::weak_ptr<AsyncDesk*>(alive_), work = std::move(work)]() mutable {
    if (const auto self = alive.lock()) work(**self);
  });
}

// --- accepting ----------------------------------------------------------------------------------------------------

void AsyncDesk::submit(std::uint32_t shard, core::RequestToken token, AsyncSubmission submission) {
  on_main([place = Place{shard, token}, submission = std::move(submission)](AsyncDesk& self) mutable {
    self.accept(place, std::move(submission));
  });
}

void AsyncDesk::accept(Place place, AsyncSubmission submission) {
  const auto refuse = [&](Reason reason, std::string detail, Duration retry_after = {}) {
    host_.reply(place.shard, place.token, problem(reason, std::move(detail), retry_after));
  };
  if (stopping_) return refuse(Reason::draining, "this data plane is stopping", 1s);
  if (!own_is_open_) return refuse(Reason::store_unavailable, own_problem_, 1s);
  if (queue_->size() >= kCallsMax) {
    ++refused_;
    return refuse(Reason::store_unavailable, fmt::format("{} asynchronous calls are kept, which is the limit", kCallsMax), 1s);
  }
  if (!submission.request.callback_url.empty()) {
    const auto url = parse_callback_url(submission.request.callback_url);
    if (!url) return refuse(Reason::bad_request, url.error().message);
    if (Status allowed = callback_rules_.check_url(*url); !allowed) return refuse(Reason::forbidden, allowed.error().message);
  }
  if (!submission.idempotency_key.empty()) {
    if (const auto first = queue_->find_key(submission.function, submission.idempotency_key)) {
      ++repeated_;
      if (queue_->is_being_stored(*first)) {
        being_stored_[*first].places.push_back(place);
      } else {
        host_.reply(place.shard, place.token, accepted_reply(*first));
      }
      return;
    }
  }
  const CallId id = new_id();
  core::AsyncQueue::NewCall call;
  call.function = submission.function;
  call.idempotency_key = std::move(submission.idempotency_key);
  call.has_callback = !submission.request.callback_url.empty();
  call.request_bytes = static_cast<std::uint32_t>(submission.request.body.size());
  const core::CallState state = queue_->accept(id, std::move(call), now());
  store::CallWrite write;
  write.id = id;
  write.is_new = true;
  write[CallPart::state] = encode(state);
  std::string bytes = encode(submission.request);
  if (bytes.size() <= kHotRequestMax && hot_bytes_ + bytes.size() <= kHotBytesMax) {
    hot_bytes_ += bytes.size();
    hot_.emplace(id, bytes);
  }
  write[CallPart::request] = std::move(bytes);
  being_stored_.emplace(id, BeingStored{{place}, io::Loop::now()});
  DIRIGENT_FAULT_POINT("async.before_store");
  stores_.front()->write(std::move(write), [this_alive = std::weak_ptr<AsyncDesk*>(alive_), &main = main_, id](Status status) {
    main.post([this_alive, id, status = std::move(status)] {
      if (const auto self = this_alive.lock()) (*self)->accepted(id, status);
    });
  });
}

void AsyncDesk::accepted(const CallId& id, const Status& status) {
  auto node = being_stored_.extract(id);
  if (status) {
    DIRIGENT_FAULT_POINT("async.stored");
    commit_.record(io::Loop::now() - node.mapped().since);
    queue_->stored(id, now());
    for (const Place& place : node.mapped().places) host_.reply(place.shard, place.token, accepted_reply(id));
    DIRIGENT_FAULT_POINT("async.accepted");
  } else {
    ++refused_;
    queue_->not_stored(id);
    drop_hot(id);
    for (const Place& place : node.mapped().places) {
      host_.reply(place.shard, place.token, problem(Reason::store_unavailable, status.error().message, 1s));
    }
  }
  pump();
}

AsyncReply AsyncDesk::accepted_reply(const CallId& id) const {
  AsyncReply reply;
  reply.call_id = to_string(id);
  if (options_.takes_everything) {
    reply.status = 200;
    reply.headers = "Content-Type: text/plain\r\n";
    reply.body = reply.call_id;
  } else {
    reply.status = 202;
    reply.headers = fmt::format("Location: /async-function/result/{}\r\n", reply.call_id);
  }
  return reply;
}

void AsyncDesk::drop_hot(const CallId& id) {
  const auto known = hot_.find(id);
  if (known == hot_.end()) return;
  hot_bytes_ -= known->second.size();
  hot_.erase(known);
}

// --- running ------------------------------------------------------------------------------------------------------

void AsyncDesk::routes_changed() { pump(); }

void AsyncDesk::pump() {
  if (closed_) return;
  if (!stopping_ && host_.has_routes()) {
    // A function's first asynchronous call may wait like any other, since it is what makes sandboxes start. Further ones
    // begin while nobody waits: they take the room that is left, and stand in nobody's way.
    const auto may_run = [this](const FunctionName& function, std::uint32_t in_flight) {
      if (!unsaved_.empty()) return false;
      return in_flight == 0 || host_.waiting(function.value).value_or(0) == 0;
    };
    queue_->dispatch(now(), may_run, effects_);
  }
  perform();
  arm();
}

void AsyncDesk::perform() {
  if (is_performing_) return;
  is_performing_ = true;
  while (!effects_.run.empty() || !effects_.save.empty() || !effects_.forget.empty() || !effects_.callbacks.empty()) {
    core::AsyncEffects effects;
    std::swap(effects, effects_);
    for (auto& save : effects.save) this->save(save);
    for (const auto& forget : effects.forget) {
      if (store::CallStore* store = store_of(forget.id)) {
        store->forget(forget.id, forget.everything ? std::uint8_t{0xff}
                                                   : static_cast<std::uint8_t>(mask_of(CallPart::request) | mask_of(CallPart::result)));
      }
    }
    for (const auto& run : effects.run) start(run.id, run.attempt);
    callbacks_.insert(callbacks_.end(), effects.callbacks.begin(), effects.callbacks.end());
    begin_callbacks();
  }
  is_performing_ = false;
}

void AsyncDesk::start(const CallId& id, std::uint32_t attempt) {
  const auto hot = hot_.find(id);
  if (hot == hot_.end()) {
    tasks_->spawn(read_and_start(id, attempt));
    return;
  }
  std::string bytes = std::move(hot->second);
  hot_bytes_ -= bytes.size();
  hot_.erase(hot);
  start_with(id, attempt, bytes);
}

io::Action AsyncDesk::read_and_start(CallId id, std::uint32_t attempt) {
  auto bytes = co_await read_part(id, CallPart::request);
  if (stopping_) {
    core::AttemptOutcome outcome;
    outcome.status = 503;
    outcome.reason = Reason::draining;
    attempt_ended(id, outcome, {});
  } else if (bytes) {
    start_with(id, attempt, *bytes);
  } else {
    unreadable(id, bytes.error());
  }
}

void AsyncDesk::start_with(const CallId& id, std::uint32_t attempt, std::string_view bytes) {
  auto request = decode_stored_request(bytes);
  if (!request) {
    unreadable(id, request.error());
    return;
  }
  StoredRun run;
  run.id = id;
  run.attempt = attempt;
  run.result_max = static_cast<std::uint32_t>(options_.result_max.value);
  run.request = std::move(*request);
  const std::uint32_t shard = next_shard_;
  next_shard_ = (next_shard_ + 1) % host_.shards;
  host_.run(shard, std::move(run));
}

void AsyncDesk::unreadable(const CallId& id, const Error& error) {
  log_error("data", "call {} cannot be run: {}; it is a dead letter now", to_string(id), error.message);
  ++damaged_calls_;
  core::AttemptOutcome outcome;
  outcome.unreadable = true;
  StoredResult result;
  result.status = 500;
  result.headers = "Content-Type: text/plain\r\n";
  result.body = error.message + "\n";
  attempt_ended(id, outcome, std::move(result));
}

io::Task<StoredRequest> AsyncDesk::read_request(CallId id) {
  auto bytes = co_await read_part(id, CallPart::request);
  if (!bytes) co_return failure(bytes.error());
  co_return decode_stored_request(*bytes);
}

io::Task<std::string> AsyncDesk::read_part(CallId id, CallPart part) {
  store::CallStore* store = store_of(id);
  if (store == nullptr) co_return failure(ErrorCode::not_found, "call {}: its store is not open", to_string(id));
  auto read = [store, id, part] { return store->read(id, part); };
  co_return co_await readers_->run(std::move(read));
}

void AsyncDesk::ended(CallId id, core::AttemptOutcome outcome, StoredResult result) {
  on_main([id, outcome, result = std::move(result)](AsyncDesk& self) mutable {
    self.attempt_ended(id, outcome, std::move(result));
  });
}

void AsyncDesk::attempt_ended(const CallId& id, const core::AttemptOutcome& outcome, StoredResult result) {
  const bool is_failure = settle(outcome, core::RetryPolicy{}) != core::Settlement::done && outcome.reason != Reason::draining;
  const auto state = queue_->find(id);
  if (is_failure && state && !stopping_ && !options_.directory_servers.empty()) {
    const auto read = labels_read_.find(state->function.value);
    if (read == labels_read_.end() || io::Loop::now() - read->second > kLabelsKept) {
      tasks_->spawn(learn_and_settle(id, outcome, std::move(result), state->function));
      return;
    }
  }
  settle_attempt(id, outcome, std::move(result));
}

void AsyncDesk::settle_attempt(const CallId& id, const core::AttemptOutcome& outcome, StoredResult result) {
  results_[id] = encode(result);
  queue_->finish(id, outcome, now(), effects_);
  const bool is_kept = std::any_of(effects_.save.begin(), effects_.save.end(),
                                   [&](const auto& save) { return save.id == id && save.with_result; });
  if (!is_kept) results_.erase(id);
  pump();
}

// --- saving -------------------------------------------------------------------------------------------------------

void AsyncDesk::save(core::AsyncEffects::Save& save) {
  Unsaved& what = saving_[save.id];
  if (save.with_result) {
    if (const auto result = results_.find(save.id); result != results_.end()) {
      what.result = std::move(result->second);
      what.with_result = true;
      results_.erase(result);
    }
  }
  if (save.drops_request) what.drops |= mask_of(CallPart::request);
  if (save.drops_result) {
    what.drops |= mask_of(CallPart::result);
    what.with_result = false;
  }
  ++what.writes;
  write_state(save.id, save.state, what);
}

void AsyncDesk::write_state(const CallId& id, const core::CallState& state, const Unsaved& what) {
  store::CallStore* store = store_of(id);
  ASSERT(store != nullptr);
  store::CallWrite write;
  write.id = id;
  write.drops = what.drops;
  write.may_wait = true;
  write[CallPart::state] = encode(state);
  if (what.with_result) write[CallPart::result] = what.result;
  if (what.with_result) DIRIGENT_FAULT_POINT("async.before_result");
  store->write(std::move(write), [this_alive = std::weak_ptr<AsyncDesk*>(alive_), &main = main_, id](Status status) {
    main.post([this_alive, id, status = std::move(status)] {
      if (const auto self = this_alive.lock()) (*self)->state_written(id, status);
    });
  });
}

void AsyncDesk::state_written(const CallId& id, const Status& status) {
  const auto known = saving_.find(id);
  ASSERT(known != saving_.end());
  if (!status) {
    if (unsaved_.empty()) log_error("data", "the ends of asynchronous calls cannot be written, none is begun: {}", status.error().message);
    if (known->second.failed_writes++ == 0) unsaved_.push_back(id);
    saves_tried_ = io::Loop::now();
    arm();
    return;
  }
  if (known->second.with_result) DIRIGENT_FAULT_POINT("async.result_stored");
  if (--known->second.writes == 0) {
    saving_.erase(known);
  }
  queue_->saved(id, now(), effects_);
  pump();
}

// What failed is written with the state as it is now: a later write of the same call may have reached the disk.
void AsyncDesk::retry_unsaved() {
  std::deque<CallId> again;
  std::swap(again, unsaved_);
  for (const CallId& id : again) {
    Unsaved& what = saving_.at(id);
    const std::uint32_t writes = std::exchange(what.failed_writes, 0);
    for (std::uint32_t i = 0; i < writes; ++i) write_state(id, queue_->raw_state(id), what);
  }
}

// --- looking and changing -----------------------------------------------------------------------------------------

void AsyncDesk::ask(std::uint32_t shard, core::RequestToken token, AsyncQuestion question, CallId id) {
  on_main([place = Place{shard, token}, question, id](AsyncDesk& self) { self.answer(place, question, id); });
}

void AsyncDesk::answer(Place place, AsyncQuestion question, const CallId& id) {
  if (question == AsyncQuestion::result) {
    tasks_->spawn(answer_result(place, id));
    return;
  }
  tasks_->spawn(answer_cancel(place, id));
}

Status AsyncDesk::cancel(const CallId& id) {
  Status done = queue_->cancel(id, now(), effects_);
  if (done) drop_hot(id);
  pump();
  return done;
}

Status AsyncDesk::redrive(const CallId& id) {
  Status done = queue_->redrive(id, now(), effects_);
  pump();
  return done;
}

Status AsyncDesk::purge(const CallId& id) {
  Status done = queue_->purge(id, now(), effects_);
  pump();
  return done;
}

std::vector<AsyncDesk::Shelf> AsyncDesk::shelves() const {
  std::vector<Shelf> shelves;
  if (!own_is_open_) shelves.push_back({0, options_.directory, own_problem_, false, {}, {}});
  for (const auto& store : stores_) {
    const bool is_own = own_is_open_ && store == stores_.front();
    shelves.push_back({store->id(), store->directory(), "", !is_own, store->figures(), store->damage()});
  }
  return shelves;
}

// --- time ---------------------------------------------------------------------------------------------------------

void AsyncDesk::on_wakeup() {
  const Instant at = io::Loop::now();
  armed_ = Instant{};
  queue_->tick(now(), effects_);
  if (!unsaved_.empty() && at - saves_tried_ >= kSavePause) retry_unsaved();
  if (at - tidied_ >= kTick) {
    tidied_ = at;
    for (const auto& store : stores_) store->tidy();
  }
  if (!own_is_open_ && !stopping_ && at - open_tried_ >= kOpenPause && !being_opened_.contains(options_.directory)) {
    open_tried_ = at;
    tasks_->spawn(try_own());
  }
  if (!options_.adopt.empty() && !stopping_ && at - adoption_tried_ >= 5 * kOpenPause) try_adopting();
  pump();
}

void AsyncDesk::arm() {
  if (closed_) return;
  const Instant at = io::Loop::now();
  Instant next = at + kTick;
  if (const auto due = queue_->next_wakeup()) {
    next = std::min(next, at + std::max<Duration>(*due - now(), Duration::zero()) + 1us);
  }
  if (!unsaved_.empty()) next = std::min(next, saves_tried_ + kSavePause);
  if (queue_->is_held_back() && !stopping_ && unsaved_.empty()) next = std::min(next, at + kHeldPause);
  if (armed_ > at && armed_ <= next) return;  // it fires early enough, and arms anew
  armed_ = next;
  timer_.arm(next);
}

}  // namespace dirigent::roles
