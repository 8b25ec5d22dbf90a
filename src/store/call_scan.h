// SPDX-License-Identifier: MIT
//
// Walks over the records of a segment that has been read into memory, and over what is no record: after bytes that make
// no sense it looks for the next header with a right checksum, so that damage costs what it hit and nothing more.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "store/call_segment.h"

namespace dirigent::store {

struct ScanGap {
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
  std::uint32_t next_group = 0;  // of the record behind it; 0 = none follows
  std::uint16_t next_index = 0;
};

struct ScanResult {
  std::uint32_t end = 0;         // behind the last record
  bool sealed = false;
  std::uint32_t last_group = 0;
  std::vector<ScanGap> gaps;
};

template <class Visit>
ScanResult scan_records(std::string_view bytes, Visit visit) {
  ScanResult result;
  std::size_t used = bytes.size();
  while (used > 0 && bytes[used - 1] == '\0') --used;
  std::size_t at = kSegmentHeaderSpace;
  std::size_t gap = 0;  // where one began; 0 = none
  result.end = kSegmentHeaderSpace;
  while (at < used && !result.sealed) {
    RecordHeader header;
    const bool is_record = read_record_header(bytes.substr(at), header) && header.total() <= bytes.size() - at;
    if (!is_record) {
      if (gap == 0) gap = at;
      at += 8;
      continue;
    }
    if (gap != 0) {
      result.gaps.push_back({static_cast<std::uint32_t>(gap), static_cast<std::uint32_t>(at - gap), header.group, header.index});
      gap = 0;
    }
    visit(header, static_cast<std::uint32_t>(at));
    result.sealed = (header.flags & RecordHeader::seals) != 0;
    result.last_group = header.group;
    at += header.total();
    result.end = static_cast<std::uint32_t>(at);
  }
  if (gap != 0) result.gaps.push_back({static_cast<std::uint32_t>(gap), static_cast<std::uint32_t>(used - gap), 0, 0});
  return result;
}

}  // namespace dirigent::store
