// SPDX-License-Identifier: MIT
//
// Where a worker keeps images and how it gets them. The same for every runtime.
#pragma once

#include <string>
#include <vector>

#include "dirigent/base/units.h"

namespace dirigent::sandbox {

enum class PullPolicy {
  never,    // only what is in the store
  missing,  // ask the registry for what is not
  always,   // ask the registry what the tag stands for now, at each first use of a deployed revision's image
};

struct ImageOptions {
  std::string directory = "/var/lib/dirigent/images";  // made when first needed
  Bytes bytes_max = 10_GiB;                            // unused layers beyond it are removed
  PullPolicy pull = PullPolicy::missing;
  std::string auth_file = "/etc/dirigent/auth.json";   // credentials as Docker keeps them; need not be there
  std::vector<std::string> insecure_registries;        // host[:port]: plain HTTP. Those on loopback are, always
  Bytes image_bytes_max = 4_GiB;                       // of one layer, unpacked
};

}  // namespace dirigent::sandbox
