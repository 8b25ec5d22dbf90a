// SPDX-License-Identifier: MIT
#include "consensus/simulated_group.h"

#include <algorithm>
#include <cstring>

namespace dirigent::consensus {

namespace {

constexpr std::size_t kPadding = 300;  // so that a snapshot travels in several parts

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
  return hash * 0xff51afd7ed558ccdULL;
}

std::uint64_t hash_of(const Entry& entry) {
  std::uint64_t hash = mix(entry.index, static_cast<std::uint64_t>(entry.kind));
  hash = mix(hash, entry.term.value);
  for (const char c : entry.data) hash = mix(hash, static_cast<unsigned char>(c));
  return hash;
}

}  // namespace

SimulatedGroup::SimulatedGroup(SimulationOptions options, SimulationHooks hooks) : options_(options), hooks_(std::move(hooks)), rng_(options.seed) {
  now_ = options.begin;
  std::vector<Member> members;
  for (int i = 1; i <= options.members; ++i) members.push_back({MemberId{static_cast<std::uint32_t>(i)}, fmt::format("m{}:1", i), true});
  for (const auto& member : members) {
    Node& node = nodes_[member.id.value];
    node.exists = true;
    node.disk.hard.term = Term{100 + rng_.below(3)};
    node.disk.snapshot.members = members;
    node.disk.is_new = true;
    boot(member.id.value);
    node.disk.is_new = false;
  }
}

// --- nodes --------------------------------------------------------------------------------------------------------

void SimulatedGroup::boot(std::uint32_t member) {
  Node& node = nodes_[member];
  CoreOptions core;
  core.self = MemberId{member};
  core.seed = rng_();
  core.snapshot_part_max = 128;
  core.append_bytes_max = 512;
  core.kept_entries = 10;
  node.machine = {};
  node.waiting.clear();
  ++node.incarnation;
  node.core.emplace(core, node.disk, now_);
  node.machine.applied = node.disk.snapshot.bytes ? 0 : node.disk.snapshot.index;
  settle(member);
}

void SimulatedGroup::crash(std::uint32_t member, bool connections_close) {
  Node& node = nodes_[member];
  if (!node.core) return;
  ++statistics_.crashes;
  // Any number of the writes on their way may have reached the disk, in their order; nobody has been told.
  const std::size_t reached = node.disk_broken ? 0 : static_cast<std::size_t>(rng_.below(node.writes.size() + 1));
  for (std::size_t i = 0; i < reached; ++i) write_to_disk(node, node.writes[i].write);
  node.writes.clear();
  node.core.reset();
  node.paused_until = {};
  node.disk_broken = false;
  if (!connections_close) return;
  for (const auto& [other, state] : nodes_) {
    if (other != member) losses_.emplace(now_ + some(500us), std::pair(other, member));
  }
}

void SimulatedGroup::restart(std::uint32_t member) {
  if (nodes_[member].exists && !nodes_[member].core) boot(member);
}

void SimulatedGroup::start_empty(std::uint32_t member) {
  Node& node = nodes_[member];
  node = {};
  node.exists = true;
  boot(member);
}

void SimulatedGroup::cut(std::uint32_t from, std::uint32_t to) { cuts_.emplace(from, to); }

void SimulatedGroup::isolate(std::uint32_t member) {
  for (const auto& [other, state] : nodes_) {
    cut(member, other);
    cut(other, member);
  }
}

void SimulatedGroup::heal() {
  cuts_.clear();
  for (auto& [id, node] : nodes_) {
    node.paused_until = {};
    break_disk(id, false);
  }
}

void SimulatedGroup::pause(std::uint32_t member, Duration duration) { nodes_[member].paused_until = now_ + duration; }

void SimulatedGroup::break_disk(std::uint32_t member, bool broken) {
  Node& node = nodes_[member];
  if (node.disk_broken == broken) return;
  node.disk_broken = broken;
  for (auto& write : node.writes) write.done = std::max(write.done, now_ + some(options_.disk_max));
  if (!node.core) return;
  node.core->disk_works(!broken, now_);
  settle(member);
}

void SimulatedGroup::lose_connection(std::uint32_t a, std::uint32_t b) {
  losses_.emplace(now_ + some(500us), std::pair(a, b));
  losses_.emplace(now_ + some(500us), std::pair(b, a));
  for (auto flying = network_.begin(); flying != network_.end();) {
    const std::pair link(flying->second.message.from.value, flying->second.message.to.value);
    flying = link == std::pair(a, b) || link == std::pair(b, a) ? network_.erase(flying) : std::next(flying);
  }
}

