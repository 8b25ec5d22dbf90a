// SPDX-License-Identifier: MIT
#include "store/call_segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "dirigent/base/assert.h"
#include "dirigent/base/fault_point.h"
#include "store/crc32c.h"

namespace dirigent::store {

namespace {

constexpr char kSegmentMagic[8] = {'D', 'I', 'R', 'C', 'A', 'L', 'L', '1'};
constexpr std::uint32_t kRecordMagic = 0x4c4c4143;  // "CALL"
constexpr std::size_t kSegmentHeaderSize = 64;

template <class T>
void put(char* to, std::size_t at, T value) {
  std::memcpy(to + at, &value, sizeof value);
}
template <class T>
T get(const char* from, std::size_t at) {
  T value;
  std::memcpy(&value, from + at, sizeof value);
  return value;
}

constexpr std::uint64_t padded(std::uint64_t bytes) { return (bytes + 7) & ~std::uint64_t{7}; }

// magic 0, check 4, flags 8, drops 9, index 10, group 12, id 16, sizes 32, checks 44, (16 zero)
void write_header(std::string& to, std::size_t at, const RecordHeader& header) {
  char* raw = to.data() + at;
  put(raw, 0, kRecordMagic);
  put(raw, 8, header.flags);
  put(raw, 9, header.drops);
  put(raw, 10, header.index);
  put(raw, 12, header.group);
  std::memcpy(raw + 16, header.id.bytes.data(), 16);
  for (std::size_t part = 0; part < kCallParts; ++part) {
    put(raw, 32 + 4 * part, header.sizes[part]);
    put(raw, 44 + 4 * part, header.checks[part]);
  }
  put(raw, 4, crc32c({raw + 8, kRecordHeaderSize - 8}));
}

Status sync_directory(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno_failure(errno, fmt::format("cannot open {}", directory));
  const int done = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  if (done != 0) return errno_failure(error, fmt::format("cannot sync {}", directory));
  return {};
}

Status write_all(int fd, std::string_view bytes, std::uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno_failure(errno, fmt::format("cannot write to {}", path));
    bytes.remove_prefix(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return {};
}

}  // namespace

// --- records ------------------------------------------------------------------------------------------------------

std::uint64_t RecordHeader::total() const {
  std::uint64_t bytes = kRecordHeaderSize;
  for (const std::uint32_t size : sizes) bytes += size;
  return padded(bytes);
}

std::uint32_t RecordHeader::offset_of(std::size_t part) const {
  std::uint32_t offset = kRecordHeaderSize;
  for (std::size_t before = 0; before < part; ++before) offset += sizes[before];
  return offset;
}

RecordHeader append_record(std::string& to, const CallWrite& change, std::uint32_t group, std::size_t index) {
  RecordHeader header;
  header.id = change.id;
  header.index = static_cast<std::uint16_t>(std::min<std::size_t>(index, 0xffff));
  header.group = group;
  header.drops = change.drops;
  if (change.erases) header.flags |= RecordHeader::erases;
  const std::size_t at = to.size();
  to.resize(at + kRecordHeaderSize, '\0');
  for (std::size_t part = 0; part < kCallParts; ++part) {
    if (!change.parts[part]) continue;
    header.flags = static_cast<std::uint8_t>(header.flags | 1U << part);
    header.sizes[part] = static_cast<std::uint32_t>(change.parts[part]->size());
    header.checks[part] = crc32c(*change.parts[part]);
    to += *change.parts[part];
  }
  write_header(to, at, header);
  to.resize(at + header.total(), '\0');
  return header;
}

RecordHeader append_moved(std::string& to, const CallWrite& change, std::uint32_t group, std::size_t index, std::uint32_t check) {
  const std::size_t at = to.size();
  RecordHeader header = append_record(to, change, group, index);
  for (std::size_t part = 0; part < kCallParts; ++part) {
    if (header.has(part)) header.checks[part] = check;
  }
  write_header(to, at, header);
  return header;
}

void append_seal(std::string& to, std::uint32_t group) {
  RecordHeader header;
  header.flags = RecordHeader::seals;
  header.group = group;
  const std::size_t at = to.size();
  to.resize(at + kRecordHeaderSize, '\0');
  write_header(to, at, header);
}

std::string make_filler(std::uint32_t bytes, std::uint32_t group) {
  ASSERT(bytes >= kRecordHeaderSize && bytes % 8 == 0, "a filler of {} bytes", bytes);
  std::string filler(bytes, '\0');
  RecordHeader header;
  header.group = group;
  header.sizes[0] = bytes - kRecordHeaderSize;
  write_header(filler, 0, header);
  return filler;
}

bool read_record_header(std::string_view bytes, RecordHeader& header) {
  if (bytes.size() < kRecordHeaderSize) return false;
  const char* raw = bytes.data();
  if (get<std::uint32_t>(raw, 0) != kRecordMagic) return false;
  if (get<std::uint32_t>(raw, 4) != crc32c({raw + 8, kRecordHeaderSize - 8})) return false;
  header.flags = get<std::uint8_t>(raw, 8);
  header.drops = get<std::uint8_t>(raw, 9);
  header.index = get<std::uint16_t>(raw, 10);
  header.group = get<std::uint32_t>(raw, 12);
  std::memcpy(header.id.bytes.data(), raw + 16, 16);
  for (std::size_t part = 0; part < kCallParts; ++part) {
    header.sizes[part] = get<std::uint32_t>(raw, 32 + 4 * part);
    header.checks[part] = get<std::uint32_t>(raw, 44 + 4 * part);
  }
  return true;
}

// --- segments -----------------------------------------------------------------------------------------------------

std::string segment_name(std::uint64_t number) { return fmt::format("{:020}.calls", number); }

std::optional<std::uint64_t> segment_number(std::string_view name) {
  constexpr std::string_view kSuffix = ".calls";
  if (name.size() != 20 + kSuffix.size() || !name.ends_with(kSuffix)) return std::nullopt;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 20, number);
  if (error != std::errc{} || end != name.data() + 20) return std::nullopt;
  return number;
}

Result<std::shared_ptr<Segment>> Segment::create(const std::string& directory, std::uint64_t number, StoreId store,
                                                 std::uint32_t size) {
  const std::string path = directory + "/" + segment_name(number);
  // A process that ends in the middle leaves no segment without a header, which would look like damage.
  const std::string unfinished = path + kUnfinished;
  const int fd = ::open(unfinished.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return errno_failure(errno, fmt::format("cannot make {}", unfinished));
  std::shared_ptr<Segment> segment(new Segment(path, number, fd));
  const auto give_up = [&](tl::unexpected<Error> error) -> Result<std::shared_ptr<Segment>> {
    ::unlink(unfinished.c_str());
    return error;
  };
  if (const int error = ::posix_fallocate(fd, 0, static_cast<off_t>(size)); error != 0) {
    return give_up(errno_failure(error, fmt::format("cannot make {} with {} bytes", path, size)));
  }
  std::string header(kSegmentHeaderSize, '\0');
  std::memcpy(header.data(), kSegmentMagic, sizeof kSegmentMagic);
  put(header.data(), 16, number);
  put(header.data(), 24, store);
  put(header.data(), 28, size);
  put(header.data(), 8, crc32c(std::string_view(header).substr(16)));
  if (Status written = write_all(fd, header, 0, path); !written) return give_up(failure(written.error()));
  if (::fsync(fd) != 0) return give_up(errno_failure(errno, fmt::format("cannot sync {}", unfinished)));
  DIRIGENT_FAULT_POINT("call_store.before_rename");
  if (::rename(unfinished.c_str(), path.c_str()) != 0) return give_up(errno_failure(errno, fmt::format("cannot rename {}", unfinished)));
  DIRIGENT_FAULT_POINT("call_store.renamed");
  if (Status synced = sync_directory(directory); !synced) {
    ::unlink(path.c_str());
    return failure(synced.error());
  }
  segment->store_ = store;
  segment->size_ = size;
  segment->file_bytes_ = size;
  return segment;
}

Result<std::shared_ptr<Segment>> Segment::open(const std::string& directory, std::uint64_t number) {
  const std::string path = directory + "/" + segment_name(number);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return errno_failure(errno, fmt::format("cannot open {}", path));
  std::shared_ptr<Segment> segment(new Segment(path, number, fd));
  struct stat there {};
  if (::fstat(fd, &there) != 0) return errno_failure(errno, fmt::format("cannot look at {}", path));
  segment->file_bytes_ = static_cast<std::uint64_t>(there.st_size);
  auto header = segment->read(0, kSegmentHeaderSize);
  if (!header) return failure(header.error());
  const bool is_whole = header->size() == kSegmentHeaderSize &&
                        std::memcmp(header->data(), kSegmentMagic, sizeof kSegmentMagic) == 0 &&
                        get<std::uint32_t>(header->data(), 8) == crc32c(std::string_view(*header).substr(16)) &&
                        get<std::uint64_t>(header->data(), 16) == number;
  if (is_whole) {
    segment->store_ = get<std::uint32_t>(header->data(), 24);
    segment->size_ = get<std::uint32_t>(header->data(), 28);
  }
  return segment;
}

Segment::~Segment() { ::close(fd_); }

Status Segment::write(std::string_view bytes, std::uint32_t offset, bool sync) {
  if (Status written = write_all(fd_, bytes, offset, path_); !written) return written;
  if (sync && ::fdatasync(fd_) != 0) return errno_failure(errno, fmt::format("cannot sync {}", path_));
  return {};
}

void Segment::blank(std::uint32_t offset, std::uint32_t bytes) {
  const std::string zeros(bytes, '\0');
  if (write_all(fd_, zeros, offset, path_)) ::fdatasync(fd_);
}

Result<std::string> Segment::read(std::uint64_t offset, std::size_t bytes) const {
  std::string text(bytes, '\0');
  std::size_t got = 0;
  while (got < bytes) {
    const ssize_t part = ::pread(fd_, text.data() + got, bytes - got, static_cast<off_t>(offset + got));
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return errno_failure(errno, fmt::format("cannot read {}", path_));
    if (part == 0) break;
    got += static_cast<std::size_t>(part);
  }
  text.resize(got);
  return text;
}

Status Segment::unlink() {
  if (::unlink(path_.c_str()) != 0) return errno_failure(errno, fmt::format("cannot remove {}", path_));
  return {};
}

}  // namespace dirigent::store
