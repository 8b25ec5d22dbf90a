// SPDX-License-Identifier: MIT
//
// The catalog: the durable cluster state. A deterministic state machine whose only way to change is apply(command), so
// that a log of commands (one node's state log, or a replicated one) rebuilds it exactly. Plans are made against the
// current state and change nothing; a command is applied once it is durable, and only then acknowledged.
//
// One writer per function at a time: begin() claims the name, apply() or abort() gives it back. A plan made for a claimed
// name would be made against a state that is about to change.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/model/function.h"
#include "dirigent/model/node.h"

namespace dirigent::core {

// The whole new value of a function. Idempotent.
struct PutFunction {
  Function function;
  bool scale_to_zero = false;  // also ends its sandboxes once; the next request starts one again
};
struct DropFunction {
  FunctionName name;
};
using CatalogCommand = std::variant<PutFunction, DropFunction>;
const FunctionName& function_of(const CatalogCommand& command);

// A setting of a node, whether it has joined or not. Nobody claims nodes: the last command counts.
struct SetNodeUse {
  NodeId node;
  NodeUse use = NodeUse::open;
};

class Catalog {
 public:
  static constexpr std::size_t kFunctionsMax = 100'000;
  static constexpr std::size_t kRevisionsKept = 10;

  [[nodiscard]] const Function* find(const FunctionName& name) const;
  [[nodiscard]] const std::map<FunctionName, Function>& functions() const { return functions_; }

  struct DeployPlan {
    CatalogCommand command;
    RevisionNumber revision;
    bool changed = true;  // false: the newest revision has this very spec and serves already; nothing to write
  };
  // A new revision; with `verify` it becomes the candidate, without it serves at once.
  // Errors: invalid_argument (spec), already_exists (create_only), exhausted (kFunctionsMax).
  [[nodiscard]] Result<DeployPlan> plan_deploy(const FunctionName& name, const RevisionSpec& spec, bool create_only,
                                               bool verify, WallTime now) const;
  // Errors: not_found, with a suggestion.
  [[nodiscard]] Result<CatalogCommand> plan_remove(const FunctionName& name) const;
  // 0 is an act, not a setting: everything stops now, and the autoscaler goes on from there.
  [[nodiscard]] Result<CatalogCommand> plan_scale(const FunctionName& name, std::optional<std::uint32_t> scale) const;
  // The candidate has proved ready, or has failed. nullopt when `revision` is not the candidate any more.
  [[nodiscard]] std::optional<CatalogCommand> plan_promote(const FunctionName& name, RevisionNumber revision) const;
  [[nodiscard]] std::optional<CatalogCommand> plan_reject(const FunctionName& name, RevisionNumber revision) const;

  // False when somebody else is writing this function.
  bool begin(const FunctionName& name);
  void abort(const FunctionName& name);
  [[nodiscard]] bool is_claimed(const FunctionName& name) const { return claimed_.contains(name); }
  void apply(const CatalogCommand& command);

  // Those that are not open.
  [[nodiscard]] const std::map<NodeId, NodeUse>& node_uses() const { return node_uses_; }
  [[nodiscard]] NodeUse use_of(const NodeId& node) const;
  void apply(const SetNodeUse& command);

 private:
  Error unknown(const FunctionName& name) const;

  std::map<FunctionName, Function> functions_;
  std::unordered_map<std::string_view, const Function*> index_;  // of functions_, for find(); the names are theirs
  std::set<FunctionName> claimed_;
  std::map<NodeId, NodeUse> node_uses_;
};

}  // namespace dirigent::core
