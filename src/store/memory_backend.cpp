// SPDX-License-Identifier: MIT
#include <map>
#include <mutex>

#include "log_backend.h"

namespace dirigent::store {

namespace {

class MemoryBackend final : public LogBackend {
 public:
  Status commit(const std::vector<const std::vector<Write>*>& batches) override {
    const std::lock_guard lock(mutex_);
    for (const auto* batch : batches) {
      for (const Write& write : *batch) {
        if (write.value) {
          records_[write.key] = *write.value;
        } else {
          records_.erase(write.key);
        }
      }
    }
    return {};
  }

  Result<std::vector<std::pair<std::string, std::string>>> read_all(const std::string& prefix) override {
    const std::lock_guard lock(mutex_);
    std::vector<std::pair<std::string, std::string>> found;
    for (auto record = records_.lower_bound(prefix); record != records_.end(); ++record) {
      if (!record->first.starts_with(prefix)) break;
      found.emplace_back(*record);
    }
    return found;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> records_;
};

class ForgetfulBackend final : public LogBackend {
 public:
  Status commit(const std::vector<const std::vector<Write>*>&) override { return {}; }
  Result<std::vector<std::pair<std::string, std::string>>> read_all(const std::string&) override {
    return std::vector<std::pair<std::string, std::string>>{};
  }
};

}  // namespace

std::unique_ptr<StateLog> forgetful_state_log() { return queued_state_log(std::make_unique<ForgetfulBackend>()); }

std::unique_ptr<StateLog> memory_state_log() { return queued_state_log(std::make_unique<MemoryBackend>()); }

}  // namespace dirigent::store
