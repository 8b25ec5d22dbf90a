// SPDX-License-Identifier: MIT
//
// What one member of a group decides, in the simulated network.
#include "catch.h"
#include "simulation.h"

using namespace dirigent;
using namespace dirigent::consensus;
using namespace dirigent::consensus::test;

namespace {

// Three members with a leader that is ready.
struct Group : SimulatedGroup {
  explicit Group(int members = 3, std::uint64_t seed = 7) : SimulatedGroup(options(members, seed)) {
    REQUIRE(run_until([&] { return leader() != 0; }, 2s));
    run_for(100ms);
    REQUIRE(leader() != 0);
  }
  static SimulationOptions options(int members, std::uint64_t seed) {
    SimulationOptions options;
    options.seed = seed;
    options.members = members;
    return options;
  }
  std::uint32_t follower(std::uint32_t besides = 0) {
    for (std::uint32_t member = 1; member <= 9; ++member) {
      if (core(member) != nullptr && member != leader() && member != besides) return member;
    }
    return 0;
  }
  bool commits_one() {
    const auto before = acknowledged();
    return leader() != 0 && propose(leader()) && run_until([&] { return acknowledged() > before; }, 1s);
  }
};

}  // namespace

TEST_CASE("group: a proposal is acknowledged when a majority has it on disk", "[consensus]") {
  Group group;
  REQUIRE(group.commits_one());
  const auto leader = group.leader();
  const auto other = group.follower();
  group.break_disk(other, true);
  REQUIRE(group.commits_one());
  // Both followers cannot write: nothing is acknowledged, by nobody.
  const auto third = group.follower(other);
  group.break_disk(third, true);
  const auto before = group.acknowledged();
  REQUIRE(group.propose(leader));
  group.run_for(3s);
  CHECK(group.acknowledged() == before);
  group.heal();
  CHECK(group.run_until([&] { return group.all_agree() && group.acknowledged() > before; }, 5s));
}

TEST_CASE("group: when the leader's process is killed another one leads within 20 ms", "[consensus]") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Group group(3, seed);
    const auto old = group.leader();
    group.crash(old, true);
    const Instant killed = group.now();
    REQUIRE(group.run_until([&] { return group.leader() != 0 && group.leader() != old; }, 1s));
    INFO("seed " << seed);
    CHECK(group.now() - killed < 20ms);
  }
}

TEST_CASE("group: when the leader falls silent another one leads within 250 ms", "[consensus]") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Group group(3, seed);
    const auto old = group.leader();
    group.isolate(old);
    const Instant cut = group.now();
    INFO("seed " << seed);
    // The old one may believe for a while that it leads; it is told by the others' term.
    REQUIRE(group.run_until([&] { return group.leader() != 0 && group.leader() != old; }, 1s));
    CHECK(group.now() - cut < 250ms);
  }
}

TEST_CASE("group: a leader that is cut off stops leading within the election timeout and a heartbeat", "[consensus]") {
  Group group;
  const auto old = group.leader();
  group.isolate(old);
  const Instant cut = group.now();
  REQUIRE(group.run_until([&] { return !group.core(old)->leads(); }, 1s));
  CHECK(group.now() - cut <= CoreOptions{}.election_timeout + CoreOptions{}.heartbeat);
  // Its lease ends before anybody else can have been elected.
  CHECK(group.core(old)->lease_end() <= group.now());
}

TEST_CASE("group: leases of different leaders do not overlap as long as connections are not reset", "[consensus]") {
  Group group;
  for (int round = 0; round < 20; ++round) {
    const auto old = group.leader();
    group.isolate(old);
    REQUIRE(group.run_until(
        [&] {
          const auto leading = group.leader();
          if (leading != 0 && leading != old) CHECK(group.core(old)->lease_end() <= group.now());
          return leading != 0 && leading != old;
        },
        2s));
    group.heal();
    group.run_for(300ms);
  }
}

TEST_CASE("group: the minority side of a partition acknowledges nothing, and healing leaves one history", "[consensus]") {
  Group group(5);
  const auto old = group.leader();
  group.isolate(old);
  const auto before = group.acknowledged();
  REQUIRE(group.propose(old));
  group.run_for(2s);
  CHECK(group.acknowledged() == before);
  REQUIRE(group.commits_one());
  group.heal();
  CHECK(group.run_until([&] { return group.all_agree(); }, 2s));
  CHECK(group.violation() == "");
}

