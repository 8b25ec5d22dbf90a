// SPDX-License-Identifier: MIT
//
// The control role: wires the conductor to the cluster's connections, the state log and the HTTP APIs. Nothing is
// decided here. One loop; RocksDB has its own thread.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "dirigent/model/scaling.h"
#include "dirigent/policy/autoscaler.h"
#include "dirigent/policy/placement.h"

namespace dirigent::roles {

struct ControlRoleOptions {
  std::string rpc_listen = "127.0.0.1:9090";    // workers and data planes
  std::string form_listen = "127.0.0.1:9091";   // the original's registration; "" = none
  std::string admin_listen = "127.0.0.1:9092";  // /v1, /healthz, /readyz, /metrics; "" = none
  std::string state_directory;                  // "" = state in memory
  policy::AutoscalerKind autoscaler = policy::AutoscalerKind::knative;
  policy::PlacementKind placement = policy::PlacementKind::kubernetes;
  std::string form_profile = "dirigent";        // of functions registered by form
  bool form_sweep = false;                      // they get the short window and the single sandbox of a cold-start sweep
  std::string load_balancer_address;            // answer to a registration by form; "" = the data planes
  // (pattern, image): replacements in registrations by form; a pattern may end with *.
  std::vector<std::pair<std::string, std::string>> image_map;
  std::string version;

  // A group of control planes that keep one catalog (docs/operations.md, "Several control planes"). Without an id this
  // one is alone. A group needs a state directory.
  std::uint32_t peer_id = 0;                    // of this one, from 1 on
  std::vector<std::string> peers;               // "ID=HOST:PORT": the members that a new group begins with
  std::string peer_listen;                      // "" = as in `peers`
  bool peer_join = false;                       // the group is there already and adds this one
  Duration election_timeout = 125ms;            // without a word from the leader
};

class ControlRole {
 public:
  virtual ~ControlRole() = default;

  // Reads the state and listens. Blocks while the state log is opened. Errors name the directory or address.
  static Result<std::unique_ptr<ControlRole>> start(io::Loop& loop, ControlRoleOptions options);

  // With the real ports; "" where there is none.
  [[nodiscard]] virtual std::string rpc_address() const = 0;
  [[nodiscard]] virtual std::string form_address() const = 0;
  [[nodiscard]] virtual std::string admin_address() const = 0;
  [[nodiscard]] virtual std::string peer_address() const = 0;

  // Finishes running API requests within `drain`, closes every connection. Must be awaited once before destruction.
  virtual io::Action stop(Duration drain) = 0;
};

}  // namespace dirigent::roles
