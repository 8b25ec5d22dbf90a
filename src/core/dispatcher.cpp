// SPDX-License-Identifier: MIT
#include "dirigent/core/dispatcher.h"

#include <algorithm>
#include <cmath>

#include "dirigent/base/assert.h"

namespace dirigent::core {

// Everything a shard knows of one function.
struct Dispatcher::Entry {
  FunctionShared* shared = nullptr;
  std::uint64_t number = 0;  // in order of appearance
  std::shared_ptr<const RoutedFunction> routed;
  policy::BalancerState balancer;
  bool removed = false;

  // The queue, on the home shard only, ordered by arrival. A request that left stays as `dead` until it comes to the
  // front, so that leaving is cheap however long the queue is.
  struct Waiter {
    Parked request;
    bool dead = false;
  };
  std::deque<Waiter> queue;
  std::uint32_t waiting = 0;  // those not dead

  std::uint32_t in_flight = 0;

  // Load since the last report.
  double area = 0;            // concurrency integrated over nanoseconds
  Instant integrated_until{};
  Instant reported_at{};
  std::uint64_t arrivals = 0;
  std::uint64_t completions = 0;
  Duration busy{};
  bool has_reported = false;
  bool was_zero = true;               // the last report said that there is nothing
  std::uint32_t reported_waiting = 0;
  std::optional<Instant> report_due;

  // For Retry-After: completions per second, and the cold starts seen, both smoothed.
  double drain_rate = 0;
  double cold_start_seconds = 0;

  std::optional<Instant> wakeup;  // its place in wakeups_

  [[nodiscard]] std::uint32_t concurrency() const { return waiting + in_flight; }
};

namespace {

class SlotView final : public policy::CandidateView {
 public:
  explicit SlotView(const RoutedFunction& function) : sandboxes_(function.sandboxes) {}
  [[nodiscard]] std::size_t size() const override { return sandboxes_.size(); }
  [[nodiscard]] std::uint32_t in_use(std::size_t i) const override { return sandboxes_[i]->in_use(); }
  [[nodiscard]] std::uint32_t limit(std::size_t i) const override { return sandboxes_[i]->limit(); }
  [[nodiscard]] bool usable(std::size_t i) const override { return !sandboxes_[i]->suspect(); }
  [[nodiscard]] std::uint64_t identity(std::size_t i) const override { return sandboxes_[i]->sandbox.id.value; }

 private:
  const std::vector<SandboxSlots*>& sandboxes_;
};

Refusal not_found(const FunctionShared& function) {
  return {Reason::not_found, fmt::format("function \"{}\" is not there any more", function.name), {}};
}

}  // namespace

bool DispatcherEffects::empty() const {
  return granted.empty() && refused.empty() && posted.empty() && loads.empty() && suspected.empty() && !released;
}

void DispatcherEffects::clear() {
  granted.clear();
  refused.clear();
  posted.clear();
  loads.clear();
  suspected.clear();
  released = false;
}

Dispatcher::Dispatcher(DispatcherOptions options) : options_(options), rng_(options.seed) {}
Dispatcher::~Dispatcher() = default;

const RoutedFunction* Dispatcher::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second->routed.get();
}

Dispatcher::Entry& Dispatcher::entry_of(FunctionShared* function) {
  const auto found = entries_.find(function);
  ASSERT(found != entries_.end(), "function {} on shard {}", function->name, options_.shard);
  return *found->second;
}

// --- admission ----------------------------------------------------------------------------------------------------

Admission Dispatcher::arrive(const RoutedFunction& function, RequestToken token, Instant now, DispatcherEffects& effects) {
  Entry& entry = entry_of(function.shared);
  begin_interval(entry, now);
  integrate(entry, now);
  ++entry.arrivals;
  Lease lease;
  lease.function = function.shared;
  lease.arrived = now;
  return admit_or_park(entry, lease, token, now, effects);
}

