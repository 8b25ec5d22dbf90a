// SPDX-License-Identifier: MIT
#include "store/log_call_store.h"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "dirigent/base/assert.h"
#include "dirigent/base/log.h"
#include "store/crc32c.h"

namespace dirigent::store {

namespace {

constexpr std::chrono::milliseconds kPatience{2};      // of changes that may wait
// As many ends make a group of their own: a backlog that is worked off with nothing being accepted does not wait.
constexpr std::size_t kCompany = 8;
constexpr std::uint64_t kGroupBytesMax = 4 << 20;       // so that its first change does not wait for megabytes of later ones
constexpr std::uint64_t kQueueBytesMax = 256 << 20;     // of changes that wait; a disk that hangs must not eat the memory
constexpr std::uint32_t kSliceBytes = 512 << 10;        // moved at a time by cleaning, between two groups
constexpr Duration kCreatePause = 250ms;                // after a new segment could not be made

// The store is used by threads without a loop; the clock is the one that io::Loop::now() reads.
Instant now() {
  timespec at{};
  ::clock_gettime(CLOCK_MONOTONIC, &at);
  return Instant(std::chrono::seconds(at.tv_sec) + std::chrono::nanoseconds(at.tv_nsec));
}

std::uint64_t record_bytes(const CallWrite& change) {
  std::uint64_t bytes = kRecordHeaderSize + 8;
  for (const auto& part : change.parts) bytes += part ? part->size() : 0;
  return bytes;
}

// Kept free in every segment for the ends of calls that were accepted.
std::uint32_t reserve_of(const Segment& segment) { return segment.size() / 8; }

}  // namespace

LogCallStore::LogCallStore(CallStoreOptions options, int lock_fd) : options_(std::move(options)), lock_fd_(lock_fd) {}

LogCallStore::~LogCallStore() {
  if (writer_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_one();
    writer_.join();
  }
  ::close(lock_fd_);
}

// --- for everybody ------------------------------------------------------------------------------------------------

void LogCallStore::write(CallWrite change, std::function<void(Status)> done) {
  Pending pending{std::move(change), std::move(done), 0};
  pending.bytes = record_bytes(pending.change);
  bool refused = false;
  {
    const std::lock_guard lock(mutex_);
    refused = queued_bytes_ + pending.bytes > kQueueBytesMax && queued_bytes_ > 0;
    if (!refused) {
      queued_bytes_ += pending.bytes;
      if (!pending.change.may_wait) ++urgent_;
      if (queue_.empty()) waiting_since_ = std::chrono::steady_clock::now();
      queue_.push_back(std::move(pending));
      figures_.queued = queue_.size();
    }
  }
  if (refused) {
    pending.done(failure(ErrorCode::exhausted, "cannot queue a call for {}: {} MiB wait for the disk already (is it stuck?)",
                         options_.directory, kQueueBytesMax >> 20));
    return;
  }
  changed_.notify_one();
}

Result<std::string> LogCallStore::read(const CallId& id, CallPart part) {
  PartPlace place;
  std::shared_ptr<Segment> segment;
  {
    const std::lock_guard lock(mutex_);
    const PartPlace* found = index_->find(id, part);
    if (found == nullptr) return failure(ErrorCode::not_found, "call {}: not in {}", to_string(id), options_.directory);
    place = *found;
    segment = segments_.at(index_->segment_of(place));
  }
  auto bytes = segment->read(place.offset, place.size);
  if (!bytes) return bytes;
  if (bytes->size() != place.size || crc32c(*bytes) != place.check) {
    return failure(ErrorCode::corrupt, "call {}: {} bytes at {} of {} are not what was written (is the disk failing?)",
                   to_string(id), place.size, place.offset, segment->path());
  }
  return bytes;
}

void LogCallStore::forget(const CallId& id, std::uint8_t parts) {
  const std::lock_guard lock(mutex_);
  index_->forget(id, parts);
}

CallStoreFigures LogCallStore::figures() const {
  const std::lock_guard lock(mutex_);
  CallStoreFigures figures = figures_;
  figures.calls = index_->calls();
  figures.live_bytes = index_->live_bytes();
  figures.disk_bytes = 0;
  for (const auto& [number, segment] : segments_) figures.disk_bytes += segment->file_bytes();
  return figures;
}

// --- the writer ---------------------------------------------------------------------------------------------------

// The ends of calls wait for the next acceptance to share a sync with: a client that submits one call after the other would
// wait for the sync of the last one's end otherwise.
bool LogCallStore::is_time() const {
  if (closing_ || wants_cleaning() || urgent_ > 0) return true;
  if (queue_.empty()) return false;
  return !options_.group || queue_.size() >= kCompany || std::chrono::steady_clock::now() >= waiting_since_ + kPatience;
}

void LogCallStore::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!is_time()) {
      if (queue_.empty()) {
        changed_.wait(lock);
      } else {
        changed_.wait_until(lock, waiting_since_ + kPatience);
      }
    }
    if (queue_.empty() && closing_) return;
    std::deque<Pending> taken;
    std::uint64_t bytes = 0;
    const std::size_t count_max = options_.group ? queue_.size() : std::min<std::size_t>(queue_.size(), 1);
    while (taken.size() < count_max && (taken.empty() || bytes + queue_.front().bytes <= kGroupBytesMax)) {
      bytes += queue_.front().bytes;
      if (!queue_.front().change.may_wait) --urgent_;
      taken.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    figures_.queued = queue_.size();
    const bool cleans = wants_cleaning() && !closing_;
    lock.unlock();
    if (!taken.empty()) commit(taken);
    if (cleans) clean_some();
    lock.lock();
    queued_bytes_ -= bytes;
  }
}

