// SPDX-License-Identifier: MIT
//
// The oci runtime: containers from images, made by crun or runc, which the worker runs itself. No daemon. Needs root.
// How and at what cost: docs/runtimes.md.
#pragma once

#include <memory>
#include <string>

#include "dirigent/io/loop.h"
#include "dirigent/sandbox/container_options.h"
#include "dirigent/sandbox/runtime.h"

namespace dirigent::sandbox {

struct OciRuntimeOptions : ContainerOptions {
  std::string program;  // path or name of crun or runc; "" = crun, or runc where there is no crun
};

// The loop must outlive the runtime; the runtime must be closed (or never opened) before it is destroyed.
std::unique_ptr<Runtime> make_oci_runtime(io::Loop& loop, OciRuntimeOptions options);

}  // namespace dirigent::sandbox