Admission Dispatcher::admit_or_park(Entry& entry, Lease lease, RequestToken token, Instant now, DispatcherEffects& effects) {
  FunctionShared& shared = *entry.shared;
  // Whoever waits goes first: a new request may not overtake them.
  if (shared.waiting.load(std::memory_order_seq_cst) == 0 && take_slot(entry, lease, now)) {
    ++entry.in_flight;
    ++in_flight_;
    if (!entry.report_due) want_report(entry, now + options_.report_interval);
    return {Admission::Kind::forward, lease, {}};
  }
  const FunctionRoute& route = entry.routed->route;
  if (route.unavailable != Reason::none && entry.routed->sandboxes.empty()) {
    return {Admission::Kind::refused, {}, {route.unavailable, route.unavailable_detail, estimate_retry_after(entry, token.value)}};
  }
  const std::uint32_t waiting_before = shared.waiting.fetch_add(1, std::memory_order_seq_cst);
  if (waiting_before >= route.limits.queue_depth) {
    shared.waiting.fetch_sub(1, std::memory_order_seq_cst);
    return {Admission::Kind::refused, {},
            {Reason::queue_full,
             fmt::format("{} requests waiting, limit {}; {} sandboxes routed", waiting_before, route.limits.queue_depth,
                         route.sandboxes.size()),
             estimate_retry_after(entry, token.value)}};
  }
  parked_tokens_.emplace(token, entry.shared);
  if (shared.home_shard != options_.shard) {
    ParkMessage message{entry.shared, token, options_.shard, lease.arrived, lease.attempts};
    effects.posted.push_back({shared.home_shard, message});
    if (!entry.report_due) want_report(entry, now + options_.report_interval);
    return {};
  }
  park_here(entry, {token, options_.shard, lease.arrived, lease.attempts}, now, effects);
  return {};
}

bool Dispatcher::take_slot(Entry& entry, Lease& lease, Instant now) {
  const RoutedFunction& function = *entry.routed;
  if (function.sandboxes.empty()) return false;
  const SlotView view(function);
  // Another shard may take the chosen slot in between; then the choice is made anew with what is left.
  for (std::size_t tries = 0; tries <= function.sandboxes.size(); ++tries) {
    const auto chosen = policy::choose_among(options_.balancer, view, entry.balancer, rng_);
    if (!chosen) return false;
    SandboxSlots* sandbox = function.sandboxes[*chosen];
    if (sandbox->try_acquire()) {
      lease.sandbox = sandbox;
      lease.granted = now;
      return true;
    }
  }
  return false;
}

// The caller has counted the request in shared->waiting.
void Dispatcher::park_here(Entry& entry, Parked request, Instant now, DispatcherEffects& effects) {
  begin_interval(entry, now);
  integrate(entry, now);
  // Ordered by arrival: messages of other shards may come a little late, and a request that is tried again keeps its age
  // (and goes before those of the same instant, which arrived after it).
  const auto goes_before = [&](const Parked& other) {
    return request.attempts > other.attempts ? request.arrived <= other.arrived : request.arrived < other.arrived;
  };
  auto place = entry.queue.end();
  while (place != entry.queue.begin() && goes_before(std::prev(place)->request)) --place;
  entry.queue.insert(place, {request, false});
  ++entry.waiting;
  ++parked_;
  // A slot may have become free while the request was on its way here.
  serve_queue(entry, now, effects);
  // The first to wait for a function without sandboxes is news, whatever was reported of those who waited before it.
  const bool has_sandboxes = entry.routed && !entry.routed->sandboxes.empty();
  if (entry.waiting > entry.reported_waiting || (entry.waiting == 1 && !has_sandboxes)) {
    want_report(entry, entry.has_reported && entry.reported_waiting > 0 ? entry.reported_at + options_.demand_interval_min : now);
  }
  schedule(entry);
}

