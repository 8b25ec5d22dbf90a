// SPDX-License-Identifier: MIT
//
// What a group of control planes keeps in its log: the functions, what nodes are used for, and the roster of the nodes and data planes that have
// joined lately, so that a new leader knows for whom to wait. Every member has one and changes it by committed commands
// only; the conductor of the leader has a copy of the functions that runs along.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/core/catalog.h"

namespace dirigent::roles {

// Who has joined: "w NODE" or "d DATA-PLANE".
using Roster = std::set<std::string>;

class ReplicatedCatalog {
 public:
  // Commands for the log.
  static std::string encode(const core::CatalogCommand& command);
  static std::string encode(const core::SetNodeUse& command);
  static std::string encode_roster(const Roster& added, const Roster& removed);

  // A command that cannot be read is an error (corrupt) and changes nothing; the other members did the same.
  Status apply(std::string_view command);
  [[nodiscard]] std::string snapshot() const;
  Status restore(std::string_view snapshot);

  [[nodiscard]] std::vector<Function> functions() const;
  [[nodiscard]] std::vector<core::SetNodeUse> node_uses() const;
  [[nodiscard]] std::size_t size() const { return kept_.size(); }
  [[nodiscard]] const Roster& roster() const { return roster_; }

 private:
  struct Kept {
    Function function;
    std::string text;  // as it came, for snapshots
  };
  std::map<std::string, Kept> kept_;
  std::map<NodeId, NodeUse> node_uses_;  // those that are not open
  Roster roster_;
};

}  // namespace dirigent::roles
