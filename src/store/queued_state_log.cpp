// SPDX-License-Identifier: MIT
//
// Group commit: while one synced write runs, further batches gather, and all of them go into the next one. A disk that
// syncs in 5 ms so accepts thousands of batches a second, and a single batch waits for one sync only.
#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "dirigent/base/fault_point.h"
#include "log_backend.h"

namespace dirigent::store {

namespace {

// A write is bounded so that `done` of its first batch does not wait for megabytes of later ones.
constexpr std::size_t kGroupBytesMax = 4 << 20;
// A disk that hangs must not eat the memory of the node: beyond this, batches are refused.
constexpr std::size_t kQueueBytesMax = 256 << 20;

struct Batch {
  std::vector<Write> writes;
  std::function<void(Status)> done;
  std::size_t bytes = 0;
  std::size_t records = 0;
  bool refused = false;  // keeps its place, so that answers stay in order
};

std::size_t size_of(const std::vector<Write>& writes) {
  std::size_t bytes = 0;
  for (const Write& write : writes) bytes += sizeof(Write) + write.key.size() + (write.value ? write.value->size() : 0);
  return bytes;
}

class QueuedStateLog final : public StateLog {
 public:
  explicit QueuedStateLog(std::unique_ptr<LogBackend> backend) : backend_(std::move(backend)) {
    writer_ = std::thread([this] { run(); });
    pthread_setname_np(writer_.native_handle(), "state-log");
  }

  // What was appended is written first.
  ~QueuedStateLog() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_one();
    writer_.join();
  }

  void append(std::vector<Write> writes, std::function<void(Status)> done) override {
    Batch batch;
    batch.bytes = size_of(writes);
    batch.records = writes.size();
    batch.writes = std::move(writes);
    batch.done = std::move(done);
    {
      const std::lock_guard lock(mutex_);
      batch.refused = queued_bytes_ + batch.bytes > kQueueBytesMax && queued_bytes_ > 0;
      if (batch.refused) {
        batch.writes = {};
        batch.bytes = 0;
      }
      queued_bytes_ += batch.bytes;
      lag_ += batch.records;
      queue_.push_back(std::move(batch));
    }
    changed_.notify_one();
  }

  Result<std::vector<std::pair<std::string, std::string>>> read_all(const std::string& prefix) override {
    return backend_->read_all(prefix);
  }

  [[nodiscard]] std::size_t lag() const override {
    const std::lock_guard lock(mutex_);
    return lag_;
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      std::vector<Batch> group = take_group();
      lock.unlock();
      commit(group);
      lock.lock();
    }
  }

  // REQUIRES: the lock is held.
  std::vector<Batch> take_group() {
    std::vector<Batch> group;
    std::size_t bytes = 0;
    while (!queue_.empty() && (group.empty() || bytes + queue_.front().bytes <= kGroupBytesMax)) {
      bytes += queue_.front().bytes;
      group.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    return group;
  }

  void commit(std::vector<Batch>& group) {
    std::vector<const std::vector<Write>*> batches;
    std::size_t records = 0;
    std::size_t bytes = 0;
    for (const Batch& batch : group) {
      if (!batch.writes.empty()) batches.push_back(&batch.writes);
      records += batch.records;
      bytes += batch.bytes;
    }
    DIRIGENT_FAULT_POINT("state_log.before_sync");
    const Status written = batches.empty() ? Status{} : backend_->commit(batches);
    DIRIGENT_FAULT_POINT("state_log.after_sync");
    {
      // Before the answers: whoever is told "durable" finds it counted so.
      const std::lock_guard lock(mutex_);
      lag_ -= records;
      queued_bytes_ -= bytes;
    }
    for (Batch& batch : group) {
      if (!batch.done) continue;
      if (batch.refused) {
        batch.done(failure(ErrorCode::exhausted,
                           "cannot queue a write: {} MiB are waiting for the disk already (is it stuck?)",
                           kQueueBytesMax >> 20));
      } else {
        batch.done(written);
      }
    }
  }

  std::unique_ptr<LogBackend> backend_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> queue_;
  std::size_t queued_bytes_ = 0;
  std::size_t lag_ = 0;
  bool closing_ = false;
  std::thread writer_;
};

}  // namespace

std::unique_ptr<StateLog> queued_state_log(std::unique_ptr<LogBackend> backend) {
  return std::make_unique<QueuedStateLog>(std::move(backend));
}

}  // namespace dirigent::store
