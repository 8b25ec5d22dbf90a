// SPDX-License-Identifier: MIT
#include "dirigent/roles/runtime_choice.h"

#include <algorithm>

#include "dirigent/sandbox/containerd_runtime.h"
#include "dirigent/sandbox/oci_runtime.h"
#include "dirigent/sandbox/process_runtime.h"
#include "dirigent/sandbox/simulated_runtime.h"

namespace dirigent::roles {

namespace {

sandbox::ContainerOptions container_options(const RuntimeChoice& choice, const NodeId& node, const std::string& host_id) {
  sandbox::ContainerOptions options;
  options.node = node;
  options.host_id = host_id;
  options.networks = choice.parked;
  options.root_writable = choice.root_writable;
  options.user_namespaces = choice.user_namespaces;
  options.cni = choice.cni;
  options.images = choice.images;
  options.publish_host = choice.publish_host;
  options.publish_port_first = choice.publish_port_first;
  options.publish_port_last = choice.publish_port_last;
  options.adopt_time = choice.adopt_time;
  return options;
}

}  // namespace

std::uint32_t parked_by_default(Millicpu cpu) { return static_cast<std::uint32_t>(std::clamp<std::int64_t>(cpu.value / 1'000, 32, 256)); }

Result<std::unique_ptr<sandbox::Runtime>> make_runtime(io::Loop& loop, const RuntimeChoice& choice, const NodeId& node,
                                                       const std::string& host_id) {
  if (!choice.cni.configuration.empty() && choice.kind != "oci" && choice.kind != "containerd")
    return failure(ErrorCode::invalid_argument,
                   "the runtime {} makes its networks itself: leave out cni_conf, or use oci or containerd",
                   choice.kind);
  if (choice.kind == "process") {
    sandbox::ProcessRuntimeOptions options;
    options.node = node;
    options.host_id = host_id;
    options.parked = choice.parked;
    options.images = choice.images;
    options.publish_host = choice.publish_host;
    options.publish_port_first = choice.publish_port_first;
    options.publish_port_last = choice.publish_port_last;
    options.adopt_time = choice.adopt_time;
    return sandbox::make_process_runtime(loop, std::move(options));
  }
  if (choice.kind == "oci") {
    sandbox::OciRuntimeOptions options;
    static_cast<sandbox::ContainerOptions&>(options) = container_options(choice, node, host_id);
    options.program = choice.oci_program;
    return sandbox::make_oci_runtime(loop, std::move(options));
  }
  if (choice.kind == "containerd") {
    sandbox::ContainerdRuntimeOptions options;
    static_cast<sandbox::ContainerOptions&>(options) = container_options(choice, node, host_id);
    options.program = choice.oci_program;
    options.address = choice.containerd_address;
    options.shared_shim = choice.shared_shim;
    return sandbox::make_containerd_runtime(loop, std::move(options));
  }
  if (choice.kind == "simulated") {
    sandbox::SimulatedRuntimeOptions options;
    options.host_id = host_id;
    options.start_time = sandbox::LognormalTime{choice.simulated_start_p50, choice.simulated_start_p99};
    options.seed = choice.seed;
    options.publish_host = choice.publish_host;
    return sandbox::make_simulated_runtime(loop, std::move(options));
  }
  return failure(ErrorCode::invalid_argument, "unknown runtime \"{}\": use process, oci, containerd or simulated", choice.kind);
}

}  // namespace dirigent::roles
