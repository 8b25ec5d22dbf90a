// SPDX-License-Identifier: MIT
//
// The desk's stores: its own and those it has adopted, from the directory to the queue.
#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "roles/data/async_desk.h"

namespace dirigent::roles {

using store::CallPart;

namespace {

store::CallStoreOptions store_options(const AsyncOptions& options, const std::string& directory) {
  store::CallStoreOptions made;
  made.directory = directory;
  made.bytes_max = options.store_max;
  made.segment_bytes = options.segment_bytes;
  made.group = options.durability != AsyncOptions::Durability::sync;
  made.clean_after = options.clean_after;
  return made;
}

// Kept in memory, a store has no number of its own; the call ids still need one.
class NumberedMemory final : public store::CallStore {
 public:
  NumberedMemory(std::unique_ptr<store::CallStore> inner, StoreId id) : inner_(std::move(inner)), id_(id) {}
  [[nodiscard]] StoreId id() const override { return id_; }
  [[nodiscard]] const std::string& directory() const override { return inner_->directory(); }
  void write(store::CallWrite change, std::function<void(Status)> done) override { inner_->write(std::move(change), std::move(done)); }
  Result<std::string> read(const CallId& id, CallPart part) override { return inner_->read(id, part); }
  void forget(const CallId& id, std::uint8_t parts) override { inner_->forget(id, parts); }
  std::vector<store::FoundCall> found() override { return inner_->found(); }
  [[nodiscard]] const store::StoreDamage& damage() const override { return inner_->damage(); }
  void tidy() override { inner_->tidy(); }
  [[nodiscard]] store::CallStoreFigures figures() const override { return inner_->figures(); }

