// SPDX-License-Identifier: MIT
//
// Network namespaces without a process: what a container runtime is given by path. The kernel removes one, with its
// link, when the last descriptor and process of it are gone, so a killed worker leaves none.
#pragma once

#include "dirigent/io/file_descriptor.h"
#include "sandbox/network/cni.h"
#include "sandbox/network/network.h"

namespace dirigent::sandbox {

struct NetworkPlace {
  io::FileDescriptor network_namespace;
  std::uint32_t number =
      0;                // within the worker's range: of the sandbox's ids, and of its address unless CNI gives it one
  std::string address;  // dotted
  std::string attachment;  // by CNI; "" = a link of the worker's own

  // Where another process finds it, as long as this one lives and keeps the descriptor.
  [[nodiscard]] std::string path() const;
};

// A namespace with lo and one link, addressed, routed and up. Blocks (1 to 2 ms); the calling thread is in the new
// namespace for a moment, so it must be one that nobody else uses meanwhile: a helper thread.
Result<NetworkPlace> make_network_place(Network& network, std::uint32_t serial, std::uint32_t number);
// The same with what CNI plugins make. Blocks (10 ms and more for each plugin).
Result<NetworkPlace> make_cni_place(CniNetwork& cni, std::uint32_t number);

}  // namespace dirigent::sandbox
