// SPDX-License-Identifier: MIT
//
// The part of a member's log that is in memory: the entries after `base`, and what is known of the members at each point.
// Everything up to `base` has been replaced by a snapshot.
#pragma once

#include <deque>
#include <utility>
#include <vector>

#include "consensus/messages.h"

namespace dirigent::consensus {

class Log {
 public:
  explicit Log(const Stored& stored);

  [[nodiscard]] Index base() const { return base_; }
  [[nodiscard]] Index last() const { return base_ + entries_.size(); }
  [[nodiscard]] Term last_term() const { return entries_.empty() ? base_term_ : entries_.back().term; }
  // Whether the term of `index` is known: base() <= index <= last().
  [[nodiscard]] bool has(Index index) const { return index >= base_ && index <= last(); }
  // REQUIRES: has(index).
  [[nodiscard]] Term term_at(Index index) const;
  // REQUIRES: base() < index <= last().
  [[nodiscard]] const Entry& at(Index index) const;
  // Bytes of the entries after `index`, headers included.
  [[nodiscard]] std::size_t bytes_after(Index index) const;

  // REQUIRES: it is the next one.
  void append(Entry entry);
  // Drops the entries from `index` on. REQUIRES: index > base().
  void truncate(Index index);
  // Drops the entries up to `index`. REQUIRES: has(index).
  void compact(Index index);
  // Begins anew after a snapshot.
  void reset(const Snapshot& snapshot);

  // The members that hold at the end of the log, whether committed or not, and the entry that says so.
  [[nodiscard]] const std::vector<Member>& members() const { return members_.back().second; }
  [[nodiscard]] Index members_index() const { return members_.back().first; }
  [[nodiscard]] const std::vector<Member>& members_at(Index index) const;

  // The first entry of the run with the same term that `index` is in, as far as it is in memory. REQUIRES: has(index).
  [[nodiscard]] Index term_begin(Index index) const;

 private:
  Index base_ = 0;
  Term base_term_;
  std::deque<Entry> entries_;
  std::vector<std::pair<Index, std::vector<Member>>> members_;  // ascending; the first one holds at base_
};

}  // namespace dirigent::consensus
