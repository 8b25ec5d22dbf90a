// SPDX-License-Identifier: MIT
//
// The store of calls on disk: a log of segments, written at its end and cleaned at its beginning.
//
//   oldest [......] [....] [..    ] newest        one writer thread: takes what waits, writes it as one piece, syncs,
//      ^ cleaned: what is still needed is           updates the index, answers.
//        written again at the end, the file goes
//
// Segments go strictly from the oldest on. What ends a call therefore outlives everything of the call that came before
// it, and a call that is over cannot come back.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "dirigent/store/call_store.h"
#include "store/call_index.h"
#include "store/call_scan.h"
#include "store/call_segment.h"

namespace dirigent::store {

class LogCallStore final : public CallStore {
 public:
  static Result<std::unique_ptr<CallStore>> open(CallStoreOptions options);
  // What was given to write() is written first.
  ~LogCallStore() override;

  [[nodiscard]] StoreId id() const override { return id_; }
  [[nodiscard]] const std::string& directory() const override { return options_.directory; }
  void write(CallWrite change, std::function<void(Status)> done) override;
  Result<std::string> read(const CallId& id, CallPart part) override;
  void forget(const CallId& id, std::uint8_t parts) override;
  std::vector<FoundCall> found() override;
  [[nodiscard]] const StoreDamage& damage() const override { return damage_; }
  void tidy() override;
  [[nodiscard]] CallStoreFigures figures() const override;

 private:
  struct Pending {
    CallWrite change;
    std::function<void(Status)> done;
    std::uint64_t bytes = 0;
  };
  // Records on their way into the active segment.
  struct Group {
    struct Part {
      RecordHeader header;
      std::uint32_t offset = 0;         // in the buffer
      Pending* pending = nullptr;       // nullptr: moved by cleaning
      std::uint32_t old_offset = 0;     // of the moved part, in the segment that is cleaned
      std::size_t moved_part = 0;
    };
    std::string buffer;
    std::vector<Part> parts;
  };

  LogCallStore(CallStoreOptions options, int lock_fd);
  Status load();
  Status take_id(StoreId in_segments);
  ScanResult load_segment(const std::shared_ptr<Segment>& segment, bool is_last, bool was_written_last);
  void note(std::string finding);

  void run();
  void commit(std::deque<Pending>& taken);
  bool put(Group& group, Pending& pending, Status& why);
  // Room for `bytes` in the active segment, if need be in a new one, for which `group` is written first.
  Status make_room(Group& group, std::uint64_t bytes, bool is_new);
  Status begin_segment(std::uint64_t bytes, bool is_new);
  void seal_active();
  void flush(Group& group);
  void answer(Pending& pending, const Status& status);

  [[nodiscard]] bool is_time() const;         // to write what is queued. REQUIRES: the lock is held
  [[nodiscard]] bool wants_cleaning() const;  // REQUIRES: the lock is held
  void clean_some();
  void begin_cleaning(const std::shared_ptr<Segment>& segment);
  void end_cleaning();

  const CallStoreOptions options_;
  const int lock_fd_;
  StoreId id_ = 0;
  StoreDamage damage_;
  std::string found_states_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Pending> queue_;
  std::size_t urgent_ = 0;           // of queue_, those that may not wait
  std::chrono::steady_clock::time_point waiting_since_{};  // the oldest of queue_
  std::uint64_t queued_bytes_ = 0;
  bool closing_ = false;
  std::map<std::uint64_t, std::shared_ptr<Segment>> segments_;  // the active one too
  std::unique_ptr<CallIndex> index_;
  CallStoreFigures figures_;
  std::uint64_t clean_until_ = 0;    // segments below this number are to go
  Instant dead_since_{};             // when something first was over that is still on disk
  std::uint64_t dead_seen_ = 0;

  // The writer thread's.
  std::shared_ptr<Segment> active_;
  std::uint32_t at_ = 0;             // where the next record goes
  std::uint32_t group_ = 1;
  std::uint64_t next_number_ = 1;
  Status create_failed_;
  Instant create_failed_at_{};
  std::shared_ptr<Segment> cleaned_;
  std::string cleaned_bytes_;
  std::vector<std::pair<RecordHeader, std::uint32_t>> cleaned_records_;
  std::size_t cleaned_next_ = 0;
  std::thread writer_;
};

}  // namespace dirigent::store
