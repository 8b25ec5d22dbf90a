// SPDX-License-Identifier: MIT
#include "store/call_index.h"

namespace dirigent::store {

namespace {
// A part costs its share of the record's header as well.
std::uint64_t cost_of(const PartPlace& place) { return place.size + kRecordHeaderSize; }
}  // namespace

void CallIndex::kill(PartPlace& place) {
  if (place.segment == 0) return;
  live_ -= cost_of(place);
  live_of_[segment_of(place)] -= cost_of(place);
  place = {};
}

void CallIndex::apply(const RecordHeader& header, std::uint64_t segment, std::uint32_t offset) {
  if ((header.flags & RecordHeader::seals) != 0) return;
  if ((header.flags & RecordHeader::erases) != 0) {
    forget(header.id, 0xff);
    return;
  }
  if (header.drops != 0) forget(header.id, header.drops);
  bool has_any = false;
  for (std::size_t part = 0; part < kCallParts; ++part) has_any = has_any || header.has(part);
  if (!has_any) return;
  Places& places = calls_[header.id];
  for (std::size_t part = 0; part < kCallParts; ++part) {
    if (!header.has(part)) continue;
    kill(places[part]);
    places[part] = {static_cast<std::uint32_t>(segment - first_ + 1), offset + header.offset_of(part),
                    header.sizes[part], header.checks[part]};
    live_ += cost_of(places[part]);
    live_of_[segment] += cost_of(places[part]);
  }
}

void CallIndex::forget(const CallId& id, std::uint8_t parts) {
  const auto known = calls_.find(id);
  if (known == calls_.end()) return;
  bool is_empty = true;
  for (std::size_t part = 0; part < kCallParts; ++part) {
    if ((parts >> part & 1) != 0) kill(known->second[part]);
    is_empty = is_empty && known->second[part].segment == 0;
  }
  if (is_empty) calls_.erase(known);
}

const CallIndex::Places* CallIndex::find(const CallId& id) const {
  const auto known = calls_.find(id);
  return known == calls_.end() ? nullptr : &known->second;
}

const PartPlace* CallIndex::find(const CallId& id, CallPart part) const {
  const Places* places = find(id);
  if (places == nullptr) return nullptr;
  const PartPlace& place = (*places)[static_cast<std::size_t>(part)];
  return place.segment == 0 ? nullptr : &place;
}

bool CallIndex::is_current(const CallId& id, std::size_t part, std::uint64_t segment, std::uint32_t offset) const {
  const PartPlace* place = find(id, static_cast<CallPart>(part));
  return place != nullptr && segment_of(*place) == segment && place->offset == offset;
}

std::uint64_t CallIndex::live_bytes(std::uint64_t segment) const {
  const auto known = live_of_.find(segment);
  return known == live_of_.end() ? 0 : known->second;
}

}  // namespace dirigent::store
