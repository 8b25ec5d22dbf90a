// SPDX-License-Identifier: MIT
#include "consensus/log.h"

#include "dirigent/base/assert.h"

namespace dirigent::consensus {

Log::Log(const Stored& stored) {
  reset(stored.snapshot);
  for (const auto& entry : stored.entries) append(entry);
}

Term Log::term_at(Index index) const {
  ASSERT(has(index), "index {} of {}..{}", index, base_, last());
  return index == base_ ? base_term_ : at(index).term;
}

const Entry& Log::at(Index index) const {
  ASSERT(index > base_ && index <= last(), "index {} of {}..{}", index, base_, last());
  return entries_[static_cast<std::size_t>(index - base_ - 1)];
}

std::size_t Log::bytes_after(Index index) const {
  std::size_t bytes = 0;
  for (Index i = last(); i > index && i > base_; --i) bytes += sizeof(Entry) + at(i).data.size();
  return bytes;
}

void Log::append(Entry entry) {
  ASSERT(entry.index == last() + 1, "entry {} after {}", entry.index, last());
  if (entry.kind == EntryKind::members) {
    // Whoever put it into the log has checked it.
    auto members = decode_members(entry.data);
    if (members) members_.emplace_back(entry.index, std::move(*members));
  }
  entries_.push_back(std::move(entry));
}

void Log::truncate(Index index) {
  ASSERT(index > base_, "truncating at {}, the log begins after {}", index, base_);
  while (last() >= index && !entries_.empty()) entries_.pop_back();
  while (members_.back().first >= index) members_.pop_back();
}

void Log::compact(Index index) {
  ASSERT(has(index), "compacting to {}, the log has {}..{}", index, base_, last());
  const Term term = term_at(index);
  while (base_ < index) {
    entries_.pop_front();
    ++base_;
  }
  base_term_ = term;
  while (members_.size() > 1 && members_[1].first <= index) members_.erase(members_.begin());
}

void Log::reset(const Snapshot& snapshot) {
  entries_.clear();
  base_ = snapshot.index;
  base_term_ = snapshot.term;
  members_.assign(1, {snapshot.index, snapshot.members});
}

const std::vector<Member>& Log::members_at(Index index) const {
  auto found = members_.begin();
  for (auto next = found; next != members_.end() && next->first <= index; ++next) found = next;
  return found->second;
}

Index Log::term_begin(Index index) const {
  const Term term = term_at(index);
  while (index > base_ && term_at(index - 1) == term) --index;
  return index;
}

}  // namespace dirigent::consensus