 private:
  std::unique_ptr<store::CallStore> inner_;
  StoreId id_;
};

}  // namespace

Result<std::unique_ptr<AsyncDesk>> AsyncDesk::open(io::Loop& main, AsyncOptions options, AsyncHost host, OpenStore open_store) {
  using Durability = AsyncOptions::Durability;
  ASSERT(options.durability != Durability::off);
  if (options.durability != Durability::memory && options.directory.empty()) {
    return failure(ErrorCode::invalid_argument, "async_dir: calls that are kept on disk need a directory");
  }
  auto rules = CallbackRules::parse(options.callback_allow);
  if (!rules) return failure(rules.error());
  std::unique_ptr<AsyncDesk> desk(new AsyncDesk(main, std::move(options), std::move(host), std::move(open_store)));
  desk->callback_rules_ = std::move(*rules);
  if (Status loaded = desk->load_secret(); !loaded) {
    desk->close_now();
    return failure(loaded.error());
  }
  if (desk->options_.durability == Durability::memory) {
    StoreId id = 0;
    while (id == 0 && ::getrandom(&id, sizeof id, 0) == sizeof id) {}
    desk->stores_.push_back(std::make_unique<NumberedMemory>(store::memory_call_store(desk->options_.store_max), id));
    desk->own_is_open_ = true;
  } else {
    desk->open_tried_ = io::Loop::now();
    auto opened = desk->open_store(desk->options_.directory);
    Status taken = opened ? desk->take_in(std::move(*opened), false) : Status(failure(opened.error()));
    if (!taken && taken.error().code == ErrorCode::invalid_argument) {
      desk->close_now();
      return failure(taken.error());
    }
    if (!taken) {
      desk->own_problem_ = taken.error().message;
      log_error("data", "no asynchronous calls for now: {}", taken.error().message);
    }
  }
  desk->try_adopting();
  desk->perform();
  desk->arm();
  return desk;
}

Result<AsyncDesk::OpenedStore> AsyncDesk::open_store(const std::string& directory) const {
  OpenedStore opened;
  opened.begun = io::Loop::now();
  auto store = open_store_(store_options(options_, directory));
  if (!store) return failure(store.error());
  opened.store = std::move(*store);
  opened.calls = opened.store->found();
  return opened;
}

Status AsyncDesk::take_in(OpenedStore opened, bool adopted) {
  store::CallStore& store = *opened.store;
  for (const auto& known : stores_) {
    if (known->id() == store.id()) {
      return failure(ErrorCode::already_exists, "{} has the number of {}: it is a copy", store.directory(), known->directory());
    }
  }
  if (adopted) {
    stores_.push_back(std::move(opened.store));
  } else {
    stores_.insert(stores_.begin(), std::move(opened.store));
    own_is_open_ = true;
    own_problem_.clear();
  }
  load(store, opened.calls);
  log_info("data", "asynchronous calls: {} in {}, read in {}{}", store.figures().calls, store.directory(),
           format_duration(io::Loop::now() - opened.begun), adopted ? " (adopted)" : "");
  return {};
}

io::Task<void> AsyncDesk::open_later(std::string directory, bool adopted) {
  if (!being_opened_.insert(directory).second) co_return failure(ErrorCode::already_exists, "{} is being opened here already", directory);
  auto open = [this, &directory] { return open_store(directory); };
  auto opened = co_await readers_->run(std::move(open));
  being_opened_.erase(directory);
  if (!opened) co_return failure(opened.error());
  if (stopping_) co_return failure(ErrorCode::cancelled, "the data plane is stopping");
  Status taken = take_in(std::move(*opened), adopted);
  if (!taken) co_return taken;
  perform();
  pump();
  co_return Status{};
}

void AsyncDesk::load(store::CallStore& store, const std::vector<store::FoundCall>& found) {
  const WallTime at = now();
  std::size_t damaged = 0;
  queue_->reserve(found.size());
  for (const store::FoundCall& call : found) {
    auto state = core::decode_call_state(call.state);
    const bool lacks_request = state && !call.has_request && state->phase != core::CallPhase::done &&
                               state->phase != core::CallPhase::expired;
    if (!state || lacks_request) {
      ++damaged;
      log_error("data", "call {} in {}: {}; it is a dead letter now", to_string(call.id), store.directory(),
                state ? "its request is missing" : state.error().message);
      queue_->restore_damaged(call.id, at, effects_);
    } else {
      queue_->restore(call.id, *state, at, effects_);
    }
  }
  damaged_calls_ += damaged;
  queue_->restored(at);
}

io::Task<void> AsyncDesk::adopt(std::string directory) {
  if (std::find(options_.adopt.begin(), options_.adopt.end(), directory) == options_.adopt.end()) {
    // Whoever may ask for it on the admin port may not thereby make directories anywhere.
    if (!store::is_call_store(directory)) {
      co_return failure(ErrorCode::not_found, "{} is no store of calls (async_dir of another data plane is one)", directory);
    }
  }
  for (const auto& store : stores_) {
    if (store->directory() == directory) co_return failure(ErrorCode::already_exists, "{} is open here already", directory);
  }
  co_return co_await open_later(std::move(directory), true);
}

io::Action AsyncDesk::try_own() {
  auto opened = co_await open_later(options_.directory, false);
  if (!opened && !own_is_open_) own_problem_ = opened.error().message;
}

io::Action AsyncDesk::try_one(std::string directory) {
  auto opened = co_await open_later(directory, true);
  if (!opened && opened.error().code != ErrorCode::already_exists && opened.error().code != ErrorCode::cancelled) {
    log_warn("data", "cannot adopt {}: {}", directory, opened.error().message);
  }
}

// Directories that nobody has: their data planes are gone, or not there yet.
void AsyncDesk::try_adopting() {
  adoption_tried_ = io::Loop::now();
  for (const std::string& directory : options_.adopt) {
    const bool is_open = std::any_of(stores_.begin(), stores_.end(), [&](const auto& s) { return s->directory() == directory; });
    if (is_open || directory == options_.directory || being_opened_.contains(directory) || !store::is_call_store(directory)) continue;
    tasks_->spawn(try_one(directory));
  }
}

store::CallStore* AsyncDesk::store_of(const CallId& id) const {
  for (const auto& store : stores_) {
    if (store->id() == id.store()) return store.get();
  }
  return nullptr;
}

CallId AsyncDesk::new_id() {
  std::array<std::uint8_t, 10> random{};
  if (random_left_ < random.size()) {
    ASSERT(::getrandom(random_.data(), 256, 0) == 256, "the system has no random numbers");  // up to 256 bytes it always has
    random_left_ = 256;
  }
  random_left_ -= random.size();
  std::copy_n(random_.begin() + static_cast<std::ptrdiff_t>(random_left_), random.size(), random.begin());
  return make_call_id(stores_.front()->id(), random);
}

}  // namespace dirigent::roles