TEST_CASE("group: a follower that was cut off does not disturb the leader when it comes back", "[consensus]") {
  Group group;
  const auto leader = group.leader();
  const Term term = group.core(leader)->term();
  group.isolate(group.follower());
  group.run_for(10s);
  group.heal();
  group.run_for(2s);
  CHECK(group.leader() == leader);
  CHECK(group.core(leader)->term() == term);
}

TEST_CASE("group: the last member to start follows the leader that is there, whatever term it begins with", "[consensus]") {
  int higher = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    INFO("seed " << seed);
    SimulatedGroup group(Group::options(3, seed));
    group.isolate(3);
    REQUIRE(group.run_until([&] { return group.leader() != 0; }, 2s));
    const auto leader = group.leader();
    const Term term = group.core(leader)->term();
    higher += group.core(3)->term() > term ? 1 : 0;
    group.heal();
    CHECK(group.run_until([&] { return group.core(3)->view(group.now()).leader == MemberId{leader}; }, 1s));
    group.run_for(1s);
    CHECK(group.leader() == leader);
    CHECK(group.core(leader)->term().value == term.value);
  }
  CHECK(higher > 0);
}

TEST_CASE("group: a member that may have promised something does not go back to a lower term", "[consensus]") {
  const auto answers = [](bool is_new, bool votes_first) {
    Stored stored;
    stored.hard.term = Term{200};
    stored.is_new = is_new;
    stored.snapshot.members = {{MemberId{1}, "m1:1", true}, {MemberId{2}, "m2:1", true}, {MemberId{3}, "m3:1", true}};
    CoreOptions options;
    options.self = MemberId{3};
    const Instant now{1s};
    Core core(options, stored, now);
    const auto say = [&](MessageKind kind, std::uint32_t from, std::uint64_t term) {
      Message message;
      message.kind = kind;
      message.from = MemberId{from};
      message.to = MemberId{3};
      message.term = Term{term};
      core.receive(message, now);
      Effects effects = core.take();
      for (const auto& write : effects.writes) {
        core.durable(write.number, now);
        for (auto& late : core.take().messages) effects.messages.push_back(std::move(late));
      }
      return effects.messages;
    };
    if (votes_first) {
      const auto vote = say(MessageKind::vote, 2, 200);
      REQUIRE(vote.size() == 1);
      REQUIRE_FALSE(vote[0].refused);
    }
    const auto reply = say(MessageKind::append, 1, 100);
    REQUIRE(reply.size() == 1);
    CHECK(core.term().value == reply[0].term.value);
    // The leader of that term has this member's vote, and nobody else gets it.
    if (!reply[0].refused) {
      CHECK(core.term().value == 100);
      for (const auto& vote : say(MessageKind::vote, 2, 100)) CHECK(vote.refused);
      for (const auto& again : say(MessageKind::append, 2, 50)) CHECK(again.refused);
    }
    return !reply[0].refused;
  };
  CHECK(answers(true, false));
  CHECK_FALSE(answers(false, false));
  CHECK_FALSE(answers(true, true));
}

TEST_CASE("group: a reset connection between the leader and one follower moves nothing", "[consensus]") {
  Group group;
  const auto leader = group.leader();
  const Term term = group.core(leader)->term();
  group.lose_connection(leader, group.follower());
  group.run_for(1s);
  CHECK(group.leader() == leader);
  CHECK(group.core(leader)->term() == term);
  CHECK(group.commits_one());
}

TEST_CASE("group: leadership is handed over within a few round trips", "[consensus]") {
  Group group;
  const auto old = group.leader();
  REQUIRE(group.commits_one());
  REQUIRE(group.core(old)->hand_over(group.now()));
  CHECK_FALSE(group.core(old)->propose("x", group.now()));
  group.step_now(old);
  const Instant asked = group.now();
  REQUIRE(group.run_until([&] { return group.leader() != 0 && group.leader() != old; }, 1s));
  CHECK(group.now() - asked < 25ms);
  CHECK(group.commits_one());
}

TEST_CASE("group: handing over to members that do not answer fails, and the leader goes on", "[consensus]") {
  Group group;
  const auto old = group.leader();
  const auto one = group.follower();
  group.pause(one, 60ms);
  group.pause(group.follower(one), 60ms);
  REQUIRE(group.core(old)->hand_over(group.now()));
  // The request to stand is lost on its way.
  for (std::uint32_t member = 1; member <= 3; ++member) group.cut(old, member);
  group.step_now(old);
  group.run_for(80ms);
  group.heal();
  REQUIRE(group.run_until([&] { return group.leader() != 0 && !group.core(group.leader())->is_handing_over(); }, 2s));
  CHECK(group.commits_one());
}

