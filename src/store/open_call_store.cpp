// SPDX-License-Identifier: MIT
//
// Opening a store of calls: the lock, the store's number, and what is found in its files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "dirigent/base/log.h"
#include "store/crc32c.h"
#include "store/log_call_store.h"

namespace dirigent::store {

namespace {

constexpr std::size_t kFindingsMax = 20;
constexpr std::size_t kExpectedCallBytes = 400;
constexpr std::size_t kExpectedCallsMax = std::size_t{1} << 20;

Status make_directory(const std::string& directory) {
  std::error_code error;
  const auto parent = std::filesystem::absolute(directory, error).lexically_normal().parent_path();
  if (!error) std::filesystem::create_directories(parent, error);
  if (error) return errno_failure(error.value(), fmt::format("cannot make {} for the store of calls", parent.string()));
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_failure(errno, fmt::format("cannot make {} for the store of calls", directory));
  }
  return {};
}

// The lock is the kernel's and ends with the process that holds it, however that ends.
Result<int> lock_directory(const std::string& directory) {
  const std::string path = directory + "/LOCK";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return errno_failure(errno, fmt::format("cannot open {} (run as the user who owns it, or choose another async_dir)", path));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    std::string holder(32, '\0');
    const ssize_t got = ::pread(fd, holder.data(), holder.size(), 0);
    holder.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    holder.erase(std::find(holder.begin(), holder.end(), '\n'), holder.end());
    ::close(fd);
    if (error != EWOULDBLOCK) return errno_failure(error, fmt::format("cannot lock {}", path));
    return failure(ErrorCode::already_exists, "the store of calls {} is in use by process {} (stop it, or choose another async_dir)",
                   directory, holder.empty() ? "unknown" : holder);
  }
  const std::string pid = fmt::format("{}\n", ::getpid());
  // For messages only, so a full disk does not matter.
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0) {}
  return fd;
}

bool is_whole(const RecordHeader& header, std::string_view record) {
  for (std::size_t part = 0; part < kCallParts; ++part) {
    if (header.has(part) && crc32c(record.substr(header.offset_of(part), header.sizes[part])) != header.checks[part]) return false;
  }
  return true;
}

bool is_empty(const std::string& directory, std::uint64_t number) {
  auto segment = Segment::open(directory, number);
  if (!segment) return false;
  auto records = (*segment)->read(kSegmentHeaderSpace, (*segment)->file_bytes());
  return records && records->find_first_not_of('\0') == std::string::npos;
}

StoreId random_id() {
  StoreId id = 0;
  while (id == 0) {
    if (::getrandom(&id, sizeof id, 0) != sizeof id) id = 0;
  }
  return id;
}

}  // namespace

Result<std::unique_ptr<CallStore>> open_call_store(CallStoreOptions options) {
  return LogCallStore::open(std::move(options));
}

bool is_call_store(const std::string& directory) { return ::access((directory + "/STORE").c_str(), F_OK) == 0; }

Result<std::unique_ptr<CallStore>> LogCallStore::open(CallStoreOptions options) {
  if (options.segment_bytes.value == 0) {
    options.segment_bytes = std::clamp(Bytes{options.bytes_max.value / 16}, Bytes{256 << 10}, 32_MiB);
  }
  if (options.bytes_max.value < 4 * options.segment_bytes.value) {
    return failure(ErrorCode::invalid_argument, "async_store_max: {} bytes are too few: at least four files of {} bytes",
                   options.bytes_max.value, options.segment_bytes.value);
  }
  if (Status made = make_directory(options.directory); !made) return failure(made.error());
  auto lock = lock_directory(options.directory);
  if (!lock) return failure(lock.error());
  std::unique_ptr<LogCallStore> store(new LogCallStore(std::move(options), *lock));
  if (Status loaded = store->load(); !loaded) return failure(loaded.error());
  store->writer_ = std::thread([raw = store.get()] { raw->run(); });
  ::pthread_setname_np(store->writer_.native_handle(), "call-store");
  return std::unique_ptr<CallStore>(std::move(store));
}

