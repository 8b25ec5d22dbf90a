// SPDX-License-Identifier: MIT
//
// Core: what one member of a group decides. The Raft algorithm as a plain state machine: messages, time and the ends of
// disk writes go in, Effects come out (take()). No clock, socket, thread or file, so that the simulation of
// test/consensus runs the very code that runs in production.
//
//   leader   append ------------------>  follower: log, disk          an entry is committed when a majority has it on
//            <-- append_reply (index on disk)                          disk and it, or one behind it, is of this term
//
// What has been added to the bare algorithm, and why:
// - pre-vote: a member that was cut off does not disturb the term of the others when it comes back;
// - check-quorum: a leader that has not heard from a majority for the election timeout stops leading;
// - a voter ignores candidates as long as it has heard from a leader within the election timeout (by its clock), unless
//   the leader itself has asked for the election;
// - a lost connection to the leader starts the election at once, in the order of the members' ids (peer_lost);
// - a new member's first term is only where its own elections begin: it follows a leader of a lower one (Stored::is_new);
// - what must not be said before a write is durable is kept back here until durable() tells so.
//
// Owned by a Replica, used on its thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "consensus/log.h"
#include "consensus/messages.h"
#include "dirigent/base/random.h"

namespace dirigent::consensus {

struct CoreOptions {
  MemberId self;
  Duration heartbeat = 25ms;
  Duration election_timeout = 125ms;
  // Between the members that stand for election after the loss of the leader's connection.
  Duration stagger = 4ms;
  std::size_t append_bytes_max = std::size_t{1} << 20;
  std::size_t snapshot_part_max = std::size_t{1} << 20;
  // Entries kept in memory behind a snapshot, so that a member that lags a little needs no snapshot.
  Index kept_entries = 1000;
  std::uint64_t seed = 1;
};

class Core {
 public:
  Core(CoreOptions options, const Stored& stored, Instant now);

  // --- inputs
  void receive(const Message& message, Instant now);
  void tick(Instant now);
  // All writes up to this number are on disk.
  void durable(std::uint64_t number, Instant now);
  // The disk refuses writes, or accepts them again. Meanwhile this member does not lead.
  void disk_works(bool works, Instant now);
  // The connection to a peer has ended, or there is a new one.
  void peer_lost(MemberId peer, Instant now);
  void peer_found(MemberId peer, Instant now);

  // unavailable: not the leader, or leadership is being handed over. The entry is committed when it is in
  // Effects::apply with the term given here.
  Result<std::pair<Index, Term>> propose(std::string command, Instant now);
  // One member is added (it votes as soon as it has caught up) or removed. Errors: unavailable (not the leader, another
  // change is not finished), already_exists, not_found, invalid_argument (the last member).
  Result<std::pair<Index, Term>> add_member(Member member, Instant now);
  Result<std::pair<Index, Term>> remove_member(MemberId member, Instant now);
  // To the member that is furthest. Over when this one does not lead any more, or is_handing_over() is false again.
  Status hand_over(Instant now);
  // The user's state after `index` has been written down (it is in the effects' writes).
  void compact(Index index, std::string state);

  // --- outputs
  // After every input, before the next one.
  Effects take();
  [[nodiscard]] std::optional<Instant> next_wakeup() const;
  [[nodiscard]] GroupView view(Instant now) const;
  [[nodiscard]] bool leads() const { return role_ == Role::leader; }
  [[nodiscard]] bool is_handing_over() const { return successor_.value != 0; }
  [[nodiscard]] Term term() const { return hard_.term; }
  [[nodiscard]] Index commit() const { return commit_; }
  [[nodiscard]] Index snapshot_index() const { return snapshot_.index; }
  [[nodiscard]] const Log& log() const { return log_; }
  // Until when no other member can have become leader, unless its connection to this one was lost. In the past unless
  // this one leads.
  [[nodiscard]] Instant lease_end() const;

