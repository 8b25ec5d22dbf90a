// SPDX-License-Identifier: MIT
//
// What members say to each other, what they write down, and what a step of the core asks for. Values without behaviour.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/consensus/group.h"

namespace dirigent::consensus {

enum class EntryKind : std::uint8_t {
  command,  // bytes of the user
  members,  // the members from here on, see encode_members()
  nothing,  // begins a term: with it, all before it is committed
};

struct Entry {
  Index index = 0;
  Term term;
  EntryKind kind = EntryKind::command;
  std::string data;
  friend bool operator==(const Entry&, const Entry&) = default;
};

// The state after entry `index`, in place of all entries up to it.
struct Snapshot {
  Index index = 0;
  Term term;
  std::vector<Member> members;
  std::shared_ptr<const std::string> bytes;  // of the user; null in the first one, which holds the members only
};

// Must be on disk before anything that depends on it is said.
struct HardState {
  Term term;
  MemberId vote;  // given in `term`; 0 = to nobody yet
  friend bool operator==(const HardState&, const HardState&) = default;
};

// What a member finds on its disk.
struct Stored {
  HardState hard;
  Snapshot snapshot;
  std::vector<Entry> entries;  // without a gap, from snapshot.index + 1
  // Written for the first time, and nothing has been promised to anybody: the term is one to stand above, and a leader of a
  // lower one is followed. Not on disk: a member that is started again may not know what it has said.
  bool is_new = false;
};

enum class MessageKind : std::uint8_t {
  append,           // leader: entries after (index, log_term); without entries a heartbeat
  append_reply,     // index = all up to there is on disk; refused: the log does not have (index, log_term), try `hint`
  heartbeat,        // leader to a member that is being sent a snapshot
  heartbeat_reply,  //
  vote,             // candidate with a log that ends at (index, log_term)
  vote_reply,       //
  pre_vote,         // would you vote for me in `term`? Changes nothing at either side
  pre_vote_reply,   //
  snapshot,         // leader: `bytes` of the snapshot of (index, log_term) from `offset`
  snapshot_reply,   // offset = what is wanted next
  stand,            // leader to its successor: stand for election now
};
inline constexpr int kMessageKinds = 11;

struct Message {
  MessageKind kind = MessageKind::append;
  MemberId from;
  MemberId to;
  Term term;
  Index index = 0;
  Term log_term;
  Index commit = 0;
  std::vector<Entry> entries;
  bool refused = false;
  Index hint = 0;
  bool is_handover = false;  // vote: the leader itself has asked for this election
  std::int64_t stamp = 0;    // the leader's clock when it sent what is answered; opaque to the others
  std::uint64_t offset = 0;
  std::uint64_t total = 0;   // bytes of the whole snapshot
  std::string bytes;
  std::vector<Member> members;
};

// One atomic write; writes become durable in the order of their numbers.
struct DiskWrite {
  std::uint64_t number = 0;
  std::optional<HardState> hard;
  std::optional<Snapshot> snapshot;
  std::optional<std::pair<Index, Index>> erase;  // entries from, to (inclusive), before `entries` are put
  std::vector<Entry> entries;
};

// What one step asks for, to be done in this order. Messages need not wait for the writes: those that must have not
// been handed out yet.
struct Effects {
  std::vector<DiskWrite> writes;
  std::vector<Message> messages;
  std::optional<Snapshot> restore;  // the user's state is to be replaced by it
  std::vector<Entry> apply;         // committed, in order
  bool changed = false;             // role, term, leader, readiness or members
};

// One line per member: "ID ADDRESS 0|1".
std::string encode_members(const std::vector<Member>& members);
Result<std::vector<Member>> decode_members(std::string_view text);

}  // namespace dirigent::consensus
