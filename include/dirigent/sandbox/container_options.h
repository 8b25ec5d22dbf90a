// SPDX-License-Identifier: MIT
//
// What the runtimes with real containers (oci, containerd) have in common.
#pragma once

#include <cstdint>
#include <string>

#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/model/ids.h"
#include "dirigent/sandbox/image_options.h"

namespace dirigent::sandbox {

// Networks by CNI plugins instead of the worker's own.
struct CniOptions {
  std::string
      configuration;  // a .conflist, .conf or .json, or a directory of them, of which the first is taken; "" = no CNI
  std::string programs = "/usr/lib/cni:/opt/cni/bin";     // directories of plugins, with colons between
  std::string state_directory = "/var/lib/dirigent/cni";  // what is attached, to be taken back after a crash
};

struct ContainerOptions {
  NodeId node;                             // names cgroups and containers; at most one runtime of a node at a time on a host
  std::string host_id;                     // copied into every address
  std::string run_directory = "/run/dirigent";  // holds one directory per node while it runs
  std::uint32_t networks = 8;              // network namespaces kept ready; 0 = each launch makes its own
  std::uint32_t sandboxes_max = 2000;      // launches beyond it fail as exhausted
  std::uint32_t starts_max = 8;            // container starts at a time; others wait their turn
  Bytes tmp_max = 64_MiB;                  // size of /tmp, and of what may be changed below a writable root
  bool root_writable = false;              // a private bounded layer above the image instead of a read-only root
  bool user_namespaces = false;            // each sandbox gets ids of its own, which it sees as 0 and up
  Duration start_timeout = 30s;            // for a start, without unpacking or pulling its image
  std::string publish_host;                // the address told to other hosts; "" = sandboxes are not published
  std::uint16_t publish_port_first = 30'000;
  std::uint16_t publish_port_last = 32'767;
  CniOptions cni;
  ImageOptions images;
  Duration logs_kept = 60s;                // after a sandbox's end
  Duration adopt_time{};                   // how long sandboxes outlive a killed worker, for the next one; 0 = not at all
};

}  // namespace dirigent::sandbox