void SimulatedGroup::random_fault() {
  ++statistics_.faults;
  std::vector<std::uint32_t> all;
  std::vector<std::uint32_t> up;
  for (const auto& [id, node] : nodes_) {
    if (!node.exists) continue;
    all.push_back(id);
    if (node.core) up.push_back(id);
  }
  const auto any = [&](const std::vector<std::uint32_t>& from) { return from[static_cast<std::size_t>(rng_.below(from.size()))]; };
  const std::uint32_t first = any(all);
  const std::uint32_t second = any(all);
  const std::uint32_t now_leading = leader();
  switch (rng_.below(16)) {
    case 0: crash(first, true); break;
    case 1: crash(first, false); break;
    case 2:
    case 3:
      if (now_leading != 0) crash(now_leading, chance(0.7));
      break;
    case 4:
    case 5:
    case 6: restart(first); break;
    case 7: cut(first, second); break;
    case 8: isolate(now_leading != 0 && chance(0.5) ? now_leading : first); break;
    case 9:
    case 10: heal(); break;
    case 11: pause(first, some(600ms)); break;
    case 12: break_disk(first, chance(0.5)); break;
    case 13: lose_connection(first, second); break;
    case 14:
      if (now_leading != 0 && nodes_[now_leading].core->hand_over(now_)) settle(now_leading);
      break;
    case 15: {
      if (chance(0.1)) {  // the power goes
        for (const auto id : up) crash(id, false);
        break;
      }
      if (now_leading == 0) break;
      Core& core = *nodes_[now_leading].core;
      if (chance(0.5) && nodes_.size() < 8) {
        const std::uint32_t fresh = nodes_.rbegin()->first + 1;
        if (core.add_member({MemberId{fresh}, fmt::format("m{}:1", fresh), true}, now_)) start_empty(fresh);
      } else if (core.log().members().size() > 1) {
        (void)core.remove_member(MemberId{first}, now_);
      }
      settle(now_leading);
      break;
    }
    default: break;
  }
}

std::optional<std::uint64_t> SimulatedGroup::propose(std::uint32_t member) {
  Node& node = nodes_[member];
  if (!node.core) return std::nullopt;
  const std::uint64_t number = last_proposal_ + 1;
  const auto where = node.core->propose(fmt::format("{}{}", number, std::string(static_cast<std::size_t>(rng_.below(60)), '.')), now_);
  if (where) {
    last_proposal_ = number;
    ++statistics_.proposals;
    node.waiting.emplace(*where, number);
  }
  settle(member);
  return where ? std::optional(number) : std::nullopt;
}

std::vector<std::uint64_t> SimulatedGroup::applied(std::uint32_t member) const {
  std::vector<std::uint64_t> proposals;
  for (const auto& [index, committed] : committed_) {
    if (index > nodes_.at(member).machine.applied) break;
    if (committed.proposal != 0) proposals.push_back(committed.proposal);
  }
  return proposals;
}

Core* SimulatedGroup::core(std::uint32_t member) { return nodes_[member].core ? &*nodes_[member].core : nullptr; }

std::uint32_t SimulatedGroup::leader() const {
  std::uint32_t best = 0;
  Term term;
  for (const auto& [id, node] : nodes_) {
    if (!node.core || !node.core->view(now_).is_ready || node.core->term() < term) continue;
    best = id;
    term = node.core->term();
  }
  return best;
}

bool SimulatedGroup::all_agree() const {
  const std::uint32_t leading = leader();
  if (leading == 0) return false;
  const Node& first = nodes_.at(leading);
  for (const auto number : acknowledged_) {
    if (first.machine.proposals.count(number) == 0) return false;
  }
  for (const auto& member : first.core->log().members()) {
    const Node& node = nodes_.at(member.id.value);
    if (!node.core) continue;
    if (!member.votes || node.machine.applied != first.machine.applied || node.machine.hash != first.machine.hash) return false;
  }
  return true;
}

std::string SimulatedGroup::describe() {
  std::string text;
  for (const auto& [id, node] : nodes_) {
    if (!node.core) {
      text += fmt::format("  member {} is {}\n", id, node.exists ? "down" : "unknown");
      continue;
    }
    const GroupView view = node.core->view(now_);
    text += fmt::format("  member {}: {} term {} leader {} committed {} last {} (term {}) snapshot {} writes {} members", id, to_string(view.role), view.term,
                        view.leader, view.commit, view.last, node.core->log().last_term(), view.snapshot, node.writes.size());
    for (const auto& member : view.members) text += fmt::format(" {}{}", member.id, member.votes ? "" : "?");
    for (const auto& progress : view.progress) text += fmt::format(" [{} {} {}]", progress.id, progress.match, format_duration(progress.since_contact));
    text += "\n";
  }
  return text;
}

