// SPDX-License-Identifier: MIT
#include "dirigent/roles/runtime_choice.h"

#include "dirigent/sandbox/process_runtime.h"
#include "dirigent/sandbox/simulated_runtime.h"

namespace dirigent::roles {

Result<std::unique_ptr<sandbox::Runtime>> make_runtime(io::Loop& loop, const RuntimeChoice& choice, const NodeId& node,
                                                       const std::string& host_id) {
  if (choice.kind == "process") {
    sandbox::ProcessRuntimeOptions options;
    options.node = node;
    options.host_id = host_id;
    options.parked = choice.parked;
    options.publish_host = choice.publish_host;
    options.publish_port_first = choice.publish_port_first;
    options.publish_port_last = choice.publish_port_last;
    return sandbox::make_process_runtime(loop, std::move(options));
  }
  if (choice.kind == "simulated") {
    sandbox::SimulatedRuntimeOptions options;
    options.host_id = host_id;
    options.start_time = sandbox::LognormalTime{choice.simulated_start_p50, choice.simulated_start_p99};
    options.seed = choice.seed;
    options.publish_host = choice.publish_host;
    return sandbox::make_simulated_runtime(loop, std::move(options));
  }
  return failure(ErrorCode::invalid_argument, "unknown runtime \"{}\": use process or simulated", choice.kind);
}

}  // namespace dirigent::roles
