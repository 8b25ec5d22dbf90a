// SPDX-License-Identifier: MIT
//
// One file of a store of calls, and the records in it.
//
//   segment   header (64 bytes, then zeros up to 4096), records, zeros
//   record    header (72 bytes), request, state, result, padding to 8 bytes
//   filler    a record with no part and no effect, in place of what is none
//
// A segment gets its full size when it is made, so that a file which is shorter than its header says has been cut, and a
// sync of a record writes no metadata. Numbers grow; a store's records are those of its segments in the order of their
// numbers. Every header carries a checksum of itself, and one for each part. All integers are little-endian.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/store/call_store.h"

namespace dirigent::store {

static_assert(std::endian::native == std::endian::little, "records are copied as they lie in memory");

inline constexpr std::uint32_t kSegmentHeaderSpace = 4096;
inline constexpr std::uint32_t kRecordHeaderSize = 72;
inline constexpr std::uint32_t kSegmentBytesMax = 1U << 30;
// Behind the name of a segment that is being made.
inline constexpr const char* kUnfinished = ".new";

struct RecordHeader {
  enum Flags : std::uint8_t { erases = 8, seals = 16 };  // below: masks of the parts that are there

  std::uint8_t flags = 0;
  std::uint8_t drops = 0;
  CallId id;
  std::uint32_t group = 0;  // of the synced write it came with
  std::uint16_t index = 0;  // its place in that group; 65535 = that or any behind it
  std::array<std::uint32_t, kCallParts> sizes{};
  std::array<std::uint32_t, kCallParts> checks{};

  [[nodiscard]] bool has(std::size_t part) const { return (flags >> part & 1) != 0; }
  // Of the whole record, with its padding.
  [[nodiscard]] std::uint64_t total() const;
  // Where a part begins, from the start of the record.
  [[nodiscard]] std::uint32_t offset_of(std::size_t part) const;
};

// Appends the record of a change to `to`.
RecordHeader append_record(std::string& to, const CallWrite& change, std::uint32_t group, std::size_t index);
// Of one part that is written again elsewhere, with the checksum it had: damage stays visible.
RecordHeader append_moved(std::string& to, const CallWrite& change, std::uint32_t group, std::size_t index, std::uint32_t check);
// The last record of a segment that is full.
void append_seal(std::string& to, std::uint32_t group);
// A filler of `bytes`. REQUIRES: a multiple of 8, at least kRecordHeaderSize.
std::string make_filler(std::uint32_t bytes, std::uint32_t group);
// False: there is no whole header with a right checksum at the beginning of `bytes`.
bool read_record_header(std::string_view bytes, RecordHeader& header);

class Segment {
 public:
  // Makes the file and its name durable. exhausted: no room; nothing is left behind then.
  static Result<std::shared_ptr<Segment>> create(const std::string& directory, std::uint64_t number, StoreId store,
                                                 std::uint32_t size);
  // `store` and the size as the header says, or 0 when it is damaged.
  static Result<std::shared_ptr<Segment>> open(const std::string& directory, std::uint64_t number);
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  ~Segment();

  [[nodiscard]] std::uint64_t number() const { return number_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] StoreId store() const { return store_; }
  [[nodiscard]] std::uint32_t size() const { return size_; }          // as made
  [[nodiscard]] std::uint64_t file_bytes() const { return file_bytes_; }  // as found

  // Writes and syncs.
  Status write(std::string_view bytes, std::uint32_t offset, bool sync);
  // Best effort, after a failed write: what may have reached the disk is no record any more.
  void blank(std::uint32_t offset, std::uint32_t bytes);
  [[nodiscard]] Result<std::string> read(std::uint64_t offset, std::size_t bytes) const;
  // Removes the file's name; readers that hold the segment may go on.
  Status unlink();

 private:
  Segment(std::string path, std::uint64_t number, int fd) : path_(std::move(path)), number_(number), fd_(fd) {}

  std::string path_;
  std::uint64_t number_;
  int fd_;
  StoreId store_ = 0;
  std::uint32_t size_ = 0;
  std::uint64_t file_bytes_ = 0;
};

// "00000000000000000042.calls"; nullopt for other names.
std::string segment_name(std::uint64_t number);
std::optional<std::uint64_t> segment_number(std::string_view name);

}  // namespace dirigent::store
