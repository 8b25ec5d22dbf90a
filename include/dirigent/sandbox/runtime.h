// SPDX-License-Identifier: MIT
//
// What starts sandboxes. One interface, one folder per runtime: process (namespaces, no daemon), simulated (a start-time
// distribution and no process at all), and others to come. The keeper decides; a runtime does.
//
// Lives on one loop; every method is called there. System calls that block run on helper threads inside the runtime.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/io/task.h"
#include "dirigent/model/messages.h"

namespace dirigent::sandbox {

struct Launched {
  SandboxAddress address;
  StartPhases phases;  // create, network and start; the prober adds its own
  std::string image_digest;  // what the reference of its image stood for; "" = it is none
};

// A sandbox of an earlier life of the node, which was killed.
struct AdoptedSandbox {
  StartSandbox order;     // what a keeper needs of it: not its environment or arguments
  SandboxAddress address;
  StartPhases phases;
  Instant launched_at{};
  bool is_ready = false;  // it has answered its probe once
  std::string image_digest;
};

struct LogLine {
  WallTime time;
  bool is_error_stream = false;
  std::string text;
};

class Runtime {
 public:
  virtual ~Runtime() = default;

  // "process", "simulated".
  [[nodiscard]] virtual std::string_view name() const = 0;

  // Brings the runtime up: pools, tables, helper processes. Takes over the sandboxes of an earlier life of this node that
  // was killed, where it can, and removes whatever else that left behind (processes, cgroups, links, rules, files).
  // Nothing else may be called before it has succeeded.
  virtual io::Task<void> open() = 0;

  // What open() has taken over, once; they are sandboxes like any other. Their ends are told after this call.
  virtual std::vector<AdoptedSandbox> take_adopted() { return {}; }

  // Told once for each launched sandbox when its function's process ends, for whatever reason, before it is removed.
  // Set before the first launch.
  virtual void on_end(std::function<void(SandboxId, SandboxEnd)> callback) = 0;

  // Starts the function; returns when its process runs (not yet: answers). On failure nothing of it is left.
  // The error's code: not_found = the image is not there, exhausted = no room, else start failed.
  virtual io::Task<Launched> launch(StartSandbox order) = 0;

  // Brings an image to this node unless it is there. Errors as launch() has them. Images of other kinds than tar: and
  // references are there or not.
  virtual io::Task<void> prefetch(std::string image) = 0;
  // The tar: images and references that are on the node, as far as is known, by the names that were used. May read files.
  [[nodiscard]] virtual io::Task<std::vector<std::string>> images() = 0;

  // Ends the sandbox: TERM, `grace`, KILL; then removes everything it had. Idempotent; unknown ids succeed at once.
  // After it returns nothing of the sandbox is left and on_end has been called (or never will be).
  virtual io::Task<void> remove(SandboxId id, Duration grace) = 0;

  // A socket connect from the prober must come from the right place: true when `direct` of Launched's address answers
  // a TCP connect now (and GET `ready_path`, when given, answers 2xx or 3xx).
  virtual io::Task<bool> probe(SandboxId id, std::string ready_path, Duration timeout) = 0;

  // The newest lines of the sandbox's bounded ring (also for a short while after its end), oldest first.
  [[nodiscard]] virtual std::vector<LogLine> logs(SandboxId id, std::size_t lines_max) const = 0;

  // What this runtime cannot enforce here, one sentence each ("cpu limits are not enforced: no cpu controller").
  [[nodiscard]] virtual std::vector<std::string> weaknesses() const = 0;

  // Ends every sandbox at once and takes down all that open() made.
  virtual io::Task<void> close() = 0;
};

}  // namespace dirigent::sandbox
