// SPDX-License-Identifier: MIT
//
// The control role as a member of a group: its conductor is live only while it leads, and gets the group's term. A member
// that does not lead keeps the catalog from the log, points workers and data planes at the leader, and passes on what the
// APIs are asked (group_api.cpp).
#include <asio/bind_cancellation_slot.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <cstdlib>

#include "control_role_impl.h"
#include "dirigent/base/fault_point.h"
#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "dirigent/io/address.h"
#include "function_json.h"

namespace dirigent::roles {

namespace {

constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
constexpr Duration kRosterInterval = 1s;
// A node that is away for so long is not waited for by the next leader. Longer than the recovery time of a conductor.
constexpr Duration kRosterPatience = 10s;

// Where others reach a port of this process: a port that listens on every address is reached where the peer port is.
std::string reachable(const std::string& listen, const std::string& peer) {
  auto address = io::parse_address(listen);
  const auto own = io::parse_address(peer);
  if (!address || !own || address->is_unix()) return listen;
  if (address->host.empty() || address->host == "0.0.0.0" || address->host == "::") address->host = own->host;
  return io::format_address(*address);
}

std::string role_word(const consensus::GroupView& view, const consensus::Member& member) {
  if (view.leader.value == 0) return "unknown";
  if (member.id == view.leader) return "leader";
  return member.votes ? "follower" : "learner";
}

}  // namespace

// --- start --------------------------------------------------------------------------------------------------------

// The directory of a control plane that was alone: its functions are taken along, by a group of one only. The others of a
// larger one would not have them, and one of them may become the first leader.
Status ControlRoleImpl::check_state(store::StateLog& log) {
  auto of_group = log.read_all("group/hard");
  if (!of_group) return failure(of_group.error());
  auto alone = log.read_all("function/");
  if (!alone) return failure(alone.error());
  if (!of_group->empty() || alone->empty()) return {};
  if (options_.peers.size() != 1 || options_.peer_join) {
    return failure(ErrorCode::invalid_argument,
                   "the state directory {} holds {} functions of a control plane that was alone: start this one first with --peers naming itself only, then add the others with "
                   "dirigent ctl control add",
                   options_.state_directory, alone->size());
  }
  auto functions = read_functions(log);
  if (!functions) return failure(functions.error());
  auto nodes = read_node_uses(log);
  if (!nodes) return failure(nodes.error());
  imports_ = std::move(*functions);
  imported_nodes_ = std::move(*nodes);
  return {};
}

Status ControlRoleImpl::open_group() {
  if (options_.state_directory.empty()) {
    return failure(ErrorCode::invalid_argument, "a member of a group must keep its log on disk (give --state-dir)");
  }
  std::string text;
  for (const auto& peer : options_.peers) text += (text.empty() ? "" : ",") + peer;
  auto members = consensus::parse_members(text);
  if (!members) return failure(members.error().within("--peers"));
  const auto own = std::find_if(members->begin(), members->end(), [&](const auto& member) { return member.id.value == options_.peer_id; });
  if (own == members->end() && options_.peer_listen.empty()) {
    return failure(ErrorCode::invalid_argument, "--peers does not name member {}, which this one is (add it, or give --peer-listen)", options_.peer_id);
  }
  auto log = store::open_state_log(options_.state_directory);
  if (!log) return failure(log.error());
  if (auto checked = check_state(**log); !checked) return checked;
  log_ = std::move(*log);
  auto past = stored_term();
  if (!past) return failure(past.error());
  auto term = next_term();  // above every term of a control plane that was alone here
  if (!term) return failure(term.error());

  consensus::ReplicaOptions replica;
  replica.self = consensus::MemberId{options_.peer_id};
  if (!options_.peer_join) replica.members = *members;
  replica.listen = options_.peer_listen.empty() ? own->address : options_.peer_listen;
  options_.peer_listen = own == members->end() ? replica.listen : own->address;
  replica.note = own_note();
  // One that joins takes the term of those that are there; a higher one would end their leader's.
  if (!options_.peer_join) replica.term_min = *term;
  replica.has_led_alone = past->value != 0;
  replica.election_timeout = options_.election_timeout;
  replica.heartbeat = options_.election_timeout / 5;
#if DIRIGENT_HAS_FAULT_POINTS
  // So that a test need not write ten thousand entries to see a snapshot.
  if (const char* entries = std::getenv("DIRIGENT_SNAPSHOT_ENTRIES")) {
    replica.snapshot_entries = static_cast<consensus::Index>(parse_integer(entries).value_or(10'000));
  }
#endif
  consensus::ReplicaHooks hooks;
  hooks.apply = [this](consensus::Index index, std::string_view command) {
    if (auto applied = replicated_.apply(command); !applied) log_error("control", "entry {} of the group's log: {}", index, applied.error().message);
  };
  hooks.snapshot = [this] { return replicated_.snapshot(); };
  hooks.restore = [this](std::string_view state) {
    if (auto restored = replicated_.restore(state); !restored) log_error("control", "{}", restored.error().message);
  };
  hooks.changed = [this](const consensus::GroupView& view) { group_changed(view); };
  auto group = consensus::Replica::start(loop_, std::move(replica), std::move(log_), std::move(hooks));
  if (!group) return failure(group.error());
  group_ = std::move(*group);
  return {};
}

// What the others tell of this member when it leads: "rpc=... admin=... form=...".
std::string ControlRoleImpl::own_note() const {
  std::string note = "rpc=" + reachable(rpc_address(), options_.peer_listen);
  if (admin_) note += " admin=" + reachable(admin_address(), options_.peer_listen);
  if (form_) note += " form=" + reachable(form_address(), options_.peer_listen);
  return note;
}

// --- leading and following ----------------------------------------------------------------------------------------

std::optional<ControlRoleImpl::Leader> ControlRoleImpl::other_leader() const {
  if (!group_) return std::nullopt;
  const auto& view = group_->view();
  if (view.leader.value == 0 || view.leader == view.self || view.leader_note.empty()) return std::nullopt;
  Leader leader;
  leader.id = view.leader.value;
  for (const auto word : split(view.leader_note, ' ')) {
    if (word.starts_with("rpc=")) leader.rpc = word.substr(4);
    if (word.starts_with("admin=")) leader.admin = word.substr(6);
    if (word.starts_with("form=")) leader.form = word.substr(5);
  }
  return leader;
}

void ControlRoleImpl::group_changed(const consensus::GroupView& view) {
  if (stopping_) return;
  const bool is_same = leads_ && view.is_ready && conductor_->options().term == view.term;
  if (leads_ && !is_same) follow("this control plane does not lead any more");
  if (view.is_ready && !leads_) lead(view.term);
  const auto leader = other_leader();
  cluster_->set_leader(view.term, leads_ || !leader ? "" : leader->rpc);
  for (const auto& timer : leader_waiters_) timer->cancel();
}

void ControlRoleImpl::lead(Term term) {
  log_info("control", "leading the group in term {} with {} functions", term, replicated_.size());
  make_conductor(term, replicated_.functions(), replicated_.node_uses());
  leads_ = true;
  expected_ = replicated_.roster();
  absent_since_.clear();
  DIRIGENT_FAULT_POINT("control.leading");
  cluster_->set_leader(term, "");
  import_alone();
  tasks_.spawn(keep_roster(epoch_));
  arm_timer();
}

void ControlRoleImpl::follow(const std::string& why) {
  log_info("control", "not leading any more");
  std::vector<SessionId> sessions;
  for (const auto& [id, node] : conductor_->fleet().nodes()) {
    if (node.session) sessions.push_back(*node.session);
  }
  for (const auto& [session, plane] : conductor_->data_planes()) sessions.push_back(session);
  leads_ = false;
  expected_.clear();
  make_conductor(Term{}, replicated_.functions(), replicated_.node_uses());
  arm_timer();
  for (const SessionId session : sessions) cluster_->disconnect(session, why);
  notify_all();
}

Status ControlRoleImpl::refuse_hello() const {
  const auto leader = other_leader();
  if (!leader) return failure(ErrorCode::unavailable, "this control plane does not lead, and nobody is known to");
  return failure(ErrorCode::unavailable, "this control plane does not lead; {} does", leader->rpc);
}

void ControlRoleImpl::import_alone() {
  if (replicated_.size() > 0) {
    imports_.clear();
    imported_nodes_.clear();
  }
  if (!imports_.empty()) log_info("control", "taking over {} functions of the control plane that was alone", imports_.size());
  for (auto& function : std::exchange(imports_, {})) {
    if (conductor_->mutable_catalog().begin(function.name)) tasks_.spawn(carry_out(core::PutFunction{std::move(function), false}));
  }
  for (const auto& node : std::exchange(imported_nodes_, {})) tasks_.spawn(carry_out(node));
}

// --- whom to wait for ---------------------------------------------------------------------------------------------

Roster ControlRoleImpl::joined_now() const {
  Roster joined;
  for (const auto& [id, node] : conductor_->fleet().nodes()) {
    if (node.session) joined.insert("w " + id.value);
  }
  for (const auto& [session, plane] : conductor_->data_planes()) joined.insert("d " + plane.hello.id.value);
  return joined;
}

// A new leader that has heard from everybody need not wait for its recovery time to end.
void ControlRoleImpl::note_recovery() {
  if (expected_.empty() || !conductor_->recovering(io::Loop::now())) return;
  const Roster joined = joined_now();
  if (!std::includes(joined.begin(), joined.end(), expected_.begin(), expected_.end())) return;
  log_info("control", "all {} workers and data planes of the last leader are back", expected_.size());
  expected_.clear();
  conductor_->end_recovery(io::Loop::now());
  tick();
}

io::Task<void> ControlRoleImpl::keep_roster(std::uint64_t epoch) {
  while (epoch == epoch_ && !stopping_) {
    auto slept = co_await io::sleep_for(loop_, kRosterInterval);
    if (!slept || epoch != epoch_ || stopping_) break;
    const Roster joined = joined_now();
    Roster added;
    Roster removed;
    const Instant now = io::Loop::now();
    std::set_difference(joined.begin(), joined.end(), replicated_.roster().begin(), replicated_.roster().end(), std::inserter(added, added.end()));
    for (const auto& who : joined) absent_since_.erase(who);
    for (const auto& who : replicated_.roster()) {
      if (joined.count(who) == 0 && now - absent_since_.try_emplace(who, now).first->second >= kRosterPatience) removed.insert(who);
    }
    if (added.empty() && removed.empty()) continue;
    for (const auto& who : removed) absent_since_.erase(who);
    // Tried again with the next round when it fails.
    group_->propose(ReplicatedCatalog::encode_roster(added, removed), [](const Result<consensus::Index>&) {});
  }
  co_return Status{};
}

// --- questions to the group ---------------------------------------------------------------------------------------

io::Task<void> ControlRoleImpl::ask_group(Question question) {
  struct Answer {
    explicit Answer(io::Loop& loop) : arrived(loop.context()) { arrived.expires_at(std::chrono::steady_clock::time_point::max()); }
    std::optional<Status> status;
    asio::steady_timer arrived;
  };
  auto answer = std::make_shared<Answer>(loop_);
  question([answer](Status status) {
    answer->status = std::move(status);
    answer->arrived.cancel();
  });
  // The replica answers each question, at the latest when it is closed.
  auto unbound = asio::bind_cancellation_slot(asio::cancellation_slot(), use_task);
  while (!answer->status) {
    std::error_code error;
    co_await answer->arrived.async_wait(asio::redirect_error(unbound, error));
  }
  co_return std::move(*answer->status);
}

io::Task<void> ControlRoleImpl::hand_over() {
  Question question = [this](consensus::Replica::Done done) { group_->hand_over(std::move(done)); };
  co_return co_await ask_group(std::move(question));
}

io::Task<void> ControlRoleImpl::add_peer(std::string peer) {
  auto members = consensus::parse_members(peer);
  if (!members) co_return failure(members.error());
  if (members->size() != 1) co_return failure(ErrorCode::invalid_argument, "one member is added at a time");
  Question question = [this, member = members->front()](consensus::Replica::Done done) { group_->add_member(member, std::move(done)); };
  co_return co_await ask_group(std::move(question));
}

io::Task<void> ControlRoleImpl::remove_peer(std::uint32_t id) {
  Question question = [this, id](consensus::Replica::Done done) { group_->remove_member(consensus::MemberId{id}, std::move(done)); };
  co_return co_await ask_group(std::move(question));
}

io::Task<void> ControlRoleImpl::leadership_changed(Instant deadline) {
  auto timer = std::make_shared<asio::steady_timer>(loop_.context());
  timer->expires_at(std::chrono::steady_clock::time_point(deadline.time_since_epoch()));
  leader_waiters_.insert(timer);
  std::error_code error;
  co_await timer->async_wait(asio::redirect_error(use_task, error));
  leader_waiters_.erase(timer);
  if (stopping_) co_return failure(ErrorCode::cancelled, "the control plane is stopping");
  if (!error) co_return failure(ErrorCode::timed_out, "nobody leads");
  co_return Status{};
}

// --- views --------------------------------------------------------------------------------------------------------

GroupView ControlRoleImpl::group_view() const {
  GroupView out;
  if (!group_) return out;
  const auto& view = group_->view();
  out.self = view.self.value;
  out.leader = view.leader.value;
  out.term = view.term;
  out.commit = view.commit;
  out.last = view.last;
  for (const auto& member : view.members) {
    MemberView one;
    one.id = member.id.value;
    one.address = member.address;
    one.role = role_word(view, member);
    one.is_self = member.id == view.self;
    if (one.is_self) one.match = view.last;
    for (const auto& progress : view.progress) {
      if (progress.id != member.id) continue;
      one.match = progress.match;
      one.last_heard = progress.since_contact;
    }
    one.lag = one.match == 0 || one.match > view.last ? 0 : view.last - one.match;
    out.members.push_back(std::move(one));
  }
  return out;
}

void ControlRoleImpl::write_group_metrics(io::PrometheusWriter& writer) const {
  static constexpr double kCommitBounds[] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
  const auto& view = group_->view();
  const auto& counters = group_->counters();
  const GroupView group = group_view();
  writer.gauge("dirigent_group_term", "Term of the group of control planes.", static_cast<double>(view.term.value));
  writer.gauge("dirigent_group_leader", "1 while this member leads.", leads_ ? 1 : 0);
  writer.gauge("dirigent_group_leader_known", "1 while some member is known to lead.", view.leader.value != 0 ? 1 : 0);
  writer.gauge("dirigent_group_members", "Members, with those that do not vote yet.", static_cast<double>(view.members.size()));
  writer.gauge("dirigent_group_commit_index", "Last committed entry of the log.", static_cast<double>(view.commit));
  writer.gauge("dirigent_group_last_index", "Last entry of the log.", static_cast<double>(view.last));
  writer.gauge("dirigent_group_snapshot_index", "Last entry that the snapshot holds.", static_cast<double>(view.snapshot));
  writer.counter("dirigent_group_elections_total", "Elections that this member has won.", static_cast<double>(counters.elections));
  writer.counter("dirigent_group_proposals_total", "Changes proposed by this member.", static_cast<double>(counters.proposals));
  writer.counter("dirigent_group_proposals_failed_total", "Of them, those that were not acknowledged.", static_cast<double>(counters.failed));
  for (const auto& member : group.members) {
    if (!leads_ || member.is_self) continue;
    writer.gauge("dirigent_group_lag_entries", "Entries that a member lacks.", static_cast<double>(member.lag), {{"member", std::to_string(member.id)}});
  }
  writer.histogram("dirigent_group_commit_seconds", "Proposed to committed.", counters.commit_times, kCommitBounds);
}

}  // namespace dirigent::roles
