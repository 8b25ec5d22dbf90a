// SPDX-License-Identifier: MIT
//
// What makes containers out of prepared parts: crun or runc run directly, or containerd. ContainerRuntime does the rest
// and is the same for all of them. Methods are called on the loop.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/io/file_descriptor.h"
#include "dirigent/io/task.h"
#include "sandbox/images/store.h"
#include "sandbox/oci/spec.h"
#include "sandbox/process/cgroups.h"

namespace dirigent::sandbox {

struct ContainerOrder {
  std::string name;    // unique on the host; also of its cgroups
  ContainerSpec spec;  // all but what the engine decides: root, cgroup, shim group
  ImageLease image;    // none: the builtin functions' own root
};

// A container whose process runs.
struct RunningContainer {
  std::uint32_t pid = 0;          // of its first process
  io::FileDescriptor pidfd;
  io::FileDescriptor output[2];   // reading ends of stdout and stderr, not blocking
};

// A container of an earlier life of the node, which goes on.
struct KeptContainer {
  std::string name;
  std::uint32_t pid = 0;
};

struct ExitStatus {
  int code = 0;
  int signal = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // "oci", "containerd".
  [[nodiscard]] virtual std::string_view name() const = 0;
  // What engines must have in common to go on with each other's containers.
  [[nodiscard]] virtual std::string identity() const = 0;
  // Directories in which it may have mounted something on the host, for the guard to remove when the worker was killed and no other comes.
  [[nodiscard]] virtual std::vector<std::string> host_mounts() const { return {}; }
  // Brings it up and removes what an earlier life of the node left, but `kept`, which are as if this engine had started
  // them. The cgroups outlive the engine.
  virtual io::Task<void> open(const Cgroups& cgroups, std::vector<KeptContainer> kept) = 0;
  // Never cancelled. On failure nothing of the container is left. not_found: its program is not in the image.
  virtual io::Task<RunningContainer> start(ContainerOrder order) = 0;
  // Called once for each started container, when its process has ended: how it ended. Removes what the engine has of it.
  virtual io::Task<ExitStatus> finish(std::string name, std::uint32_t pid) = 0;
  // After the last finish().
  virtual io::Task<void> close() = 0;
  // Added to the runtime's.
  [[nodiscard]] virtual std::vector<std::string> weaknesses() const = 0;
};

}  // namespace dirigent::sandbox
