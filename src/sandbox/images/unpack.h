// SPDX-License-Identifier: MIT
//
// Unpacks one layer (or a whole root file system) from a tar stream into a directory, trusting nothing in it.
#pragma once

#include <cstdint>
#include <string>

#include "sandbox/images/byte_source.h"

namespace dirigent::sandbox {

struct UnpackLimits {
  std::uint64_t bytes_max = std::uint64_t{4} << 30;
  std::uint64_t entries_max = 100'000;
  std::size_t depth_max = 64;  // directories below each other
};

struct Unpacked {
  std::uint64_t bytes = 0;
  std::uint64_t entries = 0;
};

// `name` is the archive's, for errors; `root` a descriptor of an empty directory. The stream is read to its end.
//
// Nothing outside the directory can be written: names are resolved against it as their root, absolute names and ".." are
// refused, and no entry writes through an earlier one. Set-user-id bits, owners and extended attributes are dropped;
// device nodes and named pipes are left out. Whiteouts of lower layers become what overlay understands.
// exhausted: beyond a limit; invalid_argument: a refused entry; corrupt: no tar. What is there then is in part.
Result<Unpacked> unpack_layer(ByteSource& source, const std::string& name, int root, const UnpackLimits& limits);

}  // namespace dirigent::sandbox