void Dispatcher::serve_queue(Entry& entry, Instant now, DispatcherEffects& effects) {
  integrate(entry, now);
  while (!entry.queue.empty()) {
    if (entry.queue.front().dead) {
      entry.queue.pop_front();
      continue;
    }
    Lease lease;
    if (!take_slot(entry, lease, now)) break;
    const Parked request = entry.queue.front().request;
    entry.queue.pop_front();
    --entry.waiting;
    --parked_;
    entry.shared->waiting.fetch_sub(1, std::memory_order_seq_cst);
    lease.function = entry.shared;
    lease.arrived = request.arrived;
    lease.attempts = request.attempts;
    if (lease.cold()) {
      const double waited = to_seconds(now - request.arrived);
      entry.cold_start_seconds = entry.cold_start_seconds == 0 ? waited : 0.8 * entry.cold_start_seconds + 0.2 * waited;
    }
    if (request.origin == options_.shard) {
      parked_tokens_.erase(request.token);
      ++entry.in_flight;
      ++in_flight_;
      effects.granted.push_back({request.token, lease});
    } else {
      effects.posted.push_back({request.origin, GrantMessage{request.token, lease}});
    }
  }
  if (!entry.report_due && entry.concurrency() > 0) want_report(entry, now + options_.report_interval);
  // The control plane believes that somebody waits: soon it shall know better.
  if (entry.waiting == 0 && entry.reported_waiting > 0) want_report(entry, std::max(now, entry.reported_at + options_.relief_interval_min));
  schedule(entry);
}

// --- the end of a request -----------------------------------------------------------------------------------------

void Dispatcher::finish(const Lease& lease, Outcome outcome, Instant now, DispatcherEffects& effects) {
  Entry& entry = entry_of(lease.function);
  integrate(entry, now);
  ASSERT(entry.in_flight > 0 && in_flight_ > 0);
  --entry.in_flight;
  --in_flight_;
  // Requests that a client gave up say little about how long the function takes, but they did occupy the sandbox.
  ++entry.completions;
  entry.busy += now - lease.granted;
  (void)outcome;
  give_back(lease.sandbox, lease.function, now, effects);
}

Admission Dispatcher::retry(const Lease& lease, RequestToken token, std::string_view detail, Instant now, DispatcherEffects& effects) {
  Entry& entry = entry_of(lease.function);
  integrate(entry, now);
  ASSERT(entry.in_flight > 0 && in_flight_ > 0);
  --entry.in_flight;
  --in_flight_;
  lease.sandbox->set_suspect(true);
  const SandboxId failed = lease.sandbox->sandbox.id;
  effects.suspected.push_back({failed, std::string(detail)});
  const bool was_removed = entry.removed;
  give_back(lease.sandbox, lease.function, now, effects);
  if (was_removed) return {Admission::Kind::refused, {}, not_found(*lease.function)};
  if (lease.attempts >= options_.attempts_max) {
    return {Admission::Kind::refused, {},
            {Reason::sandbox_lost, fmt::format("could not connect to {} sandboxes, at last {}: {}", lease.attempts + 1, to_string(failed), detail), {}}};
  }
  Lease next;
  next.function = lease.function;
  next.arrived = lease.arrived;
  next.attempts = static_cast<std::uint8_t>(lease.attempts + 1);
  return admit_or_park(entry, next, token, now, effects);
}

void Dispatcher::give_back(SandboxSlots* sandbox, FunctionShared* function, Instant now, DispatcherEffects& effects) {
  const std::uint32_t left = sandbox->release();
  if (left == sandbox->awaited()) effects.released = true;
  const auto found = entries_.find(function);
  if (found == entries_.end()) return;
  Entry& entry = *found->second;
  if (entry.removed) {
    if (entry.in_flight == 0 && entry.waiting == 0) {
      if (entry.wakeup) wakeups_.erase({*entry.wakeup, entry.number, &entry});
      entries_.erase(found);
    }
    return;
  }
  if (function->waiting.load(std::memory_order_seq_cst) == 0) return;
  if (function->home_shard == options_.shard) {
    serve_queue(entry, now, effects);
  } else {
    effects.posted.push_back({function->home_shard, SlotFreedMessage{function}});
  }
}

