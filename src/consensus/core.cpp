// SPDX-License-Identifier: MIT
//
// Elections, time, and the way of messages in and out. The log is in core_log.cpp, membership in core_members.cpp.
#include "consensus/core.h"

#include <algorithm>

#include "dirigent/base/assert.h"

namespace dirigent::consensus {

Core::Core(CoreOptions options, const Stored& stored, Instant now)
    : options_(options), rng_(options.seed), hard_(stored.hard), is_new_(stored.is_new), snapshot_(stored.snapshot), log_(stored) {
  commit_ = applied_ = snapshot_.index;
  durable_index_ = log_.last();
  if (snapshot_.bytes) out_.restore = snapshot_;
  restart_election_timer(now);
  // Alone, there is nobody to wait for.
  if (voters() == 1 && votes(options_.self)) election_due_ = now;
}

// --- messages -----------------------------------------------------------------------------------------------------

Message Core::message(MessageKind kind, MemberId to) const {
  Message message;
  message.kind = kind;
  message.from = options_.self;
  message.to = to;
  message.term = hard_.term;
  return message;
}

void Core::send_when_durable(Message message) {
  if (durable_write_ >= last_write_) {
    send(std::move(message));
  } else {
    kept_back_.push_back({last_write_, std::move(message)});
  }
}

void Core::receive(const Message& message, Instant now) {
  if (message.from == options_.self || message.from.value == 0) return;
  if (message.kind == MessageKind::pre_vote || message.kind == MessageKind::vote) {
    handle_vote(message, now);
    return;
  }
  const bool is_leaders = message.kind == MessageKind::append || message.kind == MessageKind::snapshot || message.kind == MessageKind::heartbeat;
  if (is_new_ && is_leaders && message.term < hard_.term) follow_lower_term(message);
  const bool is_granted_pre_vote = message.kind == MessageKind::pre_vote_reply && !message.refused;
  if (message.term > hard_.term && !is_granted_pre_vote) {
    become_follower(message.term, is_leaders ? message.from : MemberId{}, now);
  }
  if (message.term < hard_.term) {
    // An old leader learns that it is one. Nobody else's old words matter.
    if (is_leaders) {
      Message reply = this->message(MessageKind::append_reply, message.from);
      reply.refused = true;
      send_when_durable(std::move(reply));
    }
    return;
  }
  switch (message.kind) {
    case MessageKind::append: handle_append(message, now); break;
    case MessageKind::snapshot: handle_snapshot(message, now); break;
    case MessageKind::heartbeat: handle_append(message, now); break;
    case MessageKind::append_reply: handle_append_reply(message, now); break;
    case MessageKind::heartbeat_reply: handle_append_reply(message, now); break;
    case MessageKind::snapshot_reply: handle_snapshot_reply(message, now); break;
    case MessageKind::vote_reply:
    case MessageKind::pre_vote_reply: handle_vote_reply(message, now); break;
    case MessageKind::stand:
      if (role_ != Role::leader && may_stand() && disk_works_) stand(true, true, now);
      break;
    case MessageKind::vote:
    case MessageKind::pre_vote: break;
  }
}

// --- disk ---------------------------------------------------------------------------------------------------------

// The write that this step adds to; everything of one step is one atomic write.
DiskWrite& Core::next_write() {
  if (out_.writes.empty()) {
    out_.writes.push_back({});
    out_.writes.back().number = ++last_write_;
  }
  return out_.writes.back();
}

void Core::write_hard_state() { next_write().hard = hard_; }

Effects Core::take() {
  if (!out_.writes.empty()) pending_writes_.push_back({last_write_, log_.last(), log_.last_term()});
  return std::exchange(out_, {});
}

void Core::durable(std::uint64_t number, Instant now) {
  if (number <= durable_write_) return;
  durable_write_ = number;
  while (!pending_writes_.empty() && pending_writes_.front().number <= number) {
    const Pending& write = pending_writes_.front();
    // The same term at the same index means the same entries up to there: what has been replaced meanwhile is not meant.
    if (write.last > durable_index_ && log_.has(write.last) && log_.term_at(write.last) == write.last_term) durable_index_ = write.last;
    pending_writes_.erase(pending_writes_.begin());
  }
  std::size_t released = 0;
  while (released < kept_back_.size() && kept_back_[released].write <= number) {
    Message& message = kept_back_[released++].message;
    // Words of an older term would only be ignored.
    if (message.term >= hard_.term) send(std::move(message));
  }
  kept_back_.erase(kept_back_.begin(), kept_back_.begin() + static_cast<std::ptrdiff_t>(released));
  if (role_ == Role::candidate && durable_write_ >= vote_write_) {
    voted_for_us_.insert(options_.self);
    count_votes(now);
  }
  if (role_ == Role::leader) advance_commit(now);
}

void Core::disk_works(bool works, Instant now) {
  if (std::exchange(disk_works_, works) == works) return;
  if (!works && role_ != Role::follower) step_down(now);
}

// --- elections ----------------------------------------------------------------------------------------------------

void Core::restart_election_timer(Instant now) {
  was_postponed_ = false;
  const auto spread = static_cast<std::uint64_t>(options_.election_timeout.count() / 2);
  election_due_ = now + options_.election_timeout + Duration(static_cast<std::int64_t>(rng_.below(std::max<std::uint64_t>(spread, 1))));
}

bool Core::hears_leader(Instant now) const {
  if (role_ == Role::leader) return true;  // check-quorum ends that
  return leader_.value != 0 && now - heard_ < options_.election_timeout;
}

bool Core::is_up_to_date(const Message& message) const {
  return std::pair(message.log_term, message.index) >= std::pair(log_.last_term(), log_.last());
}

// No vote has been given and no entry taken in any term, so that none is broken. The vote of that term is the leader's.
void Core::follow_lower_term(const Message& message) {
  is_new_ = false;
  hard_ = {message.term, message.from};
  write_hard_state();
}

void Core::become_follower(Term term, MemberId leader, Instant now) {
  out_.changed |= role_ != Role::follower || leader_ != leader || term != hard_.term;
  if (term > hard_.term) {
    is_new_ = false;
    hard_ = {term, MemberId{}};
    write_hard_state();
  }
  role_ = Role::follower;
  leader_ = leader;
  if (leader.value != 0) heard_ = now;
  hasty_until_ = {};
  progress_.clear();
  successor_ = {};
  voted_for_us_.clear();
  restart_election_timer(now);
}

// `for_real` is the vote; otherwise the question whether there would be enough votes.
void Core::stand(bool for_real, bool is_handover, Instant now) {
  restart_election_timer(now);
  // The question costs nothing: who is asked too early, while it still hears the leader or has not noticed its loss, is
  // asked again soon. A vote for real has its time: it waits for two disks.
  if (!for_real) {
    const auto spread = static_cast<std::uint64_t>(options_.heartbeat.count());
    const Duration again = now < hasty_until_ ? options_.stagger * static_cast<std::int64_t>(voters()) : options_.heartbeat + Duration(static_cast<std::int64_t>(rng_.below(spread)));
    election_due_ = now + again;
  }
  role_ = for_real ? Role::candidate : Role::pre_candidate;
  is_handover_ = is_handover;
  leader_ = {};
  out_.changed = true;
  voted_for_us_.clear();
  if (for_real) {
    is_new_ = false;
    hard_ = {Term{hard_.term.value + 1}, options_.self};
    // Our own vote counts when it is on disk, and nobody is asked before.
    write_hard_state();
    vote_write_ = last_write_;
  } else {
    voted_for_us_.insert(options_.self);
  }
  for (const auto& member : members()) {
    if (member.id == options_.self || !member.votes) continue;
    Message question = message(for_real ? MessageKind::vote : MessageKind::pre_vote, member.id);
    if (!for_real) question.term = Term{hard_.term.value + 1};
    question.index = log_.last();
    question.log_term = log_.last_term();
    question.is_handover = is_handover;
    send_when_durable(std::move(question));
  }
  count_votes(now);
}

void Core::count_votes(Instant now) {
  std::size_t count = 0;
  for (const auto& member : members()) count += member.votes && voted_for_us_.count(member.id) > 0 ? 1 : 0;
  if (count < majority()) return;
  if (role_ == Role::pre_candidate) {
    stand(true, false, now);
  } else if (role_ == Role::candidate) {
    become_leader(now);
  }
}

void Core::handle_vote(const Message& message, Instant now) {
  const bool is_real = message.kind == MessageKind::vote;
  Message reply = this->message(is_real ? MessageKind::vote_reply : MessageKind::pre_vote_reply, message.from);
  if (role_ == Role::leader) tell_removed(message.from, now);
  if (hears_leader(now) && !message.is_handover) {
    reply.refused = true;
    // A candidate of an old term has to learn the new one; everybody else must leave the leader alone.
    if (message.term <= hard_.term || !is_real) send_when_durable(std::move(reply));
    return;
  }
  if (!is_real) {
    reply.refused = message.term <= hard_.term || !is_up_to_date(message);
    // Two that ask each other would both be told yes, and share the votes: the one with the smaller log gives way, of equal
    // ones that with the larger id.
    const bool is_even = std::pair(message.log_term, message.index) == std::pair(log_.last_term(), log_.last());
    if (role_ == Role::pre_candidate && is_even && options_.self < message.from) reply.refused = true;
    if (!reply.refused) {
      reply.term = message.term;
      if (role_ == Role::pre_candidate) {
        role_ = Role::follower;
        voted_for_us_.clear();
        out_.changed = true;
      }
      // Whoever has been told that it would win shall have the time to.
      election_due_ = std::max(election_due_, now + 2 * options_.heartbeat);
    }
    send_when_durable(std::move(reply));
    return;
  }
  if (message.term > hard_.term) become_follower(message.term, MemberId{}, now);
  reply.term = hard_.term;
  const bool is_free = hard_.vote.value == 0 || hard_.vote == message.from;
  reply.refused = message.term < hard_.term || !is_free || !is_up_to_date(message);
  if (!reply.refused) {
    restart_election_timer(now);
    is_new_ = false;
    if (hard_.vote != message.from) {
      hard_.vote = message.from;
      write_hard_state();
    }
  }
  send_when_durable(std::move(reply));
}

void Core::handle_vote_reply(const Message& message, Instant now) {
  if (message.refused) return;
  if (message.kind == MessageKind::pre_vote_reply) {
    if (role_ != Role::pre_candidate || message.term.value != hard_.term.value + 1) return;
  } else if (role_ != Role::candidate || message.term != hard_.term) {
    return;
  }
  voted_for_us_.insert(message.from);
  count_votes(now);
}

void Core::become_leader(Instant now) {
  ASSERT(hard_.vote == options_.self, "leading term {} without an own vote", hard_.term);
  role_ = Role::leader;
  leader_ = options_.self;
  leader_since_ = now;
  successor_ = {};
  progress_.clear();
  hasty_until_ = {};
  out_.changed = true;
  follow_members(now);
  // Commits what earlier leaders have left behind.
  term_begin_ = log_.last() + 1;
  append_own(EntryKind::nothing, "", now);
  heartbeat_due_ = now + options_.heartbeat;
}

// --- time ---------------------------------------------------------------------------------------------------------

void Core::tick(Instant now) {
  if (role_ == Role::leader) {
    tick_leader(now);
    return;
  }
  if (now < election_due_) return;
  if (!may_stand() || !disk_works_) {
    restart_election_timer(now);
    if (leader_.value != 0 && !hears_leader(now)) {
      leader_ = {};
      out_.changed = true;
    }
    return;
  }
  // When this process itself was held up, the leader's words lie unread in the socket: time to read them first.
  if (now > election_due_ + options_.heartbeat && !was_postponed_ && now >= hasty_until_) {
    was_postponed_ = true;
    election_due_ = now + 2 * options_.heartbeat;
    return;
  }
  stand(false, false, now);
}

// When the majority was last heard: what it answered, by the time at which that was sent.
Instant Core::quorum_contact() const {
  std::vector<Instant> contacts;
  for (const auto& member : members()) {
    if (!member.votes) continue;
    if (member.id == options_.self) {
      contacts.push_back(Instant::max());
      continue;
    }
    const auto found = progress_.find(member.id);
    const std::int64_t stamp = found == progress_.end() ? 0 : found->second.stamp;
    contacts.push_back(std::max(leader_since_, Instant(Duration(stamp))));
  }
  std::sort(contacts.rbegin(), contacts.rend());
  return contacts.size() < majority() || contacts.empty() ? leader_since_ : contacts[majority() - 1];
}

Instant Core::lease_end() const {
  if (role_ != Role::leader) return Instant{};
  const Instant contact = quorum_contact();
  return contact == Instant::max() ? contact : contact + options_.election_timeout;
}

void Core::tick_leader(Instant now) {
  if (lease_end() <= now) {
    // As in tick(): when this process itself was held up, answers lie unread. One more heartbeat, and time to answer it.
    const bool is_late = now > heartbeat_due_ + options_.heartbeat;
    if (was_postponed_ ? now >= heartbeat_due_ : !is_late) {
      step_down(now);
      return;
    }
    was_postponed_ = true;
  } else {
    was_postponed_ = false;
  }
  if (is_handing_over() && now >= handover_end_) {
    successor_ = {};
    out_.changed = true;
  }
  if (now < heartbeat_due_) return;
  heartbeat_due_ = now + options_.heartbeat;
  for (auto& [id, progress] : progress_) progress.is_probing = false;
  send_to_all(true, now);
  promote_caught_up(now);
}

std::optional<Instant> Core::next_wakeup() const {
  if (role_ != Role::leader) return election_due_;
  Instant next = heartbeat_due_;
  if (is_handing_over()) next = std::min(next, handover_end_);
  if (!was_postponed_) next = std::min(next, lease_end());
  return next;
}

// --- connections --------------------------------------------------------------------------------------------------

void Core::peer_lost(MemberId peer, Instant now) {
  if (role_ == Role::leader) {
    if (const auto found = progress_.find(peer); found != progress_.end()) {
      found->second.state = Progress::State::probe;
      found->second.next = found->second.match + 1;
      found->second.in_flight.clear();
      found->second.snapshot.reset();
      found->second.is_probing = false;
    }
    return;
  }
  if (peer != leader_ || role_ != Role::follower) return;
  leader_ = {};
  out_.changed = true;
  if (!may_stand()) return;
  std::int64_t rank = 0;
  for (const auto& member : members()) rank += member.votes && member.id != peer && member.id < options_.self ? 1 : 0;
  hasty_until_ = now + options_.election_timeout;
  election_due_ = now + options_.stagger * rank;
}

void Core::peer_found(MemberId peer, Instant now) {
  const auto found = progress_.find(peer);
  if (role_ != Role::leader || found == progress_.end()) return;
  found->second.is_probing = false;
  send_append(peer, found->second, true, now);
}

// --- handing over -------------------------------------------------------------------------------------------------

Status Core::hand_over(Instant now) {
  if (role_ != Role::leader) return failure(ErrorCode::unavailable, "cannot hand leadership over: member {} does not lead", options_.self);
  MemberId best;
  std::pair<Index, std::int64_t> furthest{0, 0};
  for (const auto& [id, progress] : progress_) {
    // Whoever has not answered for the election timeout would not take it.
    const bool is_there = now - Instant(Duration(progress.stamp)) < options_.election_timeout;
    if (!votes(id) || !is_there || std::pair(progress.match, progress.stamp) < furthest) continue;
    furthest = {progress.match, progress.stamp};
    best = id;
  }
  if (best.value == 0) return failure(ErrorCode::unavailable, "cannot hand leadership over: no other member that votes has answered within {}", format_duration(options_.election_timeout));
  successor_ = best;
  handover_end_ = now + options_.election_timeout;
  out_.changed = true;
  Progress& progress = progress_.at(best);
  if (progress.match == log_.last()) {
    send(message(MessageKind::stand, best));
  } else {
    send_append(best, progress, true, now);
  }
  return {};
}

// --- views --------------------------------------------------------------------------------------------------------

GroupView Core::view(Instant now) const {
  GroupView view;
  view.self = options_.self;
  view.role = role_;
  view.term = hard_.term;
  view.leader = leader_;
  view.is_ready = role_ == Role::leader && applied_ >= term_begin_;
  view.commit = commit_;
  view.applied = applied_;
  view.last = log_.last();
  view.snapshot = snapshot_.index;
  view.members = members();
  for (const auto& [id, progress] : progress_) {
    view.progress.push_back({id, progress.match, progress.stamp == 0 ? now - leader_since_ : now - Instant(Duration(progress.stamp)),
                             progress.state == Progress::State::snapshot});
  }
  return view;
}

}  // namespace dirigent::consensus