void LogCallStore::commit(std::deque<Pending>& taken) {
  Group group;
  for (Pending& pending : taken) {
    Status why;
    if (!put(group, pending, why)) answer(pending, why);
  }
  flush(group);
}

bool LogCallStore::put(Group& group, Pending& pending, Status& why) {
  if (pending.bytes > kSegmentBytesMax / 2) {
    why = failure(ErrorCode::invalid_argument, "call {}: {} bytes are too many for a store of calls",
                  to_string(pending.change.id), pending.bytes);
    return false;
  }
  why = make_room(group, pending.bytes, pending.change.is_new);
  if (!why) return false;
  Group::Part part;
  part.offset = static_cast<std::uint32_t>(group.buffer.size());
  part.header = append_record(group.buffer, pending.change, group_, group.parts.size());
  part.pending = &pending;
  group.parts.push_back(part);
  return true;
}

Status LogCallStore::make_room(Group& group, std::uint64_t bytes, bool is_new) {
  const std::uint64_t needed = group.buffer.size() + bytes + kRecordHeaderSize;  // and its seal
  const bool fits = active_ != nullptr && at_ + needed <= active_->size();
  if (fits && (!is_new || at_ + needed + reserve_of(*active_) <= active_->size())) return {};
  flush(group);
  Status begun = begin_segment(bytes, is_new);
  if (!begun && fits && !is_new && active_ != nullptr) return {};
  return begun;
}

Status LogCallStore::begin_segment(std::uint64_t bytes, bool is_new) {
  const std::uint64_t wanted = kSegmentHeaderSpace + bytes + bytes / 4 + 2 * kRecordHeaderSize;
  const auto size = static_cast<std::uint32_t>(
      std::max<std::uint64_t>(static_cast<std::uint64_t>(options_.segment_bytes.value), wanted));
  if (!create_failed_ && now() - create_failed_at_ < kCreatePause) return create_failed_;
  std::uint64_t used = 0;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, segment] : segments_) used += segment->file_bytes();
  }
  // The last segment's worth of room is for the ends of calls that were accepted.
  const std::uint64_t limit = static_cast<std::uint64_t>(options_.bytes_max.value);
  if (used + (is_new ? 2 : 1) * std::uint64_t{size} > limit) {
    return failure(ErrorCode::exhausted, "the store of calls in {} has {} of at most {} bytes (raise async_store_max, or "
                   "wait until calls are over)", options_.directory, used, limit);
  }
  auto created = Segment::create(options_.directory, next_number_, id_, size);
  if (!created) {
    create_failed_ = failure(created.error());
    create_failed_at_ = now();
    return create_failed_;
  }
  create_failed_ = {};
  seal_active();
  ++next_number_;
  active_ = std::move(*created);
  at_ = kSegmentHeaderSpace;
  const std::lock_guard lock(mutex_);
  segments_.emplace(active_->number(), active_);
  return {};
}

void LogCallStore::seal_active() {
  if (active_ == nullptr) return;
  std::string seal;
  append_seal(seal, group_);
  // Without it the next start takes the segment's end for damage and says so, which is no loss.
  if (Status sealed = active_->write(seal, at_, true); !sealed) log_warn("store", "{}", sealed.error().message);
  active_.reset();
}

void LogCallStore::flush(Group& group) {
  if (group.parts.empty()) return;
  const Instant begun = now();
  Status written = active_->write(group.buffer, at_, true);
  const Duration took = now() - begun;
  const std::uint32_t at = at_;
  if (written) {
    at_ += static_cast<std::uint32_t>(group.buffer.size());
    ++group_;
  } else {
    // What the kernel has of a file whose sync failed is not known, so nothing more is put into it.
    active_->blank(at_, static_cast<std::uint32_t>(group.buffer.size()));
    seal_active();
  }
  {
    const std::lock_guard lock(mutex_);
    ++figures_.groups;
    figures_.last_commit = took;
    for (const Group::Part& part : group.parts) {
      if (!written) break;
      const bool is_moved = part.pending == nullptr;
      if (is_moved && !index_->is_current(part.header.id, part.moved_part, cleaned_->number(), part.old_offset)) continue;
      if (is_moved) figures_.moved_bytes += part.header.total();
      index_->apply(part.header, active_->number(), at + part.offset);
    }
  }
  for (const Group::Part& part : group.parts) {
    if (part.pending != nullptr) answer(*part.pending, written);
  }
  group.buffer.clear();
  group.parts.clear();
}