void Dispatcher::abandon(RequestToken token, Instant now, DispatcherEffects& effects) {
  const auto found = parked_tokens_.find(token);
  if (found == parked_tokens_.end()) return;
  FunctionShared* function = found->second;
  if (function->home_shard != options_.shard) {
    parked_tokens_.erase(found);
    effects.posted.push_back({function->home_shard, UnparkMessage{function, token, options_.shard}});
    return;
  }
  receive(UnparkMessage{function, token, options_.shard}, now, effects);
  parked_tokens_.erase(token);
}

// --- messages of other shards -------------------------------------------------------------------------------------

void Dispatcher::receive(ShardMessage message, Instant now, DispatcherEffects& effects) {
  if (auto* park = std::get_if<ParkMessage>(&message)) {
    const auto found = entries_.find(park->function);
    const Parked request{park->token, park->origin, park->arrived, park->attempts};
    if (found == entries_.end() || found->second->removed) {
      park->function->waiting.fetch_sub(1, std::memory_order_seq_cst);
      effects.posted.push_back({park->origin, RefuseMessage{park->token, not_found(*park->function)}});
      return;
    }
    Entry& entry = *found->second;
    const FunctionRoute& route = entry.routed->route;
    if (route.unavailable != Reason::none && entry.routed->sandboxes.empty()) {
      park->function->waiting.fetch_sub(1, std::memory_order_seq_cst);
      Refusal refusal{route.unavailable, route.unavailable_detail, estimate_retry_after(entry, park->token.value)};
      effects.posted.push_back({park->origin, RefuseMessage{park->token, std::move(refusal)}});
      return;
    }
    park_here(entry, request, now, effects);
  } else if (auto* unpark = std::get_if<UnparkMessage>(&message)) {
    const auto found = entries_.find(unpark->function);
    if (found == entries_.end()) return;
    Entry& entry = *found->second;
    const auto waiter = std::find_if(entry.queue.begin(), entry.queue.end(), [&](const Entry::Waiter& w) {
      return !w.dead && w.request.token == unpark->token && w.request.origin == unpark->origin;
    });
    if (waiter == entry.queue.end()) return;  // granted or refused meanwhile; its origin gives the slot back
    integrate(entry, now);
    waiter->dead = true;
    --entry.waiting;
    --parked_;
    entry.shared->waiting.fetch_sub(1, std::memory_order_seq_cst);
    if (entry.queue.size() > 64 && entry.queue.size() > 2 * std::size_t{entry.waiting}) {
      std::erase_if(entry.queue, [](const Entry::Waiter& w) { return w.dead; });
    }
    schedule(entry);
  } else if (auto* grant = std::get_if<GrantMessage>(&message)) {
    if (parked_tokens_.erase(grant->token) == 0) {
      give_back(grant->lease.sandbox, grant->lease.function, now, effects);
      return;
    }
    const auto found = entries_.find(grant->lease.function);
    if (found == entries_.end()) {
      // The function's removal came here first: the home shard had not heard of it when it granted.
      effects.refused.push_back({grant->token, not_found(*grant->lease.function)});
      give_back(grant->lease.sandbox, grant->lease.function, now, effects);
      return;
    }
    Entry& entry = *found->second;
    integrate(entry, now);
    ++entry.in_flight;
    ++in_flight_;
    if (!entry.removed && !entry.report_due) want_report(entry, now + options_.report_interval);
    effects.granted.push_back({grant->token, grant->lease});
  } else if (auto* refuse = std::get_if<RefuseMessage>(&message)) {
    if (parked_tokens_.erase(refuse->token) != 0) effects.refused.push_back({refuse->token, std::move(refuse->refusal)});
  } else if (auto* freed = std::get_if<SlotFreedMessage>(&message)) {
    const auto found = entries_.find(freed->function);
    if (found != entries_.end() && !found->second->removed) serve_queue(*found->second, now, effects);
  }
}

// --- routes -------------------------------------------------------------------------------------------------------