Status LogCallStore::load() {
  std::vector<std::uint64_t> numbers;
  std::vector<std::filesystem::path> unfinished;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(options_.directory, error)) {
    if (entry.path().extension() == kUnfinished) unfinished.push_back(entry.path());
    if (const auto number = segment_number(entry.path().filename().string())) numbers.push_back(*number);
  }
  if (error) return errno_failure(error.value(), fmt::format("cannot list {}", options_.directory));
  // Of a process that ended while it made them; one that stays costs its room only.
  for (const auto& path : unfinished) std::filesystem::remove(path, error);
  std::sort(numbers.begin(), numbers.end());
  next_number_ = numbers.empty() ? 1 : numbers.back() + 1;
  index_ = std::make_unique<CallIndex>(numbers.empty() ? 1 : numbers.front());
  // A guess; a table that has to grow to a million is built ten times over.
  index_->reserve(std::min<std::size_t>(kExpectedCallsMax, numbers.size() * static_cast<std::size_t>(options_.segment_bytes.value) / kExpectedCallBytes));
  StoreId in_segments = 0;
  std::shared_ptr<Segment> unsealed;
  std::uint32_t unsealed_end = 0;
  std::uint64_t expected = numbers.empty() ? 0 : numbers.front();
  // What was written last: in the newest segment, or the seal before it.
  const bool newest_is_empty = numbers.size() > 1 && is_empty(options_.directory, numbers.back());
  const std::uint64_t last_written = numbers.empty() ? 0 : newest_is_empty ? numbers[numbers.size() - 2] : numbers.back();
  for (const std::uint64_t number : numbers) {
    if (number != expected) note(fmt::format("{}: files {} to {} are missing", options_.directory, expected, number - 1));
    expected = number + 1;
    auto segment = Segment::open(options_.directory, number);
    if (!segment) return failure(segment.error());
    if ((*segment)->store() != 0) in_segments = (*segment)->store();
    const ScanResult scan = load_segment(*segment, number == numbers.back(), number == last_written);
    // A process that ended after it had made a segment and before it had sealed the one before leaves the new one empty.
    if (unsealed != nullptr && scan.end != kSegmentHeaderSpace) note(fmt::format("{}: it ends without its last record", unsealed->path()));
    if (unsealed != nullptr && scan.end == kSegmentHeaderSpace && scan.gaps.empty()) {
      std::string seal;
      append_seal(seal, group_);
      if (Status sealed = unsealed->write(seal, unsealed_end, true); !sealed) log_warn("store", "{}", sealed.error().message);
    }
    unsealed = scan.sealed ? nullptr : *segment;
    unsealed_end = scan.end;
    segments_.emplace(number, std::move(*segment));
  }
  for (const std::string& finding : damage_.findings) log_error("store", "{}", finding);
  if (damage_.torn_bytes > 0) {
    log_warn("store", "{}: {} bytes of an unfinished write at its end dropped (nobody was told that they are kept)",
             options_.directory, damage_.torn_bytes);
  }
  return take_id(in_segments);
}

void LogCallStore::note(std::string finding) {
  if (damage_.findings.size() < kFindingsMax) damage_.findings.push_back(std::move(finding));
}

ScanResult LogCallStore::load_segment(const std::shared_ptr<Segment>& segment, bool is_last, bool was_written_last) {
  const auto damaged = [&](std::uint64_t bytes, std::string what) {
    damage_.damaged_bytes += bytes;
    note(fmt::format("{}: {}", segment->path(), what));
  };
  auto bytes = segment->read(0, segment->file_bytes());
  if (!bytes) {
    damaged(segment->file_bytes(), bytes.error().message);
    return {};
  }
  if (segment->size() == 0) damaged(kSegmentHeaderSpace, "its header is damaged");
  if (segment->size() > segment->file_bytes()) {
    damaged(segment->size() - segment->file_bytes(),
            fmt::format("it has {} bytes, {} when it was made: its end is missing", segment->file_bytes(), segment->size()));
  }
  std::vector<std::pair<RecordHeader, std::uint32_t>> last_records;  // of the last group so far, where it may be torn
  const auto apply = [&](const RecordHeader& header, std::uint32_t offset) { index_->apply(header, segment->number(), offset); };
  const ScanResult scan = scan_records(*bytes, [&](const RecordHeader& header, std::uint32_t offset) {
    if (!was_written_last) {
      apply(header, offset);
      return;
    }
    if (!last_records.empty() && last_records.front().first.group != header.group) {
      for (const auto& [earlier, at] : last_records) apply(earlier, at);
      last_records.clear();
    }
    last_records.emplace_back(header, offset);
  });
  // The last group may not have been synced: then nobody was told of it, and any sectors of it may be there. What is not whole
  // must not take the place of what was there before.
  const bool may_be_torn = was_written_last && !scan.sealed;
  std::vector<ScanGap> torn;
  for (const auto& [header, offset] : last_records) {
    if (may_be_torn && !is_whole(header, std::string_view(*bytes).substr(offset))) {
      torn.push_back({offset, static_cast<std::uint32_t>(header.total()), header.group, header.index});
    } else {
      apply(header, offset);
    }
  }
  for (const ScanGap& gap : scan.gaps) {
    const bool is_inside = gap.next_group == scan.last_group && gap.next_index > 0 && gap.size >= kRecordHeaderSize;
    if (may_be_torn && gap.next_group == 0) {
      damage_.torn_bytes += gap.size;
      segment->blank(gap.offset, gap.size);
    } else if (may_be_torn && is_inside) {
      torn.push_back(gap);
    } else {
      damaged(gap.size, fmt::format("{} bytes at {} are no record", gap.size, gap.offset));
    }
  }
  for (const ScanGap& part : torn) {
    damage_.torn_bytes += part.size;
    if (Status filled = segment->write(make_filler(part.size, part.next_group), part.offset, true); !filled) note(filled.error().message);
  }
  group_ = std::max(group_, scan.last_group + 1);
  if (is_last && !scan.sealed && segment->size() == segment->file_bytes()) {
    active_ = segment;
    at_ = scan.end;
  }
  return scan;
}

