// SPDX-License-Identifier: MIT
//
// Membership. One member at a time comes or goes, so that any majority of the old members and any of the new ones have a
// member in common; the new list holds from the moment it is in the log. A new member takes entries without a vote until
// it has caught up: its emptiness must not keep the others from committing.
#include <algorithm>

#include "consensus/core.h"

namespace dirigent::consensus {

namespace {
// A member that is so few entries behind is up to date within one answer.
constexpr Index kCaughtUpLag = 64;
}  // namespace

const Member* Core::find_member(MemberId id) const {
  for (const auto& member : members()) {
    if (member.id == id) return &member;
  }
  return nullptr;
}

bool Core::votes(MemberId id) const {
  const Member* member = find_member(id);
  return member != nullptr && member->votes;
}

// A member whose removal is in its log but perhaps nowhere else must still be able to lead: its log may be the longest,
// and then nobody else can win. It asks the members of the new list, and is removed when the entry is committed. After a
// restart it does not know what is committed and may ask in vain; who has a leader does not listen.
bool Core::may_stand() const {
  if (votes(options_.self)) return true;
  if (log_.members_index() <= commit_) return false;
  for (const auto& member : log_.members_at(log_.members_index() - 1)) {
    if (member.id == options_.self) return member.votes;
  }
  return false;
}

std::size_t Core::voters() const {
  return static_cast<std::size_t>(std::count_if(members().begin(), members().end(), [](const Member& member) { return member.votes; }));
}

// A leader keeps in touch with all members. Removed ones are kept until their removal is committed: they shall hear of it.
void Core::follow_members(Instant) {
  for (const auto& member : members()) {
    if (member.id == options_.self || progress_.count(member.id) > 0) continue;
    Progress progress;
    progress.next = log_.last() + 1;
    progress_.emplace(member.id, std::move(progress));
  }
  out_.changed = true;
}

void Core::forget_removed(Instant now) {
  out_.changed = true;
  for (auto found = progress_.begin(); found != progress_.end();) {
    if (find_member(found->first) != nullptr) {
      ++found;
      continue;
    }
    send_append(found->first, found->second, true, now);
    found = progress_.erase(found);
  }
  if (!votes(options_.self) && log_.members_index() <= commit_) {
    send_to_all(true, now);
    step_down(now);
  }
}

// Who was down while it was removed does not know it, and asks for votes for ever. It is sent the log until it has the
// entry that removed it, and then that this is committed (handle_append_reply): it is quiet from then on.
void Core::tell_removed(MemberId stranger, Instant now) {
  if (find_member(stranger) != nullptr || !may_change_members()) return;
  Progress progress;
  progress.next = log_.last() + 1;
  const auto [known, is_new] = progress_.emplace(stranger, std::move(progress));
  if (is_new) send_append(stranger, known->second, true, now);
}

Status Core::may_change_members() const {
  if (role_ != Role::leader) return failure(ErrorCode::unavailable, "cannot change the members: member {} does not lead", options_.self);
  if (is_handing_over()) return failure(ErrorCode::unavailable, "cannot change the members: leadership is being handed over (try again)");
  if (commit_ < term_begin_) return failure(ErrorCode::unavailable, "cannot change the members: this leader has just started (try again)");
  if (log_.members_index() > commit_) return failure(ErrorCode::unavailable, "cannot change the members: another change is not finished (try again)");
  return {};
}

Result<std::pair<Index, Term>> Core::add_member(Member member, Instant now) {
  if (auto may = may_change_members(); !may) return failure(may.error());
  std::vector<Member> list = members();
  for (const auto& other : list) {
    if (other.id == member.id) return failure(ErrorCode::already_exists, "cannot add member {}: there is one already, at {} (ids are never used again)", member.id, other.address);
    if (!other.votes) return failure(ErrorCode::unavailable, "cannot add member {}: member {} has not caught up yet (wait for it, or remove it)", member.id, other.id);
  }
  member.votes = false;
  list.push_back(std::move(member));
  const std::string text = encode_members(list);
  if (auto valid = decode_members(text); !valid) return failure(ErrorCode::invalid_argument, "cannot add a member: {}", valid.error().message);
  return append_own(EntryKind::members, text, now);
}

Result<std::pair<Index, Term>> Core::remove_member(MemberId id, Instant now) {
  if (auto may = may_change_members(); !may) return failure(may.error());
  std::vector<Member> list = members();
  const auto found = std::find_if(list.begin(), list.end(), [&](const Member& member) { return member.id == id; });
  if (found == list.end()) return failure(ErrorCode::not_found, "cannot remove member {}: there is none", id);
  if (found->votes && voters() == 1) return failure(ErrorCode::invalid_argument, "cannot remove member {}: it is the last one that votes", id);
  list.erase(found);
  return append_own(EntryKind::members, encode_members(list), now);
}

void Core::promote_caught_up(Instant now) {
  if (!may_change_members()) return;
  for (const auto& member : members()) {
    if (member.votes || member.id == options_.self) continue;
    const auto found = progress_.find(member.id);
    if (found == progress_.end() || found->second.match == 0 || found->second.match + kCaughtUpLag < log_.last()) continue;
    if (now - Instant(Duration(found->second.stamp)) >= options_.election_timeout) continue;
    std::vector<Member> list = members();
    for (auto& other : list) other.votes |= other.id == member.id;
    append_own(EntryKind::members, encode_members(list), now);
    return;
  }
}

}  // namespace dirigent::consensus