void Dispatcher::apply(const RouteTableChange& change, Instant now, DispatcherEffects& effects) {
  for (const auto& routed : change.changed) {
    auto& slot = entries_[routed->shared];
    if (!slot) {
      slot = std::make_unique<Entry>();
      slot->shared = routed->shared;
      slot->number = ++next_number_;
      slot->integrated_until = now;
      slot->reported_at = now;
      by_name_.erase(routed->shared->name.value);
      by_name_.emplace(routed->shared->name.value, slot.get());
    }
    Entry& entry = *slot;
    entry.routed = routed;
    if (entry.queue.empty()) continue;
    serve_queue(entry, now, effects);
    const FunctionRoute& route = routed->route;
    if (route.unavailable != Reason::none && routed->sandboxes.empty()) {
      refuse_queue(entry, {route.unavailable, route.unavailable_detail, estimate_retry_after(entry, 0)}, now, effects);
    }
    schedule(entry);
  }
  for (FunctionShared* function : change.removed) {
    const auto found = entries_.find(function);
    if (found == entries_.end()) continue;
    Entry& entry = *found->second;
    refuse_queue(entry, not_found(*function), now, effects);
    const auto named = by_name_.find(function->name.value);
    if (named != by_name_.end() && named->second == &entry) by_name_.erase(named);
    if (entry.wakeup) wakeups_.erase({*entry.wakeup, entry.number, &entry});
    entry.wakeup.reset();
    entry.report_due.reset();
    entry.removed = true;
    if (entry.in_flight == 0) entries_.erase(found);
  }
}

void Dispatcher::refuse_queue(Entry& entry, const Refusal& refusal, Instant now, DispatcherEffects& effects) {
  integrate(entry, now);
  while (!entry.queue.empty()) {
    const auto waiter = entry.queue.front();
    entry.queue.pop_front();
    if (waiter.dead) continue;
    --entry.waiting;
    --parked_;
    entry.shared->waiting.fetch_sub(1, std::memory_order_seq_cst);
    refuse_parked(waiter.request, refusal, effects);
  }
  schedule(entry);
}

void Dispatcher::refuse_parked(const Parked& request, const Refusal& refusal, DispatcherEffects& effects) {
  if (request.origin == options_.shard) {
    parked_tokens_.erase(request.token);
    effects.refused.push_back({request.token, refusal});
  } else {
    effects.posted.push_back({request.origin, RefuseMessage{request.token, refusal}});
  }
}

// --- time ---------------------------------------------------------------------------------------------------------

std::optional<Instant> Dispatcher::next_wakeup() const {
  if (wakeups_.empty()) return std::nullopt;
  return wakeups_.begin()->when;
}

void Dispatcher::tick(Instant now, DispatcherEffects& effects) {
  while (!wakeups_.empty() && wakeups_.begin()->when <= now) {
    Entry& entry = *wakeups_.begin()->entry;
    wakeups_.erase(wakeups_.begin());
    entry.wakeup.reset();
    const Duration queue_timeout = entry.routed->route.limits.queue_timeout;
    while (!entry.queue.empty()) {
      const auto waiter = entry.queue.front();
      if (!waiter.dead && waiter.request.arrived + queue_timeout > now) break;
      entry.queue.pop_front();
      if (waiter.dead) continue;
      integrate(entry, now);
      --entry.waiting;
      --parked_;
      entry.shared->waiting.fetch_sub(1, std::memory_order_seq_cst);
      refuse_parked(waiter.request,
                    {Reason::queue_timeout,
                     fmt::format("no slot within {}; {} still waiting, {} sandboxes routed", format_duration(queue_timeout),
                                 entry.waiting, entry.routed->sandboxes.size()),
                     estimate_retry_after(entry, waiter.request.token.value)},
                    effects);
    }
    if (entry.report_due && *entry.report_due <= now) report(entry, now, effects);
    schedule(entry);
  }
}

void Dispatcher::report_all(Instant now) {
  for (auto& [shared, entry] : entries_) {
    if (entry->removed || (entry->concurrency() == 0 && entry->was_zero)) continue;
    entry->reported_waiting = 0;
    want_report(*entry, now);
    schedule(*entry);
  }
}

