// SPDX-License-Identifier: MIT
//
// What the control role offers to its HTTP APIs: the native JSON one (/v1), the original's form registration, and
// `/metrics`. The APIs parse and print; the role decides through its conductor. All on the control role's loop.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dirigent/core/conductor.h"
#include "dirigent/io/task.h"
#include "dirigent/model/function.h"
#include "dirigent/model/messages.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/placement.h"

namespace dirigent::roles {

using core::FunctionEvent;

struct SandboxView {
  SandboxStatus status;
  NodeId node;
  bool is_spare = false;        // started, and in no route until it is wanted
};

struct FunctionView {
  Function function;            // durable part
  std::vector<SandboxView> sandboxes;   // not gone
  std::uint32_t wanted = 0;
  std::uint32_t waiting = 0;    // over all data planes
  std::uint32_t in_flight = 0;
  double requests_per_second = 0;       // completions, over the last reports
  std::optional<policy::ScalingDecision> last_scaling;
  std::optional<policy::PlacementDecision> last_placement;
  std::vector<FunctionEvent> events;    // newest last, at most 50
  std::optional<SandboxEnd> last_failure;
  bool invocable = false;
  std::string invocable_reason; // why, or why not
};

struct NodeView {
  NodeInfo info;
  NodeImages images;
  std::string status;           // "ready", "silent", "cordoned", "draining" (on its way out, or being emptied), "drained"
  Resources reserved;
  NodeUsage usage;
  std::uint32_t sandboxes = 0;
  Duration last_heard{};        // ago
  Duration joined_for{};
  Duration start_p50{};         // of its sandboxes, launch to ready; 0 = none yet
};

struct DataPlaneView {
  DataPlaneId id;
  std::string invoke_address;
  Duration last_heard{};
  std::string admin_address;  // "" = it has none
};

struct ClusterView {
  std::string version;
  Term term;
  bool leader = true;
  std::string autoscaler;
  std::string placement;
  std::string state;            // "memory", or the directory of the state log
  Duration uptime{};
  std::size_t functions = 0;
  std::size_t sandboxes = 0;
  std::uint64_t creations = 0;  // sandboxes that became ready since start
  std::uint64_t failures = 0;
};

// One control plane of a group.
struct MemberView {
  std::uint32_t id = 0;
  std::string address;          // of its peer port
  std::string role;             // "leader", "follower", "learner" (does not vote yet), "unknown" (nobody leads)
  bool is_self = false;
  std::uint64_t match = 0;      // entries of the log that are certainly on its disk; 0 = unknown
  std::uint64_t lag = 0;        // behind the leader
  std::optional<Duration> last_heard;
};
struct GroupView {
  std::uint32_t self = 0;       // 0 = there is no group
  std::uint32_t leader = 0;     // 0 = nobody leads
  Term term;
  std::uint64_t commit = 0;
  std::uint64_t last = 0;
  std::vector<MemberView> members;
};

struct DeployRequest {
  FunctionName name;
  RevisionSpec spec;
  bool create_only = false;     // already_exists when the function is there
  bool verify = true;           // start one instance and move the traffic when it has proved ready
};
struct Deployed {
  Function function;
  RevisionNumber revision;      // new, or the newest one when nothing changed
  bool changed = true;
  std::uint64_t event_sequence = 0;  // events about this deployment have a higher sequence
};

class ControlService {
 public:
  virtual ~ControlService() = default;

  // Returns once the registration is durable (verification goes on afterwards; watch the events).
  virtual io::Task<Deployed> deploy(DeployRequest request) = 0;
  virtual io::Task<void> remove(FunctionName name) = 0;
  // nullopt gives the function back to its autoscaler.
  virtual io::Task<void> set_scale(FunctionName name, std::optional<std::uint32_t> scale) = 0;

  virtual Result<FunctionView> describe(const FunctionName& name) = 0;
  // Why this many sandboxes, why that node, why the last failure, and what would change it: lines for people.
  virtual Result<std::vector<std::string>> explain(const FunctionName& name) = 0;
  virtual std::vector<FunctionName> names() = 0;
  // Events of a function after `after`, waiting up to `wait` for the first one.
  virtual io::Task<std::vector<FunctionEvent>> events(FunctionName name, std::uint64_t after, Duration wait) = 0;

  struct LogLine { SandboxId sandbox; NodeId node; WallTime time; bool is_error_stream = false; std::string text; };
  // The newest lines of all sandboxes of the function (or one), oldest first.
  virtual io::Task<std::vector<LogLine>> logs(FunctionName name, std::optional<SandboxId> only, std::uint32_t lines_max) = 0;

  virtual std::vector<NodeView> nodes() = 0;
  // Durable when it returns. Errors: not_found (neither joined nor set before), and those of a write.
  virtual io::Task<void> set_node_use(NodeId node, NodeUse use) = 0;
  // Which nodes were asked to get the image; what became of it is in their views.
  virtual Result<std::vector<NodeId>> prefetch(const std::string& image, const std::optional<NodeId>& node) = 0;
  virtual std::vector<DataPlaneView> data_planes() = 0;
  virtual ClusterView cluster() = 0;
  // The settings a form registration starts from (the server-side default profile).
  virtual ScalingProfile default_profile() = 0;
  // Prometheus text.
  virtual std::string metrics() = 0;
};

}  // namespace dirigent::roles