void SimulatedGroup::step_now(std::uint32_t member) { settle(member); }

// --- what a step asks for -----------------------------------------------------------------------------------------

void SimulatedGroup::settle(std::uint32_t member) {
  Node& node = nodes_[member];
  if (!node.core) return;
  Effects effects = node.core->take();
  for (auto& write : effects.writes) {
    const Instant before = node.writes.empty() ? now_ : node.writes.back().done;
    node.writes.push_back({std::move(write), std::max(before, now_ + some(options_.disk_max))});
  }
  for (const auto& message : effects.messages) fly(message);
  if (effects.restore) {
    ++statistics_.snapshots;
    node.machine = unpack(*effects.restore->bytes);
    if (node.machine.applied != effects.restore->index) fail(fmt::format("a snapshot of {} holds the state of {}", effects.restore->index, node.machine.applied));
  }
  for (const auto& entry : effects.apply) apply(member, entry);
  check(member);
  if (options_.compact_every != 0 && node.machine.applied >= node.core->snapshot_index() + options_.compact_every) {
    node.core->compact(node.machine.applied, pack(node.machine));
    settle(member);
  }
  for (const auto& [whose, number] : std::exchange(to_tell_, {})) {
    if (hooks_.acknowledged) hooks_.acknowledged(whose, number);
  }
  if (effects.changed && hooks_.changed) hooks_.changed(member);
}

void SimulatedGroup::apply(std::uint32_t member, const Entry& entry) {
  Node& node = nodes_[member];
  const std::uint64_t hash = hash_of(entry);
  if (entry.index != node.machine.applied + 1) fail(fmt::format("entry {} applied after {}", entry.index, node.machine.applied));
  const std::uint64_t proposal = entry.kind == EntryKind::command ? std::strtoull(entry.data.c_str(), nullptr, 10) : 0;
  const auto [known, fresh] = committed_.emplace(entry.index, Committed{entry.term, hash, proposal});
  if (!fresh && (known->second.term != entry.term || known->second.hash != hash)) {
    fail(fmt::format("entry {} was committed in term {} and is another one, of term {}, now", entry.index, known->second.term, entry.term));
  }
  node.machine.applied = entry.index;
  node.machine.hash = mix(node.machine.hash, hash);
  if (entry.kind == EntryKind::command) node.machine.proposals.insert(proposal);
  if (const auto ours = node.waiting.find({entry.index, entry.term}); ours != node.waiting.end()) {
    acknowledged_.insert(ours->second);
    ++statistics_.acknowledged;
    to_tell_.emplace_back(member, ours->second);
    node.waiting.erase(ours);
  }
}

void SimulatedGroup::write_to_disk(Node& node, const DiskWrite& write) {
  Stored& disk = node.disk;
  if (write.hard) disk.hard = *write.hard;
  if (write.erase) {
    const auto [from, to] = *write.erase;
    std::erase_if(disk.entries, [&](const Entry& entry) { return entry.index >= from && entry.index <= to; });
  }
  if (write.snapshot) disk.snapshot = *write.snapshot;
  for (const auto& entry : write.entries) disk.entries.push_back(entry);
  Index expected = disk.snapshot.index;
  for (const auto& entry : disk.entries) {
    if (entry.index != ++expected) return fail(fmt::format("the disk has entry {} where {} belongs", entry.index, expected));
  }
}

void SimulatedGroup::check(std::uint32_t member) {
  Node& node = nodes_[member];
  const GroupView view = node.core->view(now_);
  if (view.role == Role::leader) {
    const auto [known, fresh] = leaders_.emplace(view.term, member);
    if (fresh) ++statistics_.elections;
    if (known->second != member) fail(fmt::format("members {} and {} both lead term {}", known->second, member, view.term));
  }
  if (view.applied > view.commit || view.commit > view.last) fail(fmt::format("applied {}, committed {}, last {}", view.applied, view.commit, view.last));
  if (view.last > view.snapshot) {
    const Entry& last = node.core->log().at(view.last);
    const auto [known, fresh] = written_.emplace(std::pair(last.index, last.term), hash_of(last));
    if (known->second != hash_of(last)) fail(fmt::format("two different entries {} of term {}", last.index, last.term));
  }
}