// The interval of a load that comes out of silence starts now, not when the silence did.
void Dispatcher::begin_interval(Entry& entry, Instant now) {
  if (entry.report_due || !entry.was_zero || entry.concurrency() > 0) return;
  entry.area = 0;
  entry.integrated_until = now;
  entry.reported_at = now;
}

void Dispatcher::integrate(Entry& entry, Instant now) {
  if (now <= entry.integrated_until) return;
  entry.area += static_cast<double>(entry.concurrency()) * static_cast<double>((now - entry.integrated_until).count());
  entry.integrated_until = now;
}

void Dispatcher::want_report(Entry& entry, Instant when) {
  if (entry.report_due && *entry.report_due <= when) return;
  entry.report_due = when;
  schedule(entry);
}

void Dispatcher::schedule(Entry& entry) {
  std::optional<Instant> next = entry.report_due;
  if (!entry.queue.empty()) {
    const Instant deadline = entry.queue.front().request.arrived + entry.routed->route.limits.queue_timeout;
    if (!next || deadline < *next) next = deadline;
  }
  if (next == entry.wakeup) return;
  if (entry.wakeup) wakeups_.erase({*entry.wakeup, entry.number, &entry});
  entry.wakeup = next;
  if (next) wakeups_.insert({*next, entry.number, &entry});
}

void Dispatcher::report(Entry& entry, Instant now, DispatcherEffects& effects) {
  integrate(entry, now);
  const Duration interval = now - entry.reported_at;
  FunctionLoad load;
  load.function = entry.shared->name;
  load.shard = options_.shard;
  load.waiting = entry.waiting;
  load.in_flight = entry.in_flight;
  load.average_concurrency = interval > Duration::zero() ? entry.area / static_cast<double>(interval.count())
                                                         : static_cast<double>(entry.concurrency());
  load.arrivals = entry.arrivals;
  load.completions = entry.completions;
  load.busy = entry.busy;
  load.interval = interval;
  if (entry.shared->home_shard == options_.shard) {
    for (const SandboxSlots* sandbox : entry.routed->sandboxes) {
      if (sandbox->in_use() > 0) load.occupied.push_back(sandbox->sandbox.id);
    }
  }
  if (interval >= 100ms) {
    const double rate = static_cast<double>(entry.completions) / to_seconds(interval);
    entry.drain_rate = entry.drain_rate == 0 ? rate : 0.7 * entry.drain_rate + 0.3 * rate;
  }
  const bool is_zero = entry.concurrency() == 0 && entry.arrivals == 0 && entry.completions == 0;
  effects.loads.push_back(std::move(load));
  entry.area = 0;
  entry.arrivals = 0;
  entry.completions = 0;
  entry.busy = {};
  entry.reported_at = now;
  entry.has_reported = true;
  entry.reported_waiting = entry.waiting;
  entry.was_zero = is_zero;
  entry.report_due.reset();
  if (!is_zero) entry.report_due = now + options_.report_interval;
}

// (queue + 1) / max(drain rate, 1 / expected cold start), in whole seconds within 1..120, plus up to a quarter more
// taken from the request so that refused clients do not all come back together.
Duration Dispatcher::estimate_retry_after(const Entry& entry, std::uint64_t salt) const {
  double seconds = 1;
  const double cold_rate = entry.cold_start_seconds > 0 ? 1 / entry.cold_start_seconds : 0;
  const double rate = std::max(entry.drain_rate, cold_rate);
  if (rate > 0) seconds = std::clamp(static_cast<double>(entry.waiting + 1) / rate, 0.0, 120.0);
  const double jitter = 1 + 0.25 * static_cast<double>((salt * 0x9e3779b97f4a7c15ULL) >> 56) / 256;
  return from_seconds(std::ceil(std::max(seconds * jitter, 0.001)));
}

std::vector<Dispatcher::FunctionStats> Dispatcher::stats() const {
  std::vector<FunctionStats> all;
  for (const auto& [shared, entry] : entries_) {
    if (entry->concurrency() > 0) all.push_back({shared->name, entry->waiting, entry->in_flight});
  }
  return all;
}

}  // namespace dirigent::core
