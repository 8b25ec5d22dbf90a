// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <mutex>
#include <unordered_map>

#include "dirigent/store/call_store.h"

namespace dirigent::store {

namespace {

constexpr std::uint64_t kCallCost = 160;  // of the map's node and three strings without their text

class MemoryCallStore final : public CallStore {
 public:
  explicit MemoryCallStore(Bytes bytes_max) : bytes_max_(static_cast<std::uint64_t>(bytes_max.value)) {}

  [[nodiscard]] StoreId id() const override { return 0; }
  [[nodiscard]] const std::string& directory() const override { return directory_; }

  void write(CallWrite change, std::function<void(Status)> done) override {
    Status status;
    {
      const std::lock_guard lock(mutex_);
      status = apply(change);
      ++(status ? figures_.writes : figures_.failed);
    }
    if (done) done(std::move(status));
  }

  Result<std::string> read(const CallId& id, CallPart part) override {
    const std::lock_guard lock(mutex_);
    const auto known = calls_.find(id);
    if (known == calls_.end() || !known->second[static_cast<std::size_t>(part)]) {
      return failure(ErrorCode::not_found, "call {}: not in memory", to_string(id));
    }
    return *known->second[static_cast<std::size_t>(part)];
  }

  void forget(const CallId& id, std::uint8_t parts) override {
    const std::lock_guard lock(mutex_);
    drop(id, parts);
  }

  std::vector<FoundCall> found() override { return {}; }
  [[nodiscard]] const StoreDamage& damage() const override { return damage_; }
  void tidy() override {}

  [[nodiscard]] CallStoreFigures figures() const override {
    const std::lock_guard lock(mutex_);
    CallStoreFigures figures = figures_;
    figures.calls = calls_.size();
    figures.disk_bytes = figures.live_bytes = bytes_;
    return figures;
  }

 private:
  using Parts = std::array<std::optional<std::string>, kCallParts>;

  Status apply(CallWrite& change) {
    if (change.erases) {
      drop(change.id, 0xff);
      return {};
    }
    std::uint64_t added = kCallCost;
    for (const auto& part : change.parts) added += part ? part->size() : 0;
    // An eighth is kept for the ends of calls that were accepted.
    if (change.is_new && bytes_ + added > bytes_max_ - bytes_max_ / 8) {
      return failure(ErrorCode::exhausted, "calls hold {} of at most {} bytes of memory (raise async_store_max, or wait until "
                     "calls are over)", bytes_, bytes_max_);
    }
    drop(change.id, change.drops);
    const auto [known, is_new] = calls_.try_emplace(change.id);
    if (is_new) bytes_ += kCallCost;
    for (std::size_t i = 0; i < kCallParts; ++i) {
      if (!change.parts[i]) continue;
      if (known->second[i]) bytes_ -= known->second[i]->size();
      bytes_ += change.parts[i]->size();
      known->second[i] = std::move(change.parts[i]);
    }
    return {};
  }

  void drop(const CallId& id, std::uint8_t parts) {
    const auto known = calls_.find(id);
    if (known == calls_.end()) return;
    bool is_empty = true;
    for (std::size_t i = 0; i < kCallParts; ++i) {
      auto& part = known->second[i];
      if (part && (parts >> i & 1) != 0) {
        bytes_ -= part->size();
        part.reset();
      }
      is_empty = is_empty && !part;
    }
    if (!is_empty) return;
    bytes_ -= kCallCost;
    calls_.erase(known);
  }

  const std::uint64_t bytes_max_;
  const std::string directory_;
  const StoreDamage damage_;
  mutable std::mutex mutex_;
  std::unordered_map<CallId, Parts, CallIdHash> calls_;
  std::uint64_t bytes_ = 0;
  CallStoreFigures figures_;
};

}  // namespace

std::unique_ptr<CallStore> memory_call_store(Bytes bytes_max) { return std::make_unique<MemoryCallStore>(bytes_max); }

}  // namespace dirigent::store