TEST_CASE("group: alone, a member leads at once and keeps what it acknowledged", "[consensus]") {
  Group group(1);
  REQUIRE(group.commits_one());
  const Term term = group.core(1)->term();
  group.crash(1, true);
  group.restart(1);
  const Instant started = group.now();
  REQUIRE(group.run_until([&] { return group.leader() == 1 && group.all_agree(); }, 1s));
  CHECK(group.now() - started < 10ms);
  CHECK(group.core(1)->term() > term);
}

TEST_CASE("group: a member that was away for long is brought up with a snapshot", "[consensus]") {
  SimulationOptions options;
  options.seed = 3;
  options.compact_every = 20;
  SimulatedGroup group(options);
  REQUIRE(group.run_until([&] { return group.leader() != 0; }, 2s));
  const std::uint32_t away = group.leader() == 1 ? 2 : 1;
  group.crash(away, true);
  for (int i = 0; i < 200; ++i) {
    group.propose(group.leader());
    group.run_for(5ms);
  }
  const auto before = group.statistics().snapshots;
  group.restart(away);
  CHECK(group.run_until([&] { return group.all_agree(); }, 3s));
  CHECK(group.statistics().snapshots > before);
}

TEST_CASE("group: a new member votes once it has caught up, and one that is removed does not any more", "[consensus]") {
  Group group;
  for (int i = 0; i < 200; ++i) REQUIRE(group.commits_one());
  const auto leader = group.leader();
  REQUIRE(group.core(leader)->add_member({MemberId{4}, "m4:1"}, group.now()));
  CHECK_FALSE(group.core(leader)->add_member({MemberId{5}, "m5:1"}, group.now()));
  group.start_empty(4);
  group.step_now(leader);
  CHECK(group.core(leader)->log().members().back().votes == false);
  REQUIRE(group.run_until([&] { return group.core(leader)->log().members().back().votes; }, 2s));
  REQUIRE(group.run_until([&] { return group.all_agree() && group.core(leader)->log().members_index() <= group.core(leader)->commit(); }, 2s));
  CHECK(group.core(leader)->add_member({MemberId{4}, "m9:1"}, group.now()).error().code == ErrorCode::already_exists);
  CHECK(group.core(leader)->remove_member(MemberId{8}, group.now()).error().code == ErrorCode::not_found);

  const auto removed = group.follower(4);
  REQUIRE(group.core(leader)->remove_member(MemberId{removed}, group.now()));
  group.step_now(leader);
  REQUIRE(group.run_until([&] { return group.all_agree() && group.core(leader)->log().members().size() == 3; }, 2s));
  group.crash(leader, true);
  REQUIRE(group.run_until([&] { return group.leader() != 0 && group.leader() != leader; }, 2s));
  CHECK(group.leader() != removed);
  CHECK(group.commits_one());
}

TEST_CASE("group: a member that was down while it was removed is told when it asks for votes, and is quiet", "[consensus]") {
  Group group;
  const auto leader = group.leader();
  const auto removed = group.follower();
  group.crash(removed, true);
  for (int i = 0; i < 30; ++i) REQUIRE(group.commits_one());
  REQUIRE(group.core(leader)->remove_member(MemberId{removed}, group.now()));
  group.step_now(leader);
  group.run_for(200ms);
  REQUIRE(group.core(leader)->log().members().size() == 2);
  const Term term = group.core(leader)->term();
  group.restart(removed);
  const auto knows = [&] { return group.core(removed)->log().members().size() == 2 && group.core(removed)->log().members_index() <= group.core(removed)->commit(); };
  REQUIRE(group.run_until(knows, 3s));
  // For many election timeouts it asks nobody.
  CHECK_FALSE(group.run_until([&] { return group.core(removed)->view(group.now()).role != Role::follower; }, 5s));
  CHECK(group.violation().empty());
  CHECK(group.leader() == leader);
  CHECK(group.core(leader)->term() == term);
  CHECK(group.core(leader)->view(group.now()).progress.size() == 1);
  CHECK(group.commits_one());
}

TEST_CASE("group: a leader that is removed leads until that is committed", "[consensus]") {
  Group group;
  const auto old = group.leader();
  REQUIRE(group.core(old)->remove_member(MemberId{old}, group.now()));
  group.step_now(old);
  REQUIRE(group.run_until([&] { return group.leader() != 0 && group.leader() != old; }, 2s));
  CHECK(group.commits_one());
  CHECK(group.core(group.leader())->log().members().size() == 2);
}

