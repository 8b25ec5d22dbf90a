// SPDX-License-Identifier: MIT
//
// Which process holds a TCP port or has called a Unix listener its own: for error messages, best effort.
#pragma once

#include <cstdint>
#include <string>

namespace dirigent::io {

// "process 4711 (nginx)", or "another process" when that cannot be told (other users' processes, without root).
std::string describe_port_holder(std::uint16_t port);
std::string describe_process(int pid);

}  // namespace dirigent::io
