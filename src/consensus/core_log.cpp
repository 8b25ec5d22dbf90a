// SPDX-License-Identifier: MIT
//
// The replicated log: sending and taking entries and snapshots, and what is committed.
#include <algorithm>

#include "consensus/core.h"
#include "dirigent/base/assert.h"

namespace dirigent::consensus {

namespace {
// Messages with entries on their way to one member. More would only queue in its socket.
constexpr std::size_t kInFlightMax = 64;
constexpr std::uint64_t kSnapshotBytesMax = std::uint64_t{1} << 32;
}  // namespace

// --- a follower's log ---------------------------------------------------------------------------------------------

// `match`: our log is the leader's up to there. What is not on disk yet is said when it is; that we live, and what is on
// disk already, at once: a disk that takes its time must not look like a dead member.
void Core::answer_append(const Message& message, Index match) {
  Message reply = this->message(MessageKind::append_reply, message.from);
  reply.stamp = message.stamp;
  reply.index = std::min(durable_index_, match);
  const bool is_all = reply.index == match;
  send(reply);
  if (is_all) return;
  reply.index = match;
  send_when_durable(std::move(reply));
}

void Core::handle_append(const Message& message, Instant now) {
  if (role_ == Role::leader) return;  // two leaders in a term: its sender is broken, and must not take our log along
  if (role_ != Role::follower || leader_ != message.from) become_follower(hard_.term, message.from, now);
  heard_ = now;
  hasty_until_ = {};
  restart_election_timer(now);
  if (message.kind == MessageKind::heartbeat) {
    Message reply = this->message(MessageKind::heartbeat_reply, message.from);
    reply.stamp = message.stamp;
    send(std::move(reply));
    return;
  }
  if (message.index < log_.base()) {
    // Older than our snapshot; all up to there is committed, so it is the same.
    answer_append(message, log_.base());
    return;
  }
  if (!log_.has(message.index) || log_.term_at(message.index) != message.log_term) {
    Message reply = this->message(MessageKind::append_reply, message.from);
    reply.refused = true;
    reply.stamp = message.stamp;
    reply.index = message.index;
    // The whole run of the wrong term is skipped at once; what is committed is never wrong.
    reply.hint = log_.has(message.index) ? std::max(log_.term_begin(message.index), commit_ + 1) : log_.last() + 1;
    send(std::move(reply));
    return;
  }
  std::vector<Entry> fresh;
  Index expected = message.index;
  for (const auto& entry : message.entries) {
    if (entry.index != ++expected) return;  // not a log; the sender is broken
    if (fresh.empty() && log_.has(entry.index)) {
      if (log_.term_at(entry.index) == entry.term) continue;
      if (entry.index <= commit_) return;  // would undo what is committed
      const Index old_last = log_.last();
      log_.truncate(entry.index);
      durable_index_ = std::min(durable_index_, log_.last());
      next_write().erase = {entry.index, old_last};
      out_.changed = true;
    }
    fresh.push_back(entry);
  }
  const Index match = expected;
  append_to_log(std::move(fresh));
  if (const Index commit = std::min(message.commit, match); commit > commit_) {
    commit_ = commit;
    apply_committed(now);
  }
  answer_append(message, match);
}

void Core::append_to_log(std::vector<Entry> entries) {
  if (entries.empty()) return;
  DiskWrite& write = next_write();
  for (auto& entry : entries) {
    out_.changed |= entry.kind == EntryKind::members;
    log_.append(entry);
    write.entries.push_back(std::move(entry));
  }
}

void Core::apply_committed(Instant now) {
  bool is_own_turn = false;
  while (applied_ < commit_) {
    const Entry& entry = log_.at(++applied_);
    is_own_turn |= entry.kind == EntryKind::members;
    out_.changed |= role_ == Role::leader && applied_ == term_begin_;
    out_.apply.push_back(entry);
  }
  if (is_own_turn && role_ == Role::leader) forget_removed(now);
}

// --- snapshots ----------------------------------------------------------------------------------------------------

void Core::compact(Index index, std::string state) {
  if (index <= snapshot_.index || index > applied_ || !log_.has(index)) return;
  const Index erase_from = snapshot_.index + 1;
  snapshot_ = {index, log_.term_at(index), log_.members_at(index), std::make_shared<const std::string>(std::move(state))};
  DiskWrite& write = next_write();
  write.snapshot = snapshot_;
  write.erase = {erase_from, index};
  if (index > options_.kept_entries && index - options_.kept_entries > log_.base()) log_.compact(index - options_.kept_entries);
}

void Core::handle_snapshot(const Message& message, Instant now) {
  if (role_ == Role::leader) return;
  if (role_ != Role::follower || leader_ != message.from) become_follower(hard_.term, message.from, now);
  heard_ = now;
  hasty_until_ = {};
  restart_election_timer(now);
  if (message.index <= commit_) {
    answer_append(message, message.index);
    return;
  }
  if (log_.has(message.index) && log_.term_at(message.index) == message.log_term) {
    // A late one: we have all of it, and perhaps acknowledged what comes after, which must stay (Raft, section 7).
    commit_ = message.index;
    apply_committed(now);
    answer_append(message, message.index);
    return;
  }
  if (message.total > kSnapshotBytesMax || message.members.empty()) return;
  if (message.offset == 0 || incoming_.index != message.index || incoming_.term != message.log_term) {
    incoming_ = {message.index, message.log_term, message.members, nullptr};
    incoming_bytes_.clear();
  }
  if (message.offset == incoming_bytes_.size() && message.bytes.size() <= message.total - message.offset) incoming_bytes_ += message.bytes;
  if (incoming_bytes_.size() < message.total) {
    Message reply = this->message(MessageKind::snapshot_reply, message.from);
    reply.stamp = message.stamp;
    reply.index = message.index;
    reply.offset = incoming_bytes_.size();
    send(std::move(reply));
    return;
  }
  const Index erase_from = snapshot_.index + 1;
  snapshot_ = std::move(incoming_);
  snapshot_.bytes = std::make_shared<const std::string>(std::move(incoming_bytes_));
  incoming_ = {};
  incoming_bytes_ = {};
  DiskWrite& write = next_write();
  write.snapshot = snapshot_;
  if (log_.last() >= erase_from) write.erase = {erase_from, log_.last()};
  durable_index_ = std::min(durable_index_, commit_);
  log_.reset(snapshot_);
  commit_ = applied_ = snapshot_.index;
  out_.restore = snapshot_;
  out_.changed = true;
  answer_append(message, snapshot_.index);
}

void Core::send_snapshot_part(MemberId to, Progress& progress, Instant now) {
  if (!progress.snapshot) {
    progress.state = Progress::State::snapshot;
    progress.snapshot = snapshot_;
    progress.offset = 0;
  }
  static const std::string kNoBytes;
  const std::string& bytes = progress.snapshot->bytes ? *progress.snapshot->bytes : kNoBytes;
  Message part = message(MessageKind::snapshot, to);
  part.index = progress.snapshot->index;
  part.log_term = progress.snapshot->term;
  part.members = progress.snapshot->members;
  part.stamp = now.time_since_epoch().count();
  part.offset = progress.offset;
  part.total = bytes.size();
  part.bytes = bytes.substr(static_cast<std::size_t>(progress.offset), options_.snapshot_part_max);
  progress.part_sent = now;
  send(std::move(part));
}

void Core::handle_snapshot_reply(const Message& message, Instant now) {
  const auto found = progress_.find(message.from);
  if (role_ != Role::leader || found == progress_.end()) return;
  Progress& progress = found->second;
  progress.stamp = std::max(progress.stamp, message.stamp);
  if (progress.state != Progress::State::snapshot || !progress.snapshot || progress.snapshot->index != message.index) return;
  const std::uint64_t total = progress.snapshot->bytes ? progress.snapshot->bytes->size() : 0;
  if (message.offset > total || message.offset == progress.offset) return;
  progress.offset = message.offset;
  send_snapshot_part(message.from, progress, now);
}

// --- a leader's log -----------------------------------------------------------------------------------------------

Result<std::pair<Index, Term>> Core::propose(std::string command, Instant now) {
  if (role_ != Role::leader) return failure(ErrorCode::unavailable, "member {} does not lead", options_.self);
  if (is_handing_over()) return failure(ErrorCode::unavailable, "leadership is being handed over to member {} (try again)", successor_);
  return append_own(EntryKind::command, std::move(command), now);
}

std::pair<Index, Term> Core::append_own(EntryKind kind, std::string data, Instant now) {
  const Index index = log_.last() + 1;
  std::vector<Entry> entries;
  entries.push_back({index, hard_.term, kind, std::move(data)});
  append_to_log(std::move(entries));
  if (kind == EntryKind::members) follow_members(now);
  send_to_all(false, now);
  return {index, hard_.term};
}

void Core::send_to_all(bool even_empty, Instant now) {
  for (auto& [id, progress] : progress_) send_append(id, progress, even_empty, now);
}

// `even_empty`: a heartbeat, which is sent in any case.
void Core::send_append(MemberId to, Progress& progress, bool even_empty, Instant now) {
  if (progress.state == Progress::State::snapshot || progress.next <= log_.base()) {
    const bool is_stuck = now - progress.part_sent > options_.election_timeout;
    if (progress.state != Progress::State::snapshot || is_stuck) {
      send_snapshot_part(to, progress, now);
    } else if (even_empty) {
      Message beat = message(MessageKind::heartbeat, to);
      beat.stamp = now.time_since_epoch().count();
      send(std::move(beat));
    }
    return;
  }
  const bool is_probe = progress.state == Progress::State::probe;
  const bool has_room = is_probe ? !progress.is_probing : progress.in_flight.size() < kInFlightMax;
  if (!even_empty && (!has_room || progress.next > log_.last())) return;
  do {
    Message append = message(MessageKind::append, to);
    append.index = progress.next - 1;
    append.log_term = log_.term_at(append.index);
    append.commit = commit_;
    append.stamp = now.time_since_epoch().count();
    std::size_t bytes = 0;
    const bool may_send = is_probe ? !progress.is_probing : progress.in_flight.size() < kInFlightMax;
    for (Index index = progress.next; may_send && index <= log_.last() && (bytes == 0 || bytes < options_.append_bytes_max); ++index) {
      append.entries.push_back(log_.at(index));
      bytes += sizeof(Entry) + append.entries.back().data.size();
    }
    if (is_probe) {
      progress.is_probing = true;
    } else if (!append.entries.empty()) {
      progress.next += append.entries.size();
      progress.in_flight.push_back(progress.next - 1);
    }
    send(std::move(append));
  } while (!is_probe && progress.next <= log_.last() && progress.in_flight.size() < kInFlightMax);
}

void Core::handle_append_reply(const Message& message, Instant now) {
  const auto found = progress_.find(message.from);
  if (role_ != Role::leader || found == progress_.end()) return;
  Progress& progress = found->second;
  progress.stamp = std::max(progress.stamp, message.stamp);
  if (message.kind == MessageKind::heartbeat_reply) return;
  if (message.refused) {
    if (progress.state == Progress::State::snapshot || message.index <= progress.match || message.index >= progress.next) return;
    progress.state = Progress::State::probe;
    progress.in_flight.clear();
    progress.is_probing = false;
    progress.next = std::max(progress.match + 1, std::min(message.hint, message.index));
    send_append(message.from, progress, false, now);
    return;
  }
  if (message.index > log_.last()) return;  // its sender is broken
  const bool is_news = message.index > progress.match;
  progress.match = std::max(progress.match, message.index);
  if (progress.state == Progress::State::snapshot) {
    if (progress.snapshot && progress.match < progress.snapshot->index) return;
    progress.snapshot.reset();
    progress.state = Progress::State::probe;
  }
  auto& in_flight = progress.in_flight;
  in_flight.erase(std::remove_if(in_flight.begin(), in_flight.end(), [&](Index last) { return last <= progress.match; }), in_flight.end());
  if (progress.state == Progress::State::probe) {
    // The logs agree up to there; what has been sent beyond it may be lost.
    progress.state = Progress::State::replicate;
    progress.is_probing = false;
    in_flight.clear();
    progress.next = progress.match + 1;
  }
  progress.next = std::max(progress.next, progress.match + 1);
  if (is_news) advance_commit(now);
  if (role_ != Role::leader) return;  // a committed removal of ourselves
  const auto still = progress_.find(message.from);
  if (still == progress_.end()) return;
  if (find_member(message.from) == nullptr && still->second.match >= log_.members_index() && log_.members_index() <= commit_) {
    send_append(message.from, still->second, true, now);  // says that its removal is committed
    progress_.erase(still);
    return;
  }
  if (successor_ == message.from && still->second.match == log_.last()) send(this->message(MessageKind::stand, successor_));
  send_append(message.from, still->second, false, now);
  if (is_news) promote_caught_up(now);
}

Index Core::match_of_majority() const {
  std::vector<Index> matches;
  for (const auto& member : members()) {
    if (!member.votes) continue;
    if (member.id == options_.self) {
      matches.push_back(durable_index_);
    } else {
      const auto found = progress_.find(member.id);
      matches.push_back(found == progress_.end() ? 0 : found->second.match);
    }
  }
  std::sort(matches.rbegin(), matches.rend());
  return matches.size() < majority() ? 0 : matches[majority() - 1];
}

void Core::advance_commit(Instant now) {
  const Index index = match_of_majority();
  // An entry of an older term that a majority has may still be replaced; behind one of ours it may not.
  if (index <= commit_ || !log_.has(index) || log_.term_at(index) != hard_.term) return;
  commit_ = index;
  apply_committed(now);
  if (role_ == Role::leader) {
    // The others apply it now rather than with the next heartbeat: they are what is asked when this leader is gone.
    for (auto& [id, progress] : progress_) {
      if (progress.state == Progress::State::replicate && progress.next > log_.last()) send_append(id, progress, true, now);
    }
  }
}

}  // namespace dirigent::consensus
