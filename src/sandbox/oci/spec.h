// SPDX-License-Identifier: MIT
//
// The OCI configuration of a container: everything that confines it, in one place for crun, runc and containerd.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sandbox/process/cgroups.h"

namespace dirigent::sandbox {

struct ContainerSpec {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // "NAME=value"
  std::string working_directory;
  std::string hostname;
  std::uint32_t uid = 0;                 // as the function sees itself
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;
  std::uint32_t id_base = 0;             // first of kIdsOfSandbox of the host's for its user namespace; 0 = none of its own
  std::string root;                      // path of the root file system
  bool root_writable = false;
  std::uint64_t tmp_bytes = 0;           // size of /tmp
  std::string network_namespace;         // path
  std::string cgroup;                    // "/dirigent/node/name"; "" = whoever starts it has joined its cgroups
  CgroupLimits limits;                   // written into the configuration when `cgroup` is
  std::map<std::string, std::string> secrets;  // name and content: files of /run/secrets
  std::string secrets_directory;         // where they are on the host, to be mounted; "" = no secrets
  std::string shim_group;                // containerd: containers of one group share a shim; "" = a shim each
};

// Ids of the host that a sandbox with a user namespace has for itself. It sees them as 0 and up; the last ones stand for ids
// of its own that lie higher, and for 65534.
inline constexpr std::uint32_t kIdsOfSandbox = 4096;

// What the host calls an id of the sandbox.
std::uint32_t host_uid(const ContainerSpec& spec);
std::uint32_t host_gid(const ContainerSpec& spec);

// The bytes of config.json.
std::string make_config(const ContainerSpec& spec);

}  // namespace dirigent::sandbox
