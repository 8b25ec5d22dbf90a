// SPDX-License-Identifier: MIT
//
// Which runtime a worker starts sandboxes with, as its settings say.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/base/units.h"
#include "dirigent/io/loop.h"
#include "dirigent/model/ids.h"
#include "dirigent/sandbox/image_options.h"
#include "dirigent/sandbox/container_options.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::roles {

struct RuntimeChoice {
  std::string kind = "process";        // or "oci", "containerd", "simulated"
  std::uint32_t parked = 32;           // process: sandboxes prepared and idle; oci, containerd: networks
  sandbox::ImageOptions images;        // all but simulated
  bool root_writable = false;          // oci, containerd
  bool user_namespaces = false;        // oci, containerd
  std::string oci_program;             // oci, containerd: path or name of crun or runc; "" = the runtime's choice
  std::string containerd_address = "/run/containerd/containerd.sock";
  bool shared_shim = false;            // containerd
  sandbox::CniOptions cni;             // oci, containerd
  std::string publish_host;            // all but simulated: address under which other hosts reach the sandboxes; "" = this host only
  std::uint16_t publish_port_first = 30'000;
  std::uint16_t publish_port_last = 39'999;
  Duration adopt_time{};               // all but simulated: how long sandboxes outlive a killed worker; 0 = not at all
  Duration simulated_start_p50 = 3ms;  // simulated: lognormal start times
  Duration simulated_start_p99 = 12ms;
  std::uint64_t seed = 1;
};

// RuntimeChoice::parked when nobody says: one for each CPU that the node offers, 32 to 256. Who offers more is sent larger
// bursts, and makes a stock again sooner. A parked sandbox of the process runtime takes 0.3 MB.
std::uint32_t parked_by_default(Millicpu cpu);

// Unknown kind: invalid_argument.
Result<std::unique_ptr<sandbox::Runtime>> make_runtime(io::Loop& loop, const RuntimeChoice& choice, const NodeId& node,
                                                       const std::string& host_id);

}  // namespace dirigent::roles
