// SPDX-License-Identifier: MIT
//
// Members with real sockets, threads and disks, in one process.
#include "dirigent/consensus/replica.h"

#include <asio/steady_timer.hpp>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "catch.h"
#include "consensus/durable.h"
#include "consensus/transport.h"
#include "dirigent/base/log.h"
#include "temporary_directory.h"

using namespace dirigent;
using namespace dirigent::consensus;

namespace {

struct QuietLog {
  QuietLog() { set_log_level(LogLevel::off); }
  ~QuietLog() { set_log_level(LogLevel::info); }
};

template <class Condition>
bool turn_until(io::Loop& loop, Condition condition, Duration limit = 30s) {
  const Instant deadline = io::Loop::now() + limit;
  while (!condition()) {
    if (io::Loop::now() >= deadline) return false;
    asio::steady_timer pause(loop.context());
    pause.expires_after(5ms);
    pause.async_wait([](std::error_code) {});
    loop.context().restart();
    loop.context().run_one();
    loop.poll();
  }
  return true;
}

// Counts what is applied; its state is the list of commands.
struct Machine {
  std::vector<std::string> commands;
  GroupView view;
  std::unique_ptr<Replica> replica;

  ReplicaHooks hooks() {
    ReplicaHooks hooks;
    hooks.apply = [this](Index, std::string_view command) { commands.emplace_back(command); };
    hooks.snapshot = [this] {
      std::string text;
      for (const auto& command : commands) text += command + "\n";
      return text;
    };
    hooks.restore = [this](std::string_view text) {
      commands.clear();
      while (!text.empty()) {
        commands.emplace_back(text.substr(0, text.find('\n')));
        text.remove_prefix(commands.back().size() + 1);
      }
    };
    hooks.changed = [this](const GroupView& now) { view = now; };
    return hooks;
  }
};

// Free ports: the members must know each other's addresses before they start.
std::vector<Member> free_addresses(std::size_t count) {
  io::Loop loop;
  std::vector<std::unique_ptr<Transport>> held;
  std::vector<Member> members;
  for (std::size_t i = 1; i <= count; ++i) {
    RpcTransportOptions options;
    options.listen = "127.0.0.1:0";
    auto transport = rpc_transport(loop, options);
    REQUIRE(transport);
    members.push_back({MemberId{static_cast<std::uint32_t>(i)}, (*transport)->address(), true});
    held.push_back(std::move(*transport));
  }
  return members;
}

struct Group {
  explicit Group(std::size_t size, Index snapshot_entries = 10'000) : addresses(free_addresses(size)), snapshot_after(snapshot_entries) {}

  void start(std::uint32_t id, std::vector<Member> members) {
    ReplicaOptions options;
    options.self = MemberId{id};
    options.members = std::move(members);
    options.listen = addresses.at(id - 1).address;
    options.note = fmt::format("note of {}", id);
    // A busy machine must not decide a test.
    options.heartbeat = 50ms;
    options.election_timeout = 500ms;
    options.silence_max = 3s;
    options.snapshot_entries = snapshot_after;
    auto log = store::open_state_log(directory.path(std::to_string(id)));
    REQUIRE(log);
    auto& machine = machines[id] = std::make_unique<Machine>();
    auto replica = Replica::start(loop, options, std::move(*log), machine->hooks());
    REQUIRE(replica);
    machine->replica = std::move(*replica);
  }
  void start_all() {
    for (const auto& member : addresses) start(member.id.value, addresses);
  }
  std::uint32_t leader() const {
    for (const auto& [id, machine] : machines) {
      if (machine->replica->view().is_ready) return id;
    }
    return 0;
  }
  std::uint32_t wait_for_leader(std::uint32_t besides = 0) {
    REQUIRE(turn_until(loop, [&] { return leader() != 0 && leader() != besides; }));
    return leader();
  }
  Result<Index> propose(std::string command) {
    std::optional<Result<Index>> answer;
    machines.at(wait_for_leader())->replica->propose(std::move(command), [&](Result<Index> index) { answer = std::move(index); });
    REQUIRE(turn_until(loop, [&] { return answer.has_value(); }));
    return *answer;
  }
  Status ask(std::uint32_t member, const std::function<void(Replica&, Replica::Done)>& question) {
    std::optional<Status> answer;
    question(*machines.at(member)->replica, [&](Status status) { answer = std::move(status); });
    REQUIRE(turn_until(loop, [&] { return answer.has_value(); }));
    return *answer;
  }
  bool all_have(std::size_t count) {
    return turn_until(loop, [&] {
      for (const auto& [id, machine] : machines) {
        if (machine->commands.size() != count) return false;
      }
      return true;
    });
  }
  void stop(std::uint32_t id) { machines.erase(id); }

  QuietLog quiet;
  TemporaryDirectory directory;
  io::Loop loop;
  std::vector<Member> addresses;
  Index snapshot_after;
  std::map<std::uint32_t, std::unique_ptr<Machine>> machines;
};

}  // namespace

TEST_CASE("replica: three members apply the same commands in the same order", "[consensus]") {
  Group group(3);
  group.start_all();
  const auto leader = group.wait_for_leader();
  int committed = 0;
  for (int i = 0; i < 500; ++i) {
    group.machines.at(leader)->replica->propose(fmt::format("command {}", i), [&](Result<Index> index) { committed += index ? 1 : 0; });
  }
  REQUIRE(turn_until(group.loop, [&] { return committed == 500; }));
  REQUIRE(group.all_have(500));
  for (const auto& [id, machine] : group.machines) {
    CHECK(machine->commands == group.machines.at(leader)->commands);
    CHECK(machine->commands.front() == "command 0");
    CHECK(machine->commands.back() == "command 499");
  }
  CHECK(group.machines.at(leader)->replica->counters().commit_times.count() >= 500);
}

TEST_CASE("replica: followers know what the leader announces, and do not accept proposals", "[consensus]") {
  Group group(3);
  group.start_all();
  const auto leader = group.wait_for_leader();
  const std::uint32_t follower = leader == 1 ? 2 : 1;
  const auto& view = group.machines.at(follower)->replica->view();
  REQUIRE(turn_until(group.loop, [&] { return view.leader.value == leader && view.leader_note == fmt::format("note of {}", leader); }));
  std::optional<Result<Index>> answer;
  group.machines.at(follower)->replica->propose("x", [&](Result<Index> index) { answer = std::move(index); });
  REQUIRE(turn_until(group.loop, [&] { return answer.has_value(); }));
  CHECK(answer->error().code == ErrorCode::unavailable);
}

TEST_CASE("replica: what was acknowledged is there after all members have been stopped", "[consensus]") {
  Group group(3, 20);
  group.start_all();
  for (int i = 0; i < 50; ++i) REQUIRE(group.propose(fmt::format("{}", i)));
  const Term term = group.machines.at(group.wait_for_leader())->replica->view().term;
  for (std::uint32_t id = 1; id <= 3; ++id) group.stop(id);
  group.start_all();
  REQUIRE(group.propose("after"));
  CHECK(group.all_have(51));
  CHECK(group.machines.at(group.wait_for_leader())->replica->view().term > term);
}

TEST_CASE("replica: when the leader is gone another one goes on with all that was acknowledged", "[consensus]") {
  Group group(3);
  group.start_all();
  for (int round = 0; round < 3; ++round) {
    const auto leader = group.wait_for_leader();
    for (int i = 0; i < 20; ++i) REQUIRE(group.propose(fmt::format("{} {}", round, i)));
    group.stop(leader);
    group.wait_for_leader(leader);
    REQUIRE(group.propose(fmt::format("{} without {}", round, leader)));
    group.start(leader, group.addresses);
    CHECK(group.all_have(static_cast<std::size_t>(round + 1) * 21));
  }
}

TEST_CASE("replica: one member of three alone does not lead", "[consensus]") {
  Group group(3);
  group.start_all();
  const auto leader = group.wait_for_leader();
  for (std::uint32_t id = 1; id <= 3; ++id) {
    if (id != leader) group.stop(id);
  }
  CHECK(turn_until(group.loop, [&] { return group.machines.at(leader)->replica->view().role != Role::leader; }));
}

TEST_CASE("replica: leadership is handed over on demand", "[consensus]") {
  Group group(3);
  group.start_all();
  const auto leader = group.wait_for_leader();
  REQUIRE(group.propose("x"));
  REQUIRE(turn_until(group.loop, [&] { return group.machines.at(leader)->replica->view().progress.size() == 2; }));
  const Status status = group.ask(leader, [](Replica& replica, Replica::Done done) { replica.hand_over(std::move(done)); });
  INFO((status ? "" : status.error().message));
  CHECK(status);
  CHECK(group.wait_for_leader(leader) != leader);
  const std::uint32_t follower = leader;
  CHECK(group.ask(follower, [](Replica& replica, Replica::Done done) { replica.hand_over(std::move(done)); }).error().code == ErrorCode::unavailable);
}

TEST_CASE("replica: a group of one grows to three, and a new member gets a snapshot", "[consensus]") {
  Group group(3, 20);
  group.start(1, {group.addresses[0]});
  for (int i = 0; i < 100; ++i) REQUIRE(group.propose(std::string(1000, 'a' + static_cast<char>(i % 26))));
  for (std::uint32_t id = 2; id <= 3; ++id) {
    group.start(id, {});
    const auto leader = group.wait_for_leader();
    const Status added = group.ask(leader, [&](Replica& replica, Replica::Done done) { replica.add_member(group.addresses[id - 1], std::move(done)); });
    INFO((added ? "" : added.error().message));
    REQUIRE(added);
    REQUIRE(group.all_have(100));
    // On each of them: what only a leader that stops knows is lost, and without its vote the others are no majority.
    REQUIRE(turn_until(group.loop, [&] {
      return std::all_of(group.machines.begin(), group.machines.end(), [&](const auto& machine) {
        const auto& members = machine.second->replica->view().members;
        return members.size() == id && members.back().votes;
      });
    }));
  }
  group.stop(group.wait_for_leader());
  group.wait_for_leader();
  CHECK(group.propose("after"));
}

TEST_CASE("replica: proposals that wait fail when their member is closed", "[consensus]") {
  Group group(3);
  group.start(1, group.addresses);  // alone, it never leads
  std::optional<Result<Index>> answer;
  group.machines.at(1)->replica->propose("x", [&](Result<Index> index) { answer = std::move(index); });
  group.machines.at(1)->replica->close();
  REQUIRE(answer);
  CHECK_FALSE(*answer);
}

TEST_CASE("replica: a member that is not in its own list is refused", "[consensus]") {
  io::Loop loop;
  ReplicaOptions options;
  options.self = MemberId{4};
  options.members = {{MemberId{1}, "127.0.0.1:1", true}};
  options.listen = "127.0.0.1:0";
  CHECK(Replica::start(loop, options, store::memory_state_log(), {}).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("durable: what was written is read again, and contradictions are refused", "[consensus]") {
  const auto log = store::memory_state_log();
  const auto put = [&](std::vector<store::Write> records) {
    std::optional<Status> status;
    io::Loop loop;
    log->append(std::move(records), [&](Status done) { loop.post([&status, done] { status = done; }); });
    REQUIRE(turn_until(loop, [&] { return status.has_value(); }));
  };
  Durable durable;
  REQUIRE_FALSE(durable.load(*log)->has_value());
  Stored stored;
  stored.hard = {Term{7}, MemberId{2}};
  stored.snapshot = {5, Term{3}, {{MemberId{1}, "a:1", true}, {MemberId{2}, "b:1", false}}, std::make_shared<const std::string>(3 << 20, 'x')};
  put(durable.records(first_write(stored)));
  DiskWrite entries;
  for (Index index = 6; index <= 9; ++index) entries.entries.push_back({index, Term{7}, EntryKind::command, std::string("\0data", 5)});
  put(durable.records(entries));
  DiskWrite replaced;
  replaced.erase = {8, 9};
  replaced.entries.push_back({8, Term{8}, EntryKind::nothing, ""});
  put(durable.records(replaced));
  Durable again;
  const auto loaded = again.load(*log);
  REQUIRE(loaded);
  REQUIRE(loaded->has_value());
  CHECK((*loaded)->hard == stored.hard);
  CHECK((*loaded)->snapshot.members == stored.snapshot.members);
  CHECK(*(*loaded)->snapshot.bytes == *stored.snapshot.bytes);
  REQUIRE((*loaded)->entries.size() == 3);
  CHECK((*loaded)->entries[0].data == std::string("\0data", 5));
  CHECK((*loaded)->entries[2] == replaced.entries[0]);

  // A smaller snapshot leaves no piece of the larger one behind.
  DiskWrite smaller;
  smaller.snapshot = {8, Term{8}, stored.snapshot.members, std::make_shared<const std::string>("small")};
  smaller.erase = {6, 8};
  put(again.records(smaller));
  CHECK(*(*Durable().load(*log))->snapshot.bytes == "small");

  put({{"group/entry/00000000000000000010", std::string(9, '\0')}});
  CHECK(Durable().load(*log).error().code == ErrorCode::corrupt);  // entry 9 is missing
}
