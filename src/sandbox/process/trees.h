// SPDX-License-Identifier: MIT
//
// The files of the host that an image needs, as descriptors of detached mounts: a cell has no other way to them.
#pragma once

#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox {

// What belongs to `order`, in the order in which the cell expects it; sets `has_host_tree`. Blocks (directories may have
// to be read from a disk). not_found when a directory is not there.
Result<std::vector<io::FileDescriptor>> open_trees(wire::Order& order);

}  // namespace dirigent::sandbox
