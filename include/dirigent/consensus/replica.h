// SPDX-License-Identifier: MIT
//
// Replica: one member of a group of 1, 3 or 5 that keeps one log of commands. What has been acknowledged is on the disks
// of a majority, and survives the loss of any minority, power included.
//
//   propose(bytes) -> log -> the others' logs -> committed -> apply(index, bytes) at every member, in the same order
//
// It runs in a thread of its own with a loop of its own, because an election must not wait for whatever else its process
// does. Its owner is on the home loop: every method is called there, and every hook and answer comes there, in order.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/consensus/group.h"
#include "dirigent/io/loop.h"
#include "dirigent/store/state_log.h"

namespace dirigent::consensus {

struct ReplicaOptions {
  MemberId self;
  // The members that a new group begins with, this one included: the same at each of them. Once the group has begun, what
  // its log says counts. Empty: this member joins a group that is there and waits until it is added.
  std::vector<Member> members;
  std::string listen;              // peer port
  std::string note;                // shown to the others while this member leads
  Term term_min;                   // a new group begins above it
  bool has_led_alone = false;      // up to term_min: not even a group that has begun may stay below it
  Duration heartbeat = 25ms;
  Duration election_timeout = 125ms;
  Duration silence_max = 1s;       // of a connection between members
  Index snapshot_entries = 10'000; // a snapshot is taken after so many applied entries
  std::size_t snapshot_bytes = std::size_t{32} << 20;  // or so many bytes of them
};

struct ReplicaHooks {
  // Committed commands, oldest first. `index` grows, not always by one.
  std::function<void(Index index, std::string_view command)> apply;
  // The whole state, as it is after the last apply.
  std::function<std::string()> snapshot;
  // The state is this one now, whatever was applied before.
  std::function<void(std::string_view state)> restore;
  // Role, term, leader, readiness or members are other ones. When `is_ready` holds, this member leads and all that was
  // ever acknowledged has been applied.
  std::function<void(const GroupView& view)> changed;
};

struct ReplicaCounters {
  Histogram commit_times;  // of our own proposals, nanoseconds: proposed to applied
  std::uint64_t proposals = 0;
  std::uint64_t failed = 0;
  std::uint64_t elections = 0;  // won by this member
};

class Replica {
 public:
  using Done = std::function<void(Status status)>;
  using Committed = std::function<void(Result<Index> index)>;

  // `log` keeps what the member must remember. Errors: of `log`, of the peer port; invalid_argument when `members` does
  // not name `self`. `home` must outlive the replica.
  static Result<std::unique_ptr<Replica>> start(io::Loop& home, ReplicaOptions options, std::unique_ptr<store::StateLog> log, ReplicaHooks hooks);
  virtual ~Replica() = default;

  // `committed` is called once, after `apply` of the same command. Errors: unavailable (this member does not lead or has
  // lost the leadership: then the command may still be committed or not), exhausted (too many are waiting), cancelled.
  virtual void propose(std::string command, Committed committed) = 0;
  // Done when the others have agreed. A new member votes once it has caught up. Errors: as propose; already_exists,
  // not_found, invalid_argument.
  virtual void add_member(Member member, Done done) = 0;
  virtual void remove_member(MemberId member, Done done) = 0;
  // To the member that is furthest; done when there is another leader. Errors: unavailable, timed_out.
  virtual void hand_over(Done done) = 0;

  // As of the last change, with figures that are at most 100 ms old while something happens.
  [[nodiscard]] virtual const GroupView& view() const = 0;
  [[nodiscard]] virtual const ReplicaCounters& counters() const = 0;
  // Of the peer port, with the real port.
  [[nodiscard]] virtual std::string address() const = 0;
  // Ends the thread; proposals that wait fail as cancelled before it returns. No hook is called any more. Blocks for the
  // writes that are on their way to the disk.
  virtual void close() = 0;
};

}  // namespace dirigent::consensus