void LogCallStore::answer(Pending& pending, const Status& status) {
  {
    const std::lock_guard lock(mutex_);
    ++(status ? figures_.writes : figures_.failed);
  }
  if (pending.done) pending.done(status);
}

// --- cleaning -----------------------------------------------------------------------------------------------------

void LogCallStore::tidy() {
  {
    const std::lock_guard lock(mutex_);
    if (segments_.empty()) return;
    std::uint64_t files = 0;
    for (const auto& [number, segment] : segments_) files += segment->file_bytes();
    const std::uint64_t live = index_->live_bytes();
    // A file's unused end counts as dead only once the file is not written any more, hence the allowance of a segment.
    const std::uint64_t allowance = 2 * static_cast<std::uint64_t>(options_.segment_bytes.value);
    const bool is_wasteful = files > 2 * live + allowance;
    // Anything written since the last cleaning may be over by now: whatever is older than the limit goes.
    if (dead_since_ == Instant{} && figures_.writes != dead_seen_) dead_since_ = now();
    const bool is_late = dead_since_ != Instant{} && now() - dead_since_ >= options_.clean_after;
    if (!is_wasteful && !is_late) return;
    const std::uint64_t newest = segments_.rbegin()->first;
    const bool newest_is_dead = index_->live_bytes(newest) == 0;
    clean_until_ = std::max(clean_until_, is_late || newest_is_dead ? newest + 1 : newest);
    if (is_late) {
      dead_since_ = Instant{};
      dead_seen_ = figures_.writes;
    }
  }
  changed_.notify_one();
}

bool LogCallStore::wants_cleaning() const {
  return cleaned_ != nullptr || (!segments_.empty() && segments_.begin()->first < clean_until_);
}

void LogCallStore::clean_some() {
  if (cleaned_ == nullptr) {
    std::shared_ptr<Segment> oldest;
    {
      const std::lock_guard lock(mutex_);
      if (segments_.empty()) return;
      oldest = segments_.begin()->second;
    }
    // The active segment is left alone from here on; the next change begins another.
    if (oldest == active_) seal_active();
    begin_cleaning(oldest);
    if (cleaned_ == nullptr) return;
  }
  Group group;
  while (cleaned_next_ < cleaned_records_.size() && group.buffer.size() < kSliceBytes) {
    const auto& [header, offset] = cleaned_records_[cleaned_next_];
    for (std::size_t part = 0; part < kCallParts; ++part) {
      const std::uint32_t place = offset + header.offset_of(part);
      {
        const std::lock_guard lock(mutex_);
        if (!header.has(part) || !index_->is_current(header.id, part, cleaned_->number(), place)) continue;
      }
      const Status room = make_room(group, header.sizes[part] + kRecordHeaderSize + 8, false);
      if (!room) {
        // No room to move anything: what has no live record can still go, the rest waits for the next tidy().
        flush(group);
        cleaned_.reset();
        cleaned_bytes_.clear();
        cleaned_records_.clear();
        const std::lock_guard lock(mutex_);
        clean_until_ = 0;
        return;
      }
      CallWrite moved;
      moved.id = header.id;
      moved.parts[part] = cleaned_bytes_.substr(place, header.sizes[part]);
      Group::Part entry;
      entry.offset = static_cast<std::uint32_t>(group.buffer.size());
      entry.header = append_moved(group.buffer, moved, group_, group.parts.size(), header.checks[part]);
      entry.old_offset = place;
      entry.moved_part = part;
      group.parts.push_back(entry);
    }
    ++cleaned_next_;
  }
  flush(group);
  if (cleaned_next_ >= cleaned_records_.size()) end_cleaning();
}

void LogCallStore::begin_cleaning(const std::shared_ptr<Segment>& segment) {
  cleaned_records_.clear();
  cleaned_next_ = 0;
  bool has_live = false;
  {
    const std::lock_guard lock(mutex_);
    has_live = index_->live_bytes(segment->number()) > 0;
  }
  cleaned_ = segment;
  if (!has_live) {
    end_cleaning();
    return;
  }
  auto bytes = segment->read(0, segment->file_bytes());
  if (!bytes) {
    log_error("store", "cannot clean: {}", bytes.error().message);
    cleaned_.reset();
    const std::lock_guard lock(mutex_);
    clean_until_ = 0;
    return;
  }
  cleaned_bytes_ = std::move(*bytes);
  scan_records(cleaned_bytes_, [this](const RecordHeader& header, std::uint32_t offset) {
    if ((header.flags & 7) != 0) cleaned_records_.emplace_back(header, offset);
  });
}

void LogCallStore::end_cleaning() {
  const std::shared_ptr<Segment> segment = std::move(cleaned_);
  cleaned_.reset();
  cleaned_bytes_ = {};
  cleaned_records_.clear();
  {
    const std::lock_guard lock(mutex_);
    if (index_->live_bytes(segment->number()) > 0) {
      // A move failed in the middle: again at the next tidy().
      clean_until_ = 0;
      return;
    }
    index_->forget_segment(segment->number());
    segments_.erase(segment->number());
  }
  if (Status removed = segment->unlink(); !removed) log_warn("store", "{}", removed.error().message);
}

}  // namespace dirigent::store
