// SPDX-License-Identifier: MIT
//
// The containerd runtime: containers from images, made by a containerd of this host through its API. Needs root and
// containerd 1.6 or newer. How and at what cost: docs/runtimes.md.
#pragma once

#include <memory>
#include <string>

#include "dirigent/io/loop.h"
#include "dirigent/sandbox/container_options.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::sandbox {

struct ContainerdRuntimeOptions : ContainerOptions {
  std::string address = "/run/containerd/containerd.sock";
  std::string program;       // path or name of crun or runc, as containerd's shim finds it; "" = containerd's default
  bool shared_shim = false;  // one shim for all containers: 13 MB and 10 ms less for each, and one failure for all
};

// The loop must outlive the runtime; the runtime must be closed (or never opened) before it is destroyed.
std::unique_ptr<Runtime> make_containerd_runtime(io::Loop& loop, ContainerdRuntimeOptions options);

}  // namespace dirigent::sandbox