TEST_CASE("group: the last member that votes cannot be removed", "[consensus]") {
  Group group(1);
  CHECK(group.core(1)->remove_member(MemberId{1}, group.now()).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("group: words that no sound member would say change nothing", "[consensus]") {
  Group group;
  REQUIRE(group.commits_one());
  const auto leader = group.leader();
  const auto follower = group.follower();
  Core& core = *group.core(follower);
  const GroupView before = core.view(group.now());
  Message message;
  message.from = MemberId{leader};
  message.to = MemberId{follower};
  message.term = before.term;
  message.kind = MessageKind::append;
  message.index = before.last;
  message.log_term = core.log().last_term();
  message.entries = {{before.last + 5, before.term, EntryKind::command, "a gap"}};
  core.receive(message, group.now());
  // Another entry in the place of a committed one.
  message.index = before.commit - 1;
  message.log_term = core.log().term_at(before.commit - 1);
  message.entries = {{before.commit, Term{before.term.value + 1}, EntryKind::command, "other"}};
  core.receive(message, group.now());
  message.kind = MessageKind::snapshot;
  message.index = before.last + 100;
  message.total = ~std::uint64_t{0};
  core.receive(message, group.now());
  group.step_now(follower);
  CHECK(core.view(group.now()).last == before.last);
  CHECK(core.view(group.now()).commit == before.commit);

  // An answer that claims more than the leader has, and a second leader of its term.
  Message answer;
  answer.from = MemberId{follower};
  answer.to = MemberId{leader};
  answer.term = before.term;
  answer.kind = MessageKind::append_reply;
  answer.index = 1'000'000;
  group.core(leader)->receive(answer, group.now());
  answer.kind = MessageKind::append;
  group.core(leader)->receive(answer, group.now());
  group.step_now(leader);
  CHECK(group.leader() == leader);
  CHECK(group.commits_one());
  CHECK(group.violation() == "");
}

TEST_CASE("group: a late snapshot takes nothing that was acknowledged after it", "[consensus]") {
  Group group;
  REQUIRE(group.commits_one());
  const auto follower = group.follower();
  Core& core = *group.core(follower);
  const GroupView before = core.view(group.now());
  Message message;
  message.from = MemberId{group.leader()};
  message.to = MemberId{follower};
  message.term = before.term;
  message.kind = MessageKind::append;
  message.index = before.last;
  message.log_term = core.log().last_term();
  for (Index index = before.last + 1; index <= before.last + 3; ++index)
    message.entries.push_back({index, before.term, EntryKind::command, "acknowledged"});
  core.receive(message, group.now());
  Message late = message;
  late.kind = MessageKind::snapshot;
  late.entries.clear();
  late.index = before.last + 1;
  late.log_term = before.term;
  late.members = core.log().members();
  late.total = 0;
  core.receive(late, group.now());
  group.step_now(follower);
  CHECK(core.view(group.now()).last == before.last + 3);
  CHECK(core.view(group.now()).commit == before.last + 1);
  CHECK(core.view(group.now()).snapshot == before.snapshot);
  // As it was found.
  CHECK(torture(options_of(282'269'988), 8s) == "");
}

TEST_CASE("members: lists are read strictly", "[consensus]") {
  const auto members = parse_members("1=10.0.0.1:9094,2=[::1]:9094");
  REQUIRE(members);
  CHECK(members->size() == 2);
  CHECK((*members)[1].address == "[::1]:9094");
  CHECK(decode_members(encode_members(*members)) == *members);
  for (const auto* wrong : {"1", "0=a:1", "x=a:1", "1=a", "1=a:1,1=b:1", "1=a:1,2=a:1", "1=a:1,,2=b:1"}) {
    INFO(wrong);
    CHECK_FALSE(parse_members(wrong));
  }
  CHECK_FALSE(decode_members("1 a"));
  CHECK_FALSE(decode_members("1 a:1 2"));
}

TEST_CASE("simulation: groups survive faults of every kind with one history", "[consensus]") {
  // More with: consensus_simulate --seeds 1-100000
  const std::uint64_t first = entropy_seed() % 1'000'000'000;
  for (std::uint64_t seed = first; seed < first + 250; ++seed) CHECK(torture(options_of(seed), 8s) == "");
}
