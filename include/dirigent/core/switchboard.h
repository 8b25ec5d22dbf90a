// SPDX-License-Identifier: MIT
//
// The switchboard: what a data plane knows of routes, once per process, on its main loop. It turns the control plane's
// RouteUpdates into immutable tables for the shards, owns what the shards share, and says when a sandbox that left the
// routes has nothing in flight any more.
//
// An older version of a route never replaces a newer one of the same term; an older term is ignored altogether.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "dirigent/base/time.h"
#include "dirigent/core/dispatcher.h"
#include "dirigent/core/slots.h"

namespace dirigent::core {

struct SwitchboardEffects {
  std::vector<std::shared_ptr<const RouteTableChange>> published;  // to every shard, in order
  std::vector<SandboxDrained> drained;                             // to the control plane
};

class Switchboard {
 public:
  explicit Switchboard(std::uint32_t shards);
  ~Switchboard();

  void apply(const RouteUpdate& update, Instant now, SwitchboardEffects& effects);
  // Shard `shard` has applied the change with this number (and all before).
  void shard_applied(std::uint32_t shard, std::uint64_t number, SwitchboardEffects& effects);
  // From DispatcherEffects::idle.
  void sandbox_idle(SandboxSlots* sandbox, SwitchboardEffects& effects);

  [[nodiscard]] std::size_t functions() const { return functions_.size(); }
  [[nodiscard]] std::size_t sandboxes() const { return sandboxes_.size(); }
  // True once a complete update has been applied: only then is an unknown name really unknown.
  [[nodiscard]] bool complete() const { return complete_; }

 private:
  struct FunctionState {
    std::unique_ptr<FunctionShared> shared;
    std::shared_ptr<const RoutedFunction> routed;
  };
  struct Retired {
    std::uint64_t number;  // of the change that took it out of the tables
    FunctionShared* function;
    std::unique_ptr<SandboxSlots> slots;
  };
  // A removed function is freed one full round after every shard has applied its removal: a message about it may
  // still be on its way between two shards.
  struct Removed {
    std::uint64_t number;
    bool is_second_round;
    std::unique_ptr<FunctionShared> shared;
  };
  SandboxSlots* slots_for(const RoutedSandbox& sandbox, Instant now);
  std::shared_ptr<const RoutedFunction> build(const FunctionRoute& route, FunctionState& state, bool provisional,
                                              std::uint64_t number, Instant now);
  void remove(std::map<FunctionName, FunctionState>::iterator function, RouteTableChange& change);
  void retire(SandboxId id, FunctionShared* function, std::uint64_t number);
  void free_unused(SwitchboardEffects& effects);
  [[nodiscard]] std::uint64_t applied_by_all() const;

  std::vector<std::uint64_t> applied_;  // by shard: the number of the last change it has confirmed
  std::uint64_t change_number_ = 0;
  Term term_{};
  bool complete_ = false;
  std::map<FunctionName, FunctionState> functions_;
  std::unordered_map<SandboxId, std::unique_ptr<SandboxSlots>> sandboxes_;
  std::vector<Retired> retired_;
  std::vector<Removed> removed_;
};

}  // namespace dirigent::core
