// SPDX-License-Identifier: MIT
#include "containers.h"

#include <unistd.h>

#include "containerd_daemon.h"
#include "dirigent/sandbox/containerd_runtime.h"
#include "dirigent/sandbox/oci_runtime.h"
#include "image_builder.h"
#include "sandbox/oci/oci_engine.h"

namespace dirigent::sandbox::test {

namespace {

// Of this program: removed when it ends.
const TemporaryDirectory& directory() {
  static const TemporaryDirectory made;
  return made;
}

}  // namespace

ContainerOptions container_options(const std::string& node) {
  ContainerOptions options;
  options.node = NodeId{node + "-" + std::to_string(::getpid())};
  options.host_id = "tested-host";
  options.run_directory = directory().path + "/run";
  options.networks = 2;
  options.images.directory = directory().path + "/images";
  return options;
}

std::unique_ptr<Runtime> make_container_runtime(const std::string& name, Harness& harness, const std::string& node,
                                                const std::function<void(ContainerOptions&)>& change) {
  if (name.starts_with("oci with ")) {
    OciRuntimeOptions options;
    static_cast<ContainerOptions&>(options) = container_options(node);
    options.program = name.substr(9);
    if (change) change(options);
    return make_oci_runtime(harness.loop, options);
  }
  if (name.starts_with("containerd with ")) {
    ContainerdRuntimeOptions options;
    static_cast<ContainerOptions&>(options) = container_options(node);
    options.address = ContainerdDaemon::get().address();
    options.program = find_in_path(name.substr(16));
    if (change) change(options);
    return make_containerd_runtime(harness.loop, options);
  }
  return nullptr;
}

bool can_run_containers(const std::string& name) {
  if (name.find(" with ") == std::string::npos) return true;
  if (!is_root()) {
    WARN("skipped: " << name << " needs root");
    return false;
  }
  const std::string program = name.substr(name.rfind(' ') + 1);
  for (const auto& needed : {program, name.starts_with("containerd") ? std::string("containerd") : program}) {
    if (!find_in_path(needed).empty()) continue;
    WARN("skipped: " << name << " needs " << needed);
    return false;
  }
  if (name == "containerd with crun") {
    static const bool allowed = ContainerdDaemon::get().allow_crun();
    if (!allowed) {
      WARN("skipped: crun takes no version 2 hierarchy with controllers next to those of version 1");
      return false;
    }
  }
  return true;
}

std::string probe_container_image() {
  static const std::string path = probe_test_image().oci_archive().write(directory(), "probe.tar");
  return "tar:" + path;
}

}  // namespace dirigent::sandbox::test
