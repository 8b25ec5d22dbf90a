// SPDX-License-Identifier: MIT
//
// From an order to what its cell does: the root, the command, the environment. Looks at files, so it runs on a helper
// thread for everything but builtin images.
#pragma once

#include <string>

#include "dirigent/model/messages.h"
#include "sandbox/cell/wire.h"
#include "sandbox/images/store.h"

namespace dirigent::sandbox {

struct ImageSettings {
  std::string node;
  std::shared_ptr<ImageStore> store;  // for tar: images and references
  Bytes tmp_max;
};

struct PreparedOrder {
  wire::Order wire;
  ImageLease image;  // keeps the layers as long as the sandbox lives; none for images without layers
};

// The errors: not_found = the image is not there; invalid_argument; whatever unpacking or pulling gives.
Result<PreparedOrder> make_order(const StartSandbox& order, std::uint16_t port, const ImageSettings& settings);

// What every runtime tells a function: the image's and the user's variables, then the facts, which nobody can choose.
std::vector<std::string> make_environment(const StartSandbox& order, std::uint16_t port,
                                          const std::vector<std::string>& of_image);
// Entry point and arguments as Docker joins them: the user's arguments stand in for the image's command.
std::vector<std::string> make_command(const ImageConfig& config, const std::vector<std::string>& arguments);

}  // namespace dirigent::sandbox
