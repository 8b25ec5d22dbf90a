// SPDX-License-Identifier: MIT
//
// The identities of everything. See docs/glossary.md for the words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"
#include "dirigent/base/strong_id.h"

namespace dirigent {

// "hello" (namespace "default") or "hello.team": [a-z0-9-]{1,63}, twice at most. The canonical form leaves ".default" out.
using FunctionName = StrongText<struct FunctionNameTag>;
// The number of a function's revision, from 1.
using RevisionNumber = StrongNumber<struct RevisionNumberTag, std::uint32_t>;
// Chosen by the operator or made once and kept on the node's disk; [A-Za-z0-9._-]{1,64}.
using NodeId = StrongText<struct NodeIdTag>;
// Chosen likewise for each data plane.
using DataPlaneId = StrongText<struct DataPlaneIdTag>;
// Made by the conductor: unique in the cluster, never reused. Printed as 16 hexadecimal digits.
using SandboxId = StrongNumber<struct SandboxIdTag, std::uint64_t>;
// The leadership term of a control plane; orders of an older term are refused.
using Term = StrongNumber<struct TermTag, std::uint64_t>;
// Grows with every change of a function's route, per control-plane term.
using RouteVersion = StrongNumber<struct RouteVersionTag, std::uint64_t>;
// One established connection of a worker or data plane to the control plane, as the control plane numbers it.
using SessionId = StrongNumber<struct SessionIdTag, std::uint64_t>;

// "hello-00001"
std::string revision_name(const FunctionName& function, RevisionNumber revision);
// 16 hexadecimal digits.
std::string to_string(SandboxId id);
Result<SandboxId> parse_sandbox_id(std::string_view text);

// Accepts NAME and NAME.NAMESPACE; the error names what is wrong with which character.
Result<FunctionName> parse_function_name(std::string_view text);
Result<NodeId> parse_node_id(std::string_view text);

}  // namespace dirigent