Status LogCallStore::take_id(StoreId in_segments) {
  const std::string path = options_.directory + "/STORE";
  std::string text;
  std::ifstream(path) >> text;
  const auto number = text.size() == 8 && text.find_first_not_of("0123456789abcdef") == std::string::npos
                          ? std::strtoul(text.c_str(), nullptr, 16)
                          : 0UL;
  // The segments' headers have it with a checksum, so they are believed first.
  id_ = in_segments != 0 ? in_segments : static_cast<StoreId>(number);
  if (id_ == 0) id_ = random_id();
  if (number == id_) return {};
  const std::string fresh = path + ".new";
  {
    std::ofstream file(fresh, std::ios::trunc);
    file << fmt::format("{:08x}\n", id_);
    file.flush();
    if (!file) return errno_failure(errno, fmt::format("cannot write {}", fresh));
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) return errno_failure(errno, fmt::format("cannot rename {}", fresh));
  return {};
}

std::vector<FoundCall> LogCallStore::found() {
  std::vector<FoundCall> calls;
  calls.reserve(index_->calls());
  std::size_t state_bytes = 0;
  index_->for_each([&](const CallId&, const auto& places) { state_bytes += places[static_cast<std::size_t>(CallPart::state)].size; });
  found_states_.clear();
  found_states_.reserve(state_bytes);
  constexpr auto kState = static_cast<std::size_t>(CallPart::state);
  const auto add = [&](const CallId& id, const CallIndex::Places& places, std::string_view state) {
    FoundCall call;
    call.id = id;
    const std::size_t at = found_states_.size();
    found_states_ += state;
    call.state = std::string_view(found_states_).substr(at);  // the capacity is enough: it does not move
    call.has_request = places[static_cast<std::size_t>(CallPart::request)].segment != 0;
    call.has_result = places[static_cast<std::size_t>(CallPart::result)].segment != 0;
    calls.push_back(call);
  };
  for (const auto& [number, segment] : segments_) {
    const auto bytes = segment->read(0, segment->file_bytes());
    if (!bytes) continue;
    scan_records(*bytes, [&, number = number](const RecordHeader& header, std::uint32_t offset) {
      const std::uint32_t place = offset + header.offset_of(kState);
      if (!header.has(kState)) return;
      const CallIndex::Places* places = index_->find(header.id);
      if (places == nullptr || (*places)[kState].offset != place || index_->segment_of((*places)[kState]) != number) return;
      const std::string_view state = std::string_view(*bytes).substr(place, header.sizes[kState]);
      if (crc32c(state) == header.checks[kState]) {
        add(header.id, *places, state);
      } else {
        note(fmt::format("{}: the state of call {} is damaged", segment->path(), to_string(header.id)));
        log_error("store", "{}: the state of call {} is damaged", segment->path(), to_string(header.id));
        damage_.damaged_bytes += state.size();
        add(header.id, *places, {});
      }
    });
  }
  index_->for_each([&](const CallId& id, const auto& places) {
    if (places[kState].segment == 0) add(id, places, {});
  });
  return calls;
}

}  // namespace dirigent::store
