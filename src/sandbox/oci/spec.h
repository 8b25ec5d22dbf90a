// SPDX-License-Identifier: MIT
//
// The OCI configuration of a container: everything that confines it, in one place for crun, runc and containerd.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sandbox/process/cgroups.h"

namespace dirigent::sandbox {

struct ContainerSpec {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // "NAME=value"
  std::string working_directory;
  std::string hostname;
  std::uint32_t uid = 0;                 // and gid: of its own, whatever user the image names
  std::string root;                      // path of the root file system
  bool root_writable = false;
  std::uint64_t tmp_bytes = 0;           // size of /tmp
  std::string network_namespace;         // path
  std::string cgroup;                    // "/dirigent/node/name"; "" = whoever starts it has joined its cgroups
  CgroupLimits limits;                   // written into the configuration when `cgroup` is
  std::string shim_group;                // containerd: containers of one group share a shim; "" = a shim each
};

// The bytes of config.json.
std::string make_config(const ContainerSpec& spec);

}  // namespace dirigent::sandbox
