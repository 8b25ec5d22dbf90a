// SPDX-License-Identifier: MIT
//
// A sandbox: one running instance of a revision on a node. Its states, and the only table that moves it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/model/function.h"
#include "dirigent/model/ids.h"

namespace dirigent {

enum class SandboxState {
  placed,    // the conductor chose a node and reserved resources; the order is on its way
  starting,  // the worker has accepted the order: creating, launching, probing
  ready,     // answers its probe; may be routed
  draining,  // out of the routes; finishing what it has
  stopping,  // told to end
  gone,      // ended and cleaned up, or never came to be
};
inline constexpr std::size_t kSandboxStates = 6;

// The table of legal transitions. Whoever moves a sandbox asks here (and asserts).
bool may_move(SandboxState from, SandboxState to);
std::string_view to_string(SandboxState state);
Result<SandboxState> parse_sandbox_state(std::string_view word);

// How long each step of a cold start took. `queue`, `route`, `proxy` and `fn` are measured by the data plane, `schedule`
// by the conductor, the rest by the worker. Zero = the step did not happen.
struct StartPhases {
  Duration schedule{};  // demand arrived -> order sent
  Duration create{};    // order arrived -> sandbox's shell and root are there
  Duration network{};   // namespace, link and address
  Duration start{};     // process started
  Duration probe{};     // started -> answered the probe
  std::uint32_t probe_tries = 0;

  [[nodiscard]] Duration total() const { return schedule + create + network + start + probe; }
  friend bool operator==(const StartPhases&, const StartPhases&) = default;
};

// Where a sandbox is reached. A data plane on the same host (equal host id) connects to `direct`, any other to `published`.
struct SandboxAddress {
  std::string direct;     // "198.18.0.6:8080"; empty when only `published` works
  std::string published;  // "10.0.0.7:30005"; empty when the node publishes nothing
  std::string host_id;    // of the worker's host

  friend bool operator==(const SandboxAddress&, const SandboxAddress&) = default;
};

// Why a sandbox is no more.
enum class EndCause {
  none,             // it is still there
  requested,        // told to stop
  start_failed,     // could not be created or launched
  start_timeout,    // did not become ready in time
  exited,           // the function's process ended by itself
  out_of_memory,    // ended by the kernel for exceeding its memory limit
  node_lost,        // its worker is gone
  image_missing,    // the image cannot be had on the node
  no_capacity,      // the worker refused: no room
};
std::string_view to_string(EndCause cause);
Result<EndCause> parse_end_cause(std::string_view word);

struct SandboxEnd {
  EndCause cause = EndCause::none;
  int exit_code = 0;     // of the function's process, when it exited
  int signal = 0;        // that ended it, or 0
  std::string detail;    // one line: what was tried and what happened
  std::string last_output;  // the last lines it printed, at most 4 KiB

  friend bool operator==(const SandboxEnd&, const SandboxEnd&) = default;
};

// What a worker says about one sandbox.
struct SandboxStatus {
  SandboxId id;
  FunctionName function;
  RevisionNumber revision;
  Term term;              // of the order that made it
  SandboxState state = SandboxState::starting;
  SandboxAddress address; // once ready
  StartPhases phases;
  Duration age{};         // since it was created
  SandboxEnd end;         // once gone
  std::string image_digest;  // what the reference of its image stood for; "" = not known, or no reference

  friend bool operator==(const SandboxStatus&, const SandboxStatus&) = default;
};

}  // namespace dirigent
