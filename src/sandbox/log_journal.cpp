// SPDX-License-Identifier: MIT
#include "sandbox/log_journal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "dirigent/base/assert.h"

namespace dirigent::sandbox {

// Positions only grow; a byte's place is its position modulo the room. What lies from `oldest` to `end` is valid: a
// writer moves `oldest` on before it writes over what was there, and `end` after it has written.
struct LogJournal::Header {
  std::uint64_t magic;
  std::atomic<std::uint64_t> oldest;
  std::atomic<std::uint64_t> end;
};

// In front of each line's text.
struct LogJournal::Entry {
  std::uint32_t size;
  std::uint32_t is_error_stream;
  std::int64_t time;
};

namespace {

constexpr std::uint64_t kMagic = 0x6c6f676a6f75726eULL;
constexpr std::size_t kHeaderBytes = 64;
constexpr std::size_t kRoom = LogJournal::kBytes - kHeaderBytes;

}  // namespace

LogJournal::Header& LogJournal::header() const { return *static_cast<Header*>(mapped_); }

Result<std::unique_ptr<LogJournal>> LogJournal::map(const io::FileDescriptor& file) {
  static_assert(sizeof(Header) <= kHeaderBytes);
  void* mapped = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) return errno_failure(errno, "cannot map a log journal");
  return std::unique_ptr<LogJournal>(new LogJournal(mapped));
}

Result<std::unique_ptr<LogJournal>> LogJournal::make(io::FileDescriptor& held) {
  held = io::FileDescriptor(::memfd_create("log", MFD_CLOEXEC));
  if (!held.is_open() || ::ftruncate(held.get(), kBytes) != 0) return errno_failure(errno, "cannot make a log journal");
  auto journal = map(held);
  if (journal) (*journal)->header().magic = kMagic;
  return journal;
}

Result<std::unique_ptr<LogJournal>> LogJournal::open(const io::FileDescriptor& held) {
  struct stat status {};
  if (::fstat(held.get(), &status) != 0 || status.st_size != static_cast<off_t>(kBytes))
    return failure(ErrorCode::corrupt, "a log journal has a wrong size");
  auto journal = map(held);
  if (!journal) return journal;
  const Header& header = (*journal)->header();
  if (header.magic != kMagic || header.oldest > header.end || header.end - header.oldest > kRoom)
    return failure(ErrorCode::corrupt, "what was held as a log journal is none");
  return journal;
}

LogJournal::~LogJournal() { ::munmap(mapped_, kBytes); }

void LogJournal::copy_in(std::uint64_t position, const void* bytes, std::size_t size) {
  char* room = static_cast<char*>(mapped_) + kHeaderBytes;
  const std::size_t at = position % kRoom;
  const std::size_t first = std::min(size, kRoom - at);
  std::memcpy(room + at, bytes, first);
  std::memcpy(room, static_cast<const char*>(bytes) + first, size - first);
}

void LogJournal::copy_out(std::uint64_t position, void* bytes, std::size_t size) const {
  const char* room = static_cast<const char*>(mapped_) + kHeaderBytes;
  const std::size_t at = position % kRoom;
  const std::size_t first = std::min(size, kRoom - at);
  std::memcpy(bytes, room + at, first);
  std::memcpy(static_cast<char*>(bytes) + first, room, size - first);
}

void LogJournal::write(const LogLine& line) {
  const std::size_t needed = sizeof(Entry) + line.text.size();
  ASSERT(needed <= kRoom / 4, "a line of {} bytes is too long for a journal", line.text.size());
  std::uint64_t oldest = header().oldest;
  const std::uint64_t end = header().end;
  while (end + needed - oldest > kRoom) {
    Entry entry{};
    copy_out(oldest, &entry, sizeof entry);
    oldest += sizeof entry + entry.size;
  }
  header().oldest = oldest;
  const Entry entry{static_cast<std::uint32_t>(line.text.size()), line.is_error_stream ? 1u : 0u,
                    line.time.time_since_epoch().count()};
  copy_in(end, &entry, sizeof entry);
  copy_in(end + sizeof entry, line.text.data(), line.text.size());
  header().end = end + needed;
}

std::vector<LogLine> LogJournal::lines() const {
  std::vector<LogLine> found;
  const std::uint64_t end = header().end;
  for (std::uint64_t at = header().oldest; at + sizeof(Entry) <= end;) {
    Entry entry{};
    copy_out(at, &entry, sizeof entry);
    if (entry.size > end - at - sizeof entry) break;
    LogLine line;
    line.time = WallTime(WallTime::duration(entry.time));
    line.is_error_stream = entry.is_error_stream != 0;
    line.text.resize(entry.size);
    copy_out(at + sizeof entry, line.text.data(), entry.size);
    found.push_back(std::move(line));
    at += sizeof entry + entry.size;
  }
  return found;
}

}  // namespace dirigent::sandbox
