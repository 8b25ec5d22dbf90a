// SPDX-License-Identifier: MIT
//
// A worker that starts again after it was killed takes over the sandboxes that its node's spawner has kept (cell/keeping.h):
// with the spawner itself, the locks of its names, and a record and descriptors of each sandbox.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/file_descriptor.h"
#include "dirigent/model/messages.h"
#include "dirigent/sandbox/runtime.h"
#include "sandbox/images/store.h"
#include "sandbox/network/firewall.h"
#include "sandbox/network/network.h"
#include "sandbox/process/cgroups.h"
#include "sandbox/process/spawner.h"

namespace dirigent::sandbox {

// What a worker writes down of a sandbox for the next one. No environment and no secrets: the sandbox has them.
struct SandboxRecord {
  AdoptedSandbox sandbox;
  std::string name;                  // of its cgroups; of a container, its name
  std::uint32_t pid = 0;             // of its first process
  std::uint32_t number = 0;          // of its address within the worker's range
  std::uint16_t published_port = 0;
  std::string attachment;            // of its network by CNI; "" = none
  bool has_journal = false;          // so is the journal of its log
  bool has_network = false;          // a network namespace of its own is among its descriptors
  std::int32_t link = 0;
  wire::Network network;
  CgroupLimits limits;
  std::vector<std::string> layers;   // of its image; the last descriptors are locks of these
  std::uint32_t locks = 0;

  [[nodiscard]] std::string bytes() const;
  static std::optional<SandboxRecord> parse(const std::string& bytes);
};

struct KeptSandbox {
  std::uint32_t key = 0;
  std::uint32_t pid = 0;  // of a cell that lives; 0 = not the spawner's child
  SandboxRecord record;
  std::vector<io::FileDescriptor> fds;

  // The image's lease, from the last descriptors.
  ImageLease take_lease();
};

struct Handover {
  Spawner spawner;
  wire::Configure configuration;
  NameLock range_lock;  // holds nothing where sandboxes have no network of their own
  std::vector<KeptSandbox> kept;

};

// The names of what is taken over, and the ports of the host that lead there; nothing where there is no handover.
std::vector<std::string> names_of(const std::optional<Handover>& handover);
std::vector<Firewall::Published> published_of(const std::optional<Handover>& handover, const Network& network);


// The node's name, and what an earlier worker of it has left for this one.
struct NodeClaim {
  NameLock lock;
  std::optional<Handover> handover;
};

// Waits a moment when an earlier worker's spawner still takes things down. Sandboxes are taken over only from a worker of
// the same `identity`; another's are ended. already_exists: a worker of the node runs on this host. Blocks.
Result<NodeClaim> claim_node(const std::string& node, const std::string& identity);

// What workers must have in common to take over each other's sandboxes, as text; `settings` are the runtime's own.
std::string adoption_identity(const std::string& settings);

}  // namespace dirigent::sandbox
