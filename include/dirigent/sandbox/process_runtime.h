// SPDX-License-Identifier: MIT
//
// The process runtime: sandboxes from Linux namespaces, cgroups, capabilities and a system call filter, without a
// daemon. It keeps parked cells (processes that already sit in their namespaces, cgroups and network) and turns one
// into a sandbox when an order comes. How and at what cost: docs/runtimes.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dirigent/base/units.h"
#include "dirigent/sandbox/image_options.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::sandbox {

// `full` needs root. `user` works without: user namespaces, the host's network, no cgroups.
enum class ProcessIsolation { automatic, full, user };

struct ProcessRuntimeOptions {
  NodeId node;                             // names the cgroups; at most one runtime of a node at a time on a host
  std::string host_id;                     // copied into every address
  ProcessIsolation isolation = ProcessIsolation::automatic;
  std::uint32_t parked = 32;               // cells kept ready when nothing happens; 0 = each launch makes its own
  std::uint32_t parked_max = 256;          // and at most, for some minutes after a second of many launches
  std::uint32_t starts_at_a_time = 0;      // the others take turns; 0 = four for each CPU
  Duration turn_patience = 50ms;           // when no start has ended for so long, the waiting ones no longer wait for turns
  std::uint32_t sandboxes_max = 2000;      // launches beyond it fail as exhausted
  Bytes tmp_max = 64_MiB;  // size of a sandbox's /tmp, and of what it may change in a dir: or tar: image
  Duration start_timeout = 30s;            // for a cell to park, and for an order to be carried out
  std::string publish_host;                // the address told to other hosts; "" = sandboxes are not published
  std::uint16_t publish_port_first = 30'000;
  std::uint16_t publish_port_last = 32'767;
  ImageOptions images;                     // where tar: images and pulled ones are kept
  Duration logs_kept = 60s;                // after a sandbox's end
  Duration adopt_time{};                   // how long sandboxes outlive a killed worker, for the next one; 0 = not at all
};

// The loop must outlive the runtime; the runtime must be closed (or never opened) before it is destroyed.
std::unique_ptr<Runtime> make_process_runtime(io::Loop& loop, ProcessRuntimeOptions options);

}  // namespace dirigent::sandbox
