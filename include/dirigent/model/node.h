// SPDX-License-Identifier: MIT
//
// A node: a machine (or part of one) on which a worker starts sandboxes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/resources.h"

namespace dirigent {

struct NodeInfo {
  NodeId id;
  std::string host;              // the address under which other hosts reach it
  std::string host_id;           // equal for processes of one network namespace of one boot of one machine
  Resources capacity;
  std::uint32_t sandboxes_max = 0;  // 0 = no limit but the resources
  std::uint32_t starts_max = 0;     // sandboxes that may be on their way to ready at a time; 0 = no limit
  std::string runtime;           // its default runtime
  std::string version;           // of dirigent
  std::map<std::string, std::string> labels;

  friend bool operator==(const NodeInfo&, const NodeInfo&) = default;
};

// What an operator lets a node be used for. Kept by name: it outlives control planes, workers and their connections.
enum class NodeUse : std::uint8_t {
  open,
  cordoned,  // no new sandboxes; those it has stay
  drained,   // no new ones, and those it has leave as soon as others can serve in their place
};
std::string_view to_string(NodeUse use);
Result<NodeUse> parse_node_use(std::string_view word);  // invalid_argument

// What a heartbeat carries.
struct NodeUsage {
  Resources used;                // measured on the machine
  std::uint32_t sandboxes = 0;

  friend bool operator==(const NodeUsage&, const NodeUsage&) = default;
};

}  // namespace dirigent