 private:
  struct Progress {
    enum class State { probe, replicate, snapshot } state = State::probe;
    Index match = 0;
    Index next = 1;
    std::vector<Index> in_flight;       // last entries of the messages that have not been answered
    std::optional<Snapshot> snapshot;   // being sent
    std::uint64_t offset = 0;           // of it, acknowledged
    Instant part_sent{};
    std::int64_t stamp = 0;             // of the newest message that was answered
    bool is_probing = false;            // one unanswered message at a time while probing
  };
  struct KeptBack {
    std::uint64_t write;
    Message message;
  };
  struct Pending {  // a write on its way to the disk
    std::uint64_t number;
    Index last;
    Term last_term;
  };

  // Elections (core.cpp).
  void follow_lower_term(const Message& message);
  void become_follower(Term term, MemberId leader, Instant now);
  void become_leader(Instant now);
  void stand(bool for_real, bool is_handover, Instant now);
  void count_votes(Instant now);
  void handle_vote(const Message& message, Instant now);
  void handle_vote_reply(const Message& message, Instant now);
  [[nodiscard]] bool hears_leader(Instant now) const;
  [[nodiscard]] bool is_up_to_date(const Message& message) const;
  void restart_election_timer(Instant now);
  void tick_leader(Instant now);
  void step_down(Instant now) { become_follower(hard_.term, MemberId{}, now); }
  [[nodiscard]] Instant quorum_contact() const;

  // The log (core_log.cpp).
  void handle_append(const Message& message, Instant now);
  void handle_append_reply(const Message& message, Instant now);
  void handle_snapshot(const Message& message, Instant now);
  void handle_snapshot_reply(const Message& message, Instant now);
  void answer_append(const Message& message, Index match);
  void append_to_log(std::vector<Entry> entries);
  std::pair<Index, Term> append_own(EntryKind kind, std::string data, Instant now);
  void send_append(MemberId to, Progress& progress, bool even_empty, Instant now);
  void send_snapshot_part(MemberId to, Progress& progress, Instant now);
  void send_to_all(bool even_empty, Instant now);
  void advance_commit(Instant now);
  void apply_committed(Instant now);
  Index match_of_majority() const;

  // Members (core_members.cpp).
  [[nodiscard]] const std::vector<Member>& members() const { return log_.members(); }
  [[nodiscard]] const Member* find_member(MemberId id) const;
  [[nodiscard]] bool votes(MemberId id) const;
  [[nodiscard]] bool may_stand() const;
  [[nodiscard]] std::size_t voters() const;
  [[nodiscard]] std::size_t majority() const { return voters() / 2 + 1; }
  void follow_members(Instant now);
  void forget_removed(Instant now);
  void tell_removed(MemberId stranger, Instant now);
  Status may_change_members() const;
  void promote_caught_up(Instant now);

  Message message(MessageKind kind, MemberId to) const;
  void send(Message message) { out_.messages.push_back(std::move(message)); }
  // After all that has been given to the disk so far.
  void send_when_durable(Message message);
  DiskWrite& next_write();
  void write_hard_state();

  CoreOptions options_;
  Rng rng_;
  HardState hard_;
  bool is_new_ = false;      // see Stored::is_new
  Snapshot snapshot_;
  Log log_;
  Effects out_;

  Role role_ = Role::follower;
  MemberId leader_;
  Index commit_ = 0;
  Index applied_ = 0;

  // Disk.
  std::uint64_t last_write_ = 0;
  std::uint64_t durable_write_ = 0;
  Index durable_index_ = 0;  // all entries up to here are on disk
  std::vector<Pending> pending_writes_;
  std::vector<KeptBack> kept_back_;
  bool disk_works_ = true;

  // Elections.
  Instant heard_{};          // from leader_
  Instant election_due_{};
  Instant hasty_until_{};    // the leader's connection was lost: stand again soon
  bool was_postponed_ = false;
  bool is_handover_ = false;
  std::set<MemberId> voted_for_us_;
  std::uint64_t vote_write_ = 0;  // the write with our own vote in it

  // Leader.
  std::map<MemberId, Progress> progress_;
  Index term_begin_ = 0;     // the entry that begins our term
  Instant heartbeat_due_{};
  Instant leader_since_{};
  MemberId successor_;
  Instant handover_end_{};

  // A snapshot that is being received.
  Snapshot incoming_;
  std::string incoming_bytes_;
};

}  // namespace dirigent::consensus
