// SPDX-License-Identifier: MIT
//
// What the roles tell each other. The rpc floor carries these values and nothing else; schemas/cluster.capnp is the
// same on the wire. Messages travel in batches and in order; a lost connection loses the rest, after which both sides
// say everything again (level-triggered), so no message needs an answer of its own.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "dirigent/model/node.h"
#include "dirigent/model/reason.h"
#include "dirigent/model/sandbox.h"

namespace dirigent {

// Raised by one whenever a message changes its meaning; unknown fields are ignored, one version of skew works.
inline constexpr std::uint32_t kProtocolVersion = 1;

// --- worker -> control --------------------------------------------------------------------------------------------

// The first message of a worker: who it is and everything it runs.
struct WorkerHello {
  std::uint32_t protocol = kProtocolVersion;
  NodeInfo node;
  std::vector<SandboxStatus> sandboxes;
};
struct NodeHeartbeat {
  NodeUsage usage;
};
struct SandboxChanged {
  SandboxStatus status;
};
// What images the node has, as far as it knows, by the names that functions call them; sent after the hello and whenever it
// has changed. `failed`: the last prefetches that went wrong, and why.
struct NodeImages {
  std::vector<std::string> images;
  std::map<std::string, std::string> failed;

  friend bool operator==(const NodeImages&, const NodeImages&) = default;
};
// The worker wants to leave: no new sandboxes, the old ones are being drained.
struct WorkerLeaving {};
using WorkerMessage = std::variant<NodeHeartbeat, SandboxChanged, WorkerLeaving, NodeImages>;

// --- control -> worker --------------------------------------------------------------------------------------------

// Idempotent by `id`: a second order for a sandbox that is there is answered by its status.
struct StartSandbox {
  Term term;
  SandboxId id;
  FunctionName function;
  RevisionNumber revision;
  RevisionSpec spec;
  std::string image_digest;  // what the image's reference has stood for since the revision's first start; "" = not known yet
};
// Idempotent: for an unknown sandbox the answer is "gone".
struct StopSandbox {
  Term term;
  SandboxId id;
};
// The image shall be on the node. What became of it is told by NodeImages.
struct PrefetchImage {
  Term term;
  std::string image;
};
using WorkerOrder = std::variant<StartSandbox, StopSandbox, PrefetchImage>;

// --- data plane -> control ----------------------------------------------------------------------------------------

// What a data plane has of one sandbox's concurrency limit. 0 = nothing, kUnlimitedSlots = no limit.
inline constexpr std::uint32_t kUnlimitedSlots = 0xffffffff;
struct SlotShare {
  SandboxId sandbox;
  std::uint32_t granted = 0;  // by the last route; 0: out of the routes
  std::uint32_t held = 0;     // what it may use until it says that it has released it; at least `granted`
};
struct DataPlaneHello {
  std::uint32_t protocol = kProtocolVersion;
  DataPlaneId id;
  std::string invoke_address;  // host:port that clients use
  std::string host_id;
  std::string version;
  std::string admin_address;   // host:port of its admin port; "" = none
  std::vector<SlotShare> shares;  // all that it has: a control plane that does not know gives nothing of it away
};
// The load of one function on one shard of a data plane since its last report. Sent at once when a request has to wait and
// nothing was reported as waiting before, else every second while anything is not zero, and once more when all is.
struct FunctionLoad {
  FunctionName function;
  std::uint32_t shard = 0;
  std::uint32_t waiting = 0;       // now
  std::uint32_t in_flight = 0;     // now
  double average_concurrency = 0;  // waiting + in flight, averaged over `interval`
  std::uint64_t arrivals = 0;      // in `interval`
  std::uint64_t completions = 0;   // in `interval`
  Duration busy{};                 // time in sandboxes of the requests completed in `interval`, summed
  Duration interval{};
  std::vector<SandboxId> occupied;  // with a request in flight now, of any shard; filled in by the home shard only
};
// A route update has lowered this data plane's share of a sandbox's limit, to nothing when it took the sandbox out of the
// routes: no more than `slots` requests are in the sandbox now, and no more will be until a later update.
struct SlotsReleased {
  SandboxId sandbox;
  std::uint32_t slots = 0;
  std::uint64_t update = 0;  // its number; 0: an update of an earlier session
};
// Every request that arrives from now on meets the routes of this update (and all before).
struct RoutesApplied {
  std::uint64_t update = 0;
};
// A connection to the sandbox was refused or broke; the conductor decides what it means.
struct SandboxSuspected {
  SandboxId id;
  std::string detail;
};
struct DataPlaneHeartbeat {
  std::uint32_t requests_in_flight = 0;
};
struct DataPlaneLeaving {};
using DataPlaneMessage = std::variant<FunctionLoad, SlotsReleased, SandboxSuspected, DataPlaneHeartbeat, DataPlaneLeaving, RoutesApplied>;

// --- control -> data plane ----------------------------------------------------------------------------------------

struct RoutedSandbox {
  SandboxId id;
  NodeId node;
  SandboxAddress address;
  std::uint32_t slots = 0;  // this data plane's share of the concurrency limit; 0 = no limit
  StartPhases phases;       // for Server-Timing of the requests that waited for it
};
// The whole route of one function. An older version never replaces a newer one of the same term.
struct FunctionRoute {
  FunctionName function;
  RevisionNumber revision;  // that serves; 0 = none yet
  RouteVersion version;
  RequestLimits limits;
  HttpProtocol protocol = HttpProtocol::http1;
  bool deleted = false;
  // When not `none`, no sandbox can be had now: waiting and new requests are answered with this reason.
  Reason unavailable = Reason::none;
  std::string unavailable_detail;
  std::vector<RoutedSandbox> sandboxes;
};
// `number`: grows with every update of a term; what a data plane says about the update names it.
// `confirm`: the sender waits for a RoutesApplied.
// `complete`: functions that are not in the list are not there.
// `provisional`: a control plane that has just started does not know every sandbox yet; sandboxes and functions that are
// missing from the update stay as they are until one that is not provisional.
struct RouteUpdate {
  Term term;
  std::uint64_t number = 0;
  bool complete = false;
  bool provisional = false;
  bool confirm = false;
  std::vector<FunctionRoute> functions;
};
using DataPlaneOrder = std::variant<RouteUpdate>;

}  // namespace dirigent
