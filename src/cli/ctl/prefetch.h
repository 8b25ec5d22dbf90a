// SPDX-License-Identifier: MIT
//
// Getting an image to nodes ahead of time, for `ctl prefetch` and `ctl deploy --prefetch`.
#pragma once

#include <string>

#include "cli/ctl/verb.h"

namespace dirigent::cli {

// Has the nodes (with `node`, this one) get the image and waits until each has it or has failed. The exit status.
int prefetch_image(VerbContext& context, const std::string& image, const std::string& node, Duration patience);

}  // namespace dirigent::cli
