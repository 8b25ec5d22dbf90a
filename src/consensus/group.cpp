// SPDX-License-Identifier: MIT
#include "dirigent/consensus/group.h"

#include <algorithm>
#include <limits>

#include "consensus/messages.h"
#include "dirigent/base/text.h"

namespace dirigent::consensus {

namespace {

constexpr std::size_t kMembersMax = 9;  // five, and those that are on their way in or out

Result<MemberId> parse_id(std::string_view text) {
  const auto number = parse_integer(text);
  if (!number || *number < 1 || *number > std::numeric_limits<std::int32_t>::max()) {
    return failure(ErrorCode::invalid_argument, "\"{}\" is not a member's id (write a number from 1 on)", text);
  }
  return MemberId{static_cast<std::uint32_t>(*number)};
}

Status add(std::vector<Member>& members, Member member) {
  for (const auto& other : members) {
    if (other.id == member.id) return failure(ErrorCode::invalid_argument, "member {} is named twice", member.id);
    if (other.address == member.address) {
      return failure(ErrorCode::invalid_argument, "members {} and {} have the same address, {}", other.id, member.id, member.address);
    }
  }
  if (members.size() == kMembersMax) return failure(ErrorCode::invalid_argument, "a group has at most {} members", kMembersMax);
  members.push_back(std::move(member));
  return {};
}

}  // namespace

std::string_view to_string(Role role) {
  switch (role) {
    case Role::follower: return "follower";
    case Role::pre_candidate: return "pre-candidate";
    case Role::candidate: return "candidate";
    case Role::leader: return "leader";
  }
  return "unknown";
}

Result<std::vector<Member>> parse_members(std::string_view text) {
  std::vector<Member> members;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos || part.find(':', equals) == std::string_view::npos || part.find_first_of(" \t\n") != std::string_view::npos) {
      return failure(ErrorCode::invalid_argument, "\"{}\" is not a member (write ID=HOST:PORT, with commas between members)", part);
    }
    const auto id = parse_id(part.substr(0, equals));
    if (!id) return failure(id.error());
    if (auto added = add(members, {*id, std::string(part.substr(equals + 1)), true}); !added) return failure(added.error());
  }
  return members;
}

std::string encode_members(const std::vector<Member>& members) {
  std::string text;
  for (const auto& member : members) text += fmt::format("{} {} {}\n", member.id, member.address, member.votes ? 1 : 0);
  return text;
}

Result<std::vector<Member>> decode_members(std::string_view text) {
  std::vector<Member> members;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t first = line.find(' ');
    const std::size_t last = line.rfind(' ');
    if (first == std::string_view::npos || first == last) return failure(ErrorCode::corrupt, "\"{}\" is not a line of a member list", line);
    const auto id = parse_id(line.substr(0, first));
    if (!id) return failure(ErrorCode::corrupt, "{}", id.error().message);
    const std::string_view votes = line.substr(last + 1);
    if (votes != "0" && votes != "1") return failure(ErrorCode::corrupt, "\"{}\" is not a line of a member list", line);
    auto added = add(members, {*id, std::string(line.substr(first + 1, last - first - 1)), votes == "1"});
    if (!added) return failure(ErrorCode::corrupt, "{}", added.error().message);
  }
  return members;
}

}  // namespace dirigent::consensus
