// SPDX-License-Identifier: MIT
//
// How a process has ended that is no child of this one.
#pragma once

#include <cstdint>
#include <optional>

#include "sandbox/oci/engine.h"

namespace dirigent::sandbox {

// Of an ended process by a descriptor that was opened while it lived: the kernel keeps it there from 6.15 on, once the
// process has been waited for by its parent. Before that, and in older kernels, it can be read for as long as nobody
// has waited. Blocks, for at most half a second. Nothing: nobody knows any more.
std::optional<ExitStatus> exit_status_of(int pidfd, std::uint32_t pid);

// From what wait() tells.
ExitStatus exit_status_from(int status);

}  // namespace dirigent::sandbox
