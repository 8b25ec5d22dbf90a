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
  } else if (Status opened = desk->open_shelf(desk->options_.directory, false); !opened) {
    if (opened.error().code == ErrorCode::invalid_argument) {
      desk->close_now();
      return failure(opened.error());
    }
    desk->own_problem_ = opened.error().message;
    log_error("data", "no asynchronous calls for now: {}", opened.error().message);
  }
  desk->try_adopting();
  desk->perform();
  desk->arm();
  return desk;
}

Status AsyncDesk::open_shelf(const std::string& directory, bool adopted) {
  open_tried_ = io::Loop::now();
  const Instant begun = io::Loop::now();
  auto opened = open_store_(store_options(options_, directory));
  if (!opened) return failure(opened.error());
  for (const auto& store : stores_) {
    if (store->id() == (*opened)->id()) {
      return failure(ErrorCode::already_exists, "{} has the number of {}: it is a copy", directory, store->directory());
    }
  }
  store::CallStore& store = **opened;
  if (adopted) {
    stores_.push_back(std::move(*opened));
  } else {
    stores_.insert(stores_.begin(), std::move(*opened));
    own_is_open_ = true;
    own_problem_.clear();
  }
  load(store);
  log_info("data", "asynchronous calls: {} in {}, read in {}{}", store.figures().calls, directory,
           format_duration(io::Loop::now() - begun), adopted ? " (adopted)" : "");
  return {};
}

void AsyncDesk::load(store::CallStore& store) {
  const WallTime at = now();
  std::size_t damaged = 0;
  const std::vector<store::FoundCall> found = store.found();
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

Status AsyncDesk::adopt(const std::string& directory) {
  if (std::find(options_.adopt.begin(), options_.adopt.end(), directory) == options_.adopt.end()) {
    // Whoever may ask for it on the admin port may not thereby make directories anywhere.
    if (!store::is_call_store(directory)) {
      return failure(ErrorCode::not_found, "{} is no store of calls (async_dir of another data plane is one)", directory);
    }
  }
  for (const auto& store : stores_) {
    if (store->directory() == directory) return failure(ErrorCode::already_exists, "{} is open here already", directory);
  }
  Status opened = open_shelf(directory, true);
  perform();
  pump();
  return opened;
}

// Directories that nobody has: their data planes are gone, or not there yet.
void AsyncDesk::try_adopting() {
  adoption_tried_ = io::Loop::now();
  for (const std::string& directory : options_.adopt) {
    const bool is_open = std::any_of(stores_.begin(), stores_.end(), [&](const auto& s) { return s->directory() == directory; });
    if (is_open || directory == options_.directory || !store::is_call_store(directory)) continue;
    if (Status opened = open_shelf(directory, true); !opened && opened.error().code != ErrorCode::already_exists) {
      log_warn("data", "cannot adopt {}: {}", directory, opened.error().message);
    }
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
