// SPDX-License-Identifier: MIT
//
// The switchboard: what a data plane knows of routes, once per process, on its main loop. It turns the control plane's
// RouteUpdates into immutable tables for the shards, owns what the shards share, and tells the control plane when this data
// plane uses no more of a sandbox's limit than the last update gave it (nothing, when the sandbox left the routes).
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
  std::vector<DataPlaneMessage> told;                              // to the control plane
};

class Switchboard {
 public:
  explicit Switchboard(std::uint32_t shards);
  ~Switchboard();

  void apply(const RouteUpdate& update, Instant now, SwitchboardEffects& effects);
  // Shard `shard` has applied the change with this number (and all before).
  void shard_applied(std::uint32_t shard, std::uint64_t number, SwitchboardEffects& effects);
  // From DispatcherEffects::released.
  void slots_released(SwitchboardEffects& effects);
  // A new session with a control plane begins: what we have of sandboxes' limits. What is told from now on belongs to it.
  std::vector<SlotShare> begin_session();

  [[nodiscard]] std::size_t functions() const { return functions_.size(); }
  [[nodiscard]] std::size_t sandboxes() const { return sandboxes_.size(); }
  // True once a complete update has been applied: only then is an unknown name really unknown.
  [[nodiscard]] bool complete() const { return complete_; }

 private:
  struct FunctionState {
    std::unique_ptr<FunctionShared> shared;
    std::shared_ptr<const RoutedFunction> routed;
  };
  // A sandbox of whose limit we have to give something back.
  struct Lowered {
    std::uint64_t number;  // of the change that lowered it, or took it out of the tables
    std::uint64_t update;  // that asked for it
    std::uint32_t held;    // until then
    FunctionShared* function;
    SandboxSlots* slots;
  };
  struct Retired : Lowered {
    std::unique_ptr<SandboxSlots> owned;
  };
  // Released, and kept until no shard can be in the middle of a release any more.
  struct Buried {
    std::uint64_t number;  // of the change after which it is freed
    std::unique_ptr<SandboxSlots> slots;
  };
  struct Confirmation {
    std::uint64_t number;  // of the change
    std::uint64_t update;
  };
  // A removed function is freed one full round after every shard has applied its removal: a message about it may
  // still be on its way between two shards.
  struct Removed {
    std::uint64_t number;
    bool is_second_round;
    std::unique_ptr<FunctionShared> shared;
  };
  struct Applying;  // one update being applied
  SandboxSlots* slots_for(const RoutedSandbox& sandbox, FunctionShared* function, const Applying& applying);
  std::shared_ptr<const RoutedFunction> build(const FunctionRoute& route, FunctionState& state, const Applying& applying);
  void remove(std::map<FunctionName, FunctionState>::iterator function, const Applying& applying);
  void retire(SandboxId id, FunctionShared* function, const Applying& applying);
  void confirm(SwitchboardEffects& effects);
  void settle(SwitchboardEffects& effects);
  void free_removed(std::uint64_t applied, SwitchboardEffects& effects);
  [[nodiscard]] std::uint64_t applied_by_all() const;

  std::vector<std::uint64_t> applied_;  // by shard: the number of the last change it has confirmed
  std::uint64_t change_number_ = 0;
  Term term_{};
  bool complete_ = false;
  std::map<FunctionName, FunctionState> functions_;
  std::unordered_map<SandboxId, std::unique_ptr<SandboxSlots>> sandboxes_;
  std::vector<Lowered> lowered_;
  std::vector<Retired> retired_;
  std::vector<Buried> buried_;
  std::vector<Confirmation> confirmations_;
  std::vector<Removed> removed_;
};

}  // namespace dirigent::core