void SimulatedGroup::fail(std::string text) {
  if (violation_.empty()) violation_ = fmt::format("seed {}, at {}: {}", options_.seed, format_duration(now_.time_since_epoch()), text);
}

// --- the network --------------------------------------------------------------------------------------------------

void SimulatedGroup::fly(const Message& message) {
  const std::uint32_t to = message.to.value;
  ++statistics_.messages;
  if (nodes_.count(to) == 0 || chance(options_.drop)) return;
  const int copies = chance(options_.duplicate) ? 2 : 1;
  for (int copy = 0; copy < copies; ++copy) {
    Duration delay = some(options_.delay_max);
    if (options_.reorder && rng_.below(50) == 0) delay = some(options_.delay_max * 40);
    network_.emplace(now_ + delay, Flying{message, nodes_[message.from.value].incarnation, nodes_[to].incarnation});
  }
}

void SimulatedGroup::arrive(const Flying& flying) {
  const Message& message = flying.message;
  Node& node = nodes_[message.to.value];
  // A connection does not outlive its ends.
  if (!node.core || node.incarnation != flying.to_incarnation || nodes_[message.from.value].incarnation != flying.from_incarnation) return;
  if (cuts_.count({message.from.value, message.to.value}) > 0) return;
  if (node.paused_until > now_) {
    network_.emplace(node.paused_until, flying);
    return;
  }
  node.core->receive(message, now_);
  settle(message.to.value);
}

SimulatedGroup::Next SimulatedGroup::next() {
  Next next{Instant::max()};
  using What = Next::What;
  if (!network_.empty() && network_.begin()->first <= next.at) next = {network_.begin()->first, What::message};
  if (!losses_.empty() && losses_.begin()->first < next.at) next = {losses_.begin()->first, What::loss};
  for (auto& [id, node] : nodes_) {
    if (!node.core) continue;
    // A process that is paused does not hear of its disk either.
    if (!node.writes.empty() && !node.disk_broken && std::max(node.writes.front().done, node.paused_until) < next.at) {
      next = {std::max(node.writes.front().done, node.paused_until), What::disk, id};
    }
    if (const auto wakeup = node.core->next_wakeup(); wakeup && std::max(*wakeup, node.paused_until) < next.at) {
      next = {std::max(*wakeup, node.paused_until), What::timer, id};
    }
  }
  return next;
}

Instant SimulatedGroup::next_at() {
  const Next found = next();
  return found.what == Next::What::nothing ? Instant::max() : std::max(found.at, now_);
}

bool SimulatedGroup::step(Instant until) {
  ++statistics_.steps;
  using What = Next::What;
  const auto [at, what, who] = next();
  if (what == What::nothing || at > until) {
    now_ = std::max(now_, until);
    return false;
  }
  now_ = std::max(now_, at);
  switch (what) {
    case What::nothing: return false;
    case What::message: {
      const Flying flying = std::move(network_.begin()->second);
      network_.erase(network_.begin());
      arrive(flying);
      break;
    }
    case What::loss: {
      const auto [member, peer] = losses_.begin()->second;
      losses_.erase(losses_.begin());
      if (!nodes_[member].core) break;
      nodes_[member].core->peer_lost(MemberId{peer}, now_);
      settle(member);
      break;
    }
    case What::disk: {
      Node& node = nodes_[who];
      const DiskWrite write = std::move(node.writes.front().write);
      node.writes.erase(node.writes.begin());
      write_to_disk(node, write);
      node.core->durable(write.number, now_);
      settle(who);
      break;
    }
    case What::timer:
      nodes_[who].core->tick(now_);
      settle(who);
      break;
  }
  return true;
}

// --- the user's state ---------------------------------------------------------------------------------------------

std::string SimulatedGroup::pack(const Machine& machine) {
  std::string text = fmt::format("{} {}", machine.applied, machine.hash);
  for (const auto number : machine.proposals) text += fmt::format(" {}", number);
  return text + "|" + std::string(kPadding, 'x');
}

SimulatedGroup::Machine SimulatedGroup::unpack(const std::string& bytes) {
  Machine machine;
  char* at = nullptr;
  machine.applied = std::strtoull(bytes.c_str(), &at, 10);
  machine.hash = std::strtoull(at, &at, 10);
  while (*at == ' ') machine.proposals.insert(std::strtoull(at, &at, 10));
  return machine;
}

}  // namespace dirigent::consensus
