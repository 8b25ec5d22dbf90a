// SPDX-License-Identifier: MIT
//
// The runtimes with real containers, by name: "oci with crun", "oci with runc", "containerd with runc", "containerd with
// crun".
#pragma once

#include "dirigent/sandbox/container_options.h"
#include "harness.h"

namespace dirigent::sandbox::test {

// nullptr when the name is none of these. `change` may alter the options.
std::unique_ptr<Runtime> make_container_runtime(const std::string& name, Harness& harness, const std::string& node,
                                                const std::function<void(ContainerOptions&)>& change = {});
// False, with a line that says why, where the program or the right to use it is missing. True for other names.
bool can_run_containers(const std::string& name);
// The options of make_container_runtime before the change; the node is NODE-PID.
ContainerOptions container_options(const std::string& node);
// "tar:" and the path of the probe's image, made once.
std::string probe_container_image();

}  // namespace dirigent::sandbox::test
