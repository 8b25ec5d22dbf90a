// SPDX-License-Identifier: MIT
//
// From an order to what its cell does: the root, the command, the environment. Looks at files, so it runs on a helper
// thread for everything but builtin images.
#pragma once

#include <string>

#include "dirigent/model/messages.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox {

struct ImageSettings {
  std::string node;
  std::string cache;  // for tar: images
  Bytes tmp_max;
};

// The errors: not_found = the image is not there; invalid_argument; whatever reading a tar file gives.
Result<wire::Order> make_order(const StartSandbox& order, std::uint16_t port, const ImageSettings& settings);

// Unpacks a plain tar file below `cache` unless it is there already; returns the directory. Concurrent calls are
// fine. Nothing outside the directory can be written, whatever the archive says; device nodes and ".." are refused.
Result<std::string> unpack_tar(const std::string& file, const std::string& cache);

}  // namespace dirigent::sandbox
