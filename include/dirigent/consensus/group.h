// SPDX-License-Identifier: MIT
//
// A group of control planes that keep one log: its members and what one of them knows of it. Values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/strong_id.h"
#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"

namespace dirigent::consensus {

// Chosen by the operator, unique in the group and never given to another machine. 1 or more; 0 is nobody.
using MemberId = StrongNumber<struct MemberIdTag, std::uint32_t>;
// The position of an entry in the log. The first one is 1.
using Index = std::uint64_t;

struct Member {
  MemberId id;
  std::string address;  // HOST:PORT of its peer port
  bool votes = true;    // false while a new member catches up
  friend bool operator==(const Member&, const Member&) = default;
};

enum class Role { follower, pre_candidate, candidate, leader };
std::string_view to_string(Role role);

// What a leader knows of another member.
struct MemberProgress {
  MemberId id;
  Index match = 0;               // the last entry that is certainly on its disk
  Duration since_contact{};      // since it was sent what it has answered last
  bool is_sent_snapshot = false;
};

struct GroupView {
  MemberId self;
  Role role = Role::follower;
  Term term;
  MemberId leader;           // 0 = nobody is known
  std::string leader_note;   // what the leader announced of itself; empty when unknown
  bool is_ready = false;     // a leader that has applied all that was committed before it
  Index commit = 0;
  Index applied = 0;
  Index last = 0;            // of the log
  Index snapshot = 0;        // the last entry that the snapshot holds
  std::vector<Member> members;
  std::vector<MemberProgress> progress;  // of the others; empty unless leader
};

// "1=10.0.0.1:9094,2=10.0.0.2:9094,3=10.0.0.3:9094". The error shows the form. Ids and addresses are unique.
Result<std::vector<Member>> parse_members(std::string_view text);

}  // namespace dirigent::consensus
