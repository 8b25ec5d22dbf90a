// SPDX-License-Identifier: MIT
//
// The keeper: what the worker role decides about the sandboxes of its node. It follows orders, watches each sandbox from
// launch to removal, and says what becomes of it. Plain synchronous code; effects are performed by the role on a Runtime.
//
//   StartSandbox --> launch --> probe, probe, ... --> ready
//        |              |          |                   |-- its process ends --> gone, cleaned up behind
//     no room        failed    start timeout           '-- StopSandbox -------> remove --> gone
//
// An order of an older term than one seen before is refused (fencing).
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/model/messages.h"

namespace dirigent::core {

struct KeeperOptions {
  std::uint32_t launches_max = 64;      // at a time; further orders wait in line
  std::uint32_t sandboxes_max = 10'000; // on this node; further orders fail with no_capacity
  Duration stop_grace = 10s;            // TERM to KILL
  Duration first_probe_delay = 1ms;     // then x 1.35 each time ...
  Duration probe_delay_max = 100ms;     // ... to this
  double probe_delay_factor = 1.35;
  Duration probe_timeout_min = 3ms;     // of the first attempt: the first packet to a fresh link may be lost
  Duration probe_timeout_max = 1s;
};

struct KeeperEffects {
  struct Launch { StartSandbox order; };
  struct Probe { SandboxId id; std::string ready_path; Duration timeout; };
  struct Remove { SandboxId id; Duration grace; };

  std::vector<Launch> launches;
  std::vector<Probe> probes;
  std::vector<Remove> removals;
  std::vector<std::string> prefetches;  // images
  std::vector<WorkerMessage> messages;  // to the control plane
};

class Keeper {
 public:
  explicit Keeper(KeeperOptions options);

  // --- orders
  void ordered(const WorkerOrder& order, Instant now, KeeperEffects& effects);
  // Ends every sandbox (the role is stopping).
  void stop_all(Instant now, KeeperEffects& effects);

  // --- what became of the effects
  struct LaunchedAt {
    SandboxAddress address;
    StartPhases phases;
    std::string image_digest{};
  };
  // A sandbox that an earlier life of this worker has launched, at `launched_at`, and that the runtime has taken over. One
  // that was ready is; another is probed until the deadline it has had from the beginning. Before the first message.
  void adopt(StartSandbox order, LaunchedAt at, Instant launched_at, bool is_ready, Instant now);
  void launched(SandboxId id, Result<LaunchedAt> outcome, Instant now, KeeperEffects& effects);
  void probed(SandboxId id, bool is_ready, Instant now, KeeperEffects& effects);
  // The function's process has ended, by itself or because it was told to.
  void ended(SandboxId id, const SandboxEnd& end, Instant now, KeeperEffects& effects);
  void removed(SandboxId id, Instant now, KeeperEffects& effects);

  // --- time
  [[nodiscard]] std::optional<Instant> next_wakeup() const;
  void tick(Instant now, KeeperEffects& effects);

  // --- what it knows
  [[nodiscard]] std::vector<SandboxStatus> statuses(Instant now) const;
  [[nodiscard]] std::size_t size() const { return sandboxes_.size(); }
  [[nodiscard]] Term term() const { return term_; }

 private:
  enum class Step { waiting, launching, probing, serving, removing };
  struct Kept {
    StartSandbox order;
    SandboxState state = SandboxState::starting;
    Step step = Step::waiting;
    Instant accepted_at{};
    Instant launched_at{};
    SandboxAddress address;
    StartPhases phases;
    std::string image_digest;
    SandboxEnd end;
    Duration probe_delay{};
    bool is_probing = false;                // a probe is under way
    std::optional<Instant> next_probe;
    std::optional<Instant> start_deadline;
    std::optional<Instant> wakeup;          // its place among the wake-ups
    bool said_gone = false;
  };

  void start(Kept& kept, Instant now, KeeperEffects& effects);
  void launch_next(Instant now, KeeperEffects& effects);
  void remove(Kept& kept, SandboxEnd end, Duration grace, KeeperEffects& effects, Instant now);
  void say(const Kept& kept, Instant now, KeeperEffects& effects) const;
  [[nodiscard]] SandboxStatus status_of(const Kept& kept, Instant now) const;
  void wake(SandboxId id, Kept& kept);

  KeeperOptions options_;
  Term term_{};
  std::map<SandboxId, Kept> sandboxes_;
  std::deque<SandboxId> line_;            // accepted, waiting for a launch
  std::uint32_t launching_ = 0;
  std::set<std::pair<Instant, SandboxId>> wakeups_;
};

}  // namespace dirigent::core
