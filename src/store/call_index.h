// SPDX-License-Identifier: MIT
//
// Where the parts of every call of a store are, and how many bytes of each segment are still needed. Not thread-safe:
// the store locks around it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <unordered_map>

#include "dirigent/model/call_id.h"
#include "dirigent/store/call_store.h"
#include "store/call_segment.h"

namespace dirigent::store {

// 16 bytes: a million calls have three million of them.
struct PartPlace {
  std::uint32_t segment = 0;  // its number less that of the first segment, plus one; 0 = nowhere
  std::uint32_t offset = 0;   // of the part in the file
  std::uint32_t size = 0;
  std::uint32_t check = 0;
};

class CallIndex {
 public:
  explicit CallIndex(std::uint64_t first_segment) : first_(first_segment) {}

  // A record at `offset` of a segment: its parts replace what was there, what it drops or erases is dead.
  void apply(const RecordHeader& header, std::uint64_t segment, std::uint32_t offset);
  void forget(const CallId& id, std::uint8_t parts);

  [[nodiscard]] const PartPlace* find(const CallId& id, CallPart part) const;
  [[nodiscard]] std::uint64_t segment_of(const PartPlace& place) const { return first_ + place.segment - 1; }
  // The part at this place is the one that counts.
  [[nodiscard]] bool is_current(const CallId& id, std::size_t part, std::uint64_t segment, std::uint32_t offset) const;

  [[nodiscard]] std::size_t calls() const { return calls_.size(); }
  [[nodiscard]] std::uint64_t live_bytes() const { return live_; }
  [[nodiscard]] std::uint64_t live_bytes(std::uint64_t segment) const;
  void forget_segment(std::uint64_t segment) { live_of_.erase(segment); }

  using Places = std::array<PartPlace, kCallParts>;
  // All parts at once; nullptr: the call is not there.
  [[nodiscard]] const Places* find(const CallId& id) const;
  void reserve(std::size_t calls) { calls_.reserve(calls); }

  template <class Visit>
  void for_each(Visit visit) const {
    for (const auto& [id, places] : calls_) visit(id, places);
  }

 private:
  void kill(PartPlace& place);

  std::uint64_t first_;
  std::unordered_map<CallId, Places, CallIdHash> calls_;
  std::map<std::uint64_t, std::uint64_t> live_of_;
  std::uint64_t live_ = 0;
};

}  // namespace dirigent::store
