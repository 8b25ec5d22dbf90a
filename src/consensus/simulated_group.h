// SPDX-License-Identifier: MIT
//
// SimulatedGroup: a group of members in virtual time, with a network that drops, delays, doubles and reorders, disks that lose what they
// have not written, crashes at any point between a write and the message that depends on it, cuts (one-way ones too),
// pauses and changes of members; and checkers that look at every step. The same seed gives the same run.
//
// Its owner says what is proposed and what goes wrong, and may put the group into a larger simulation by the hooks:
// test/consensus tortures it alone, sim::Cluster has a control plane's conductor at its leader.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "consensus/core.h"

namespace dirigent::consensus {

struct SimulationOptions {
  std::uint64_t seed = 1;
  int members = 3;
  double drop = 0;                     // share of messages
  double duplicate = 0;
  Duration delay_max = 1ms;            // usual ones; one in fifty takes up to 40 times as long when `reorder`
  bool reorder = false;
  Duration disk_max = 2ms;
  Index compact_every = 0;             // applied entries; 0 = never
  Instant begin = Instant(1s);
};

// Called at the end of a step of `member`; they may propose.
struct SimulationHooks {
  std::function<void(std::uint32_t member, std::uint64_t proposal)> acknowledged;  // at the member that proposed it
  std::function<void(std::uint32_t member)> changed;                              // role, term, leader or readiness
};

struct Statistics {
  std::uint64_t steps = 0;
  std::uint64_t messages = 0;
  std::uint64_t proposals = 0;
  std::uint64_t acknowledged = 0;
  std::uint64_t elections = 0;         // terms with a leader
  std::uint64_t crashes = 0;
  std::uint64_t snapshots = 0;         // restored ones
  std::uint64_t faults = 0;
};

class SimulatedGroup {
 public:
  explicit SimulatedGroup(SimulationOptions options, SimulationHooks hooks = {});

  // When something happens next; Instant::max() when nothing does.
  [[nodiscard]] Instant next_at();
  // Time goes on without anything happening. REQUIRES: next_at() is not before `now`.
  void advance(Instant now) { now_ = std::max(now_, now); }
  // What happens until then, one step; false when there is nothing left. The time is `until` then.
  bool step(Instant until);
  // Runs until `condition` holds; false after `limit` of virtual time.
  template <class Condition>
  bool run_until(Condition condition, Duration limit) {
    const Instant end = now_ + limit;
    while (!condition()) {
      if (!violation_.empty() || !step(end)) return false;
    }
    return violation_.empty();
  }
  void run_for(Duration duration) {
    run_until([] { return false; }, duration);
  }

  // Faults. Members are numbered from 1.
  void crash(std::uint32_t member, bool connections_close);  // what is not on disk is lost
  void restart(std::uint32_t member);
  void start_empty(std::uint32_t member);                    // a new one, which has to be added
  void cut(std::uint32_t from, std::uint32_t to);            // silently, one way
  void isolate(std::uint32_t member);                        // both ways, from all
  void heal();                                               // all cuts; what is paused goes on, disks work
  void pause(std::uint32_t member, Duration duration);
  void break_disk(std::uint32_t member, bool broken);        // its writes wait
  void lose_connection(std::uint32_t a, std::uint32_t b);    // noticed by both; messages in flight are lost
  void random_fault();

  // To `member`; the number of the proposal, or nothing when it does not lead.
  std::optional<std::uint64_t> propose(std::uint32_t member);
  // The number that the next one gets.
  [[nodiscard]] std::uint64_t next_proposal() const { return last_proposal_ + 1; }
  // The proposals that `member` has applied, in the order of the log. REQUIRES: it is up.
  [[nodiscard]] std::vector<std::uint64_t> applied(std::uint32_t member) const;
  Core* core(std::uint32_t member);                          // null while down
  [[nodiscard]] Instant paused_until(std::uint32_t member) const { return nodes_.at(member).paused_until; }
  std::uint32_t leader() const;                              // that is ready, of the highest term; 0 = none
  [[nodiscard]] bool all_agree() const;                      // all that are up have applied the same, and all that was acknowledged
  void step_now(std::uint32_t member);                       // after calls on a core: its effects are taken

  [[nodiscard]] std::string describe();                      // one line per member, for reports
  [[nodiscard]] Instant now() const { return now_; }
  [[nodiscard]] const std::string& violation() const { return violation_; }
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }
  [[nodiscard]] std::uint64_t acknowledged() const { return statistics_.acknowledged; }
  Rng& rng() { return rng_; }
  void set_lossless() { options_.drop = options_.duplicate = 0, options_.reorder = false; }

 private:
  struct Machine {                    // the user's: a count and a running hash, and which proposals it has
    Index applied = 0;
    std::uint64_t hash = 0;
    std::set<std::uint64_t> proposals;
  };
  struct InFlight {
    DiskWrite write;
    Instant done;
  };
  struct Node {
    std::optional<Core> core;
    Stored disk;
    std::vector<InFlight> writes;
    Machine machine;
    Instant paused_until{};
    bool disk_broken = false;
    bool exists = false;
    std::map<std::pair<Index, Term>, std::uint64_t> waiting;  // our proposals, by entry
    std::uint64_t incarnation = 0;
  };
  struct Flying {
    Message message;
    std::uint64_t from_incarnation;
    std::uint64_t to_incarnation;
  };

  struct Next {
    Instant at;
    enum class What { nothing, message, loss, disk, timer } what = What::nothing;
    std::uint32_t who = 0;
  };
  Next next();
  void settle(std::uint32_t member);
  void apply(std::uint32_t member, const Entry& entry);
  void fly(const Message& message);
  void arrive(const Flying& flying);
  void write_to_disk(Node& node, const DiskWrite& write);
  void boot(std::uint32_t member);
  void check(std::uint32_t member);
  void fail(std::string text);
  Duration some(Duration max) { return Duration(static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(max.count()) + 1))); }
  bool chance(double share) { return rng_.unit() < share; }
  static std::string pack(const Machine& machine);
  static Machine unpack(const std::string& bytes);

  struct Committed {
    Term term;
    std::uint64_t hash = 0;
    std::uint64_t proposal = 0;  // 0: not a command
  };

  SimulationOptions options_;
  SimulationHooks hooks_;
  Rng rng_;
  Instant now_{};
  std::map<std::uint32_t, Node> nodes_;
  std::multimap<Instant, Flying> network_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> cuts_;
  std::multimap<Instant, std::pair<std::uint32_t, std::uint32_t>> losses_;  // (member, lost peer)

  std::map<Term, std::uint32_t> leaders_;
  std::map<Index, Committed> committed_;                                    // first seen applied anywhere
  std::map<std::pair<Index, Term>, std::uint64_t> written_;                 // every entry ever, by its hash
  std::set<std::uint64_t> acknowledged_;
  std::uint64_t last_proposal_ = 0;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> to_tell_;            // acknowledged in this step
  std::string violation_;
  Statistics statistics_;
};

}  // namespace dirigent::consensus
