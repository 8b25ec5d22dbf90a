// SPDX-License-Identifier: MIT
//
// Names of images in registries, as Docker writes them: [REGISTRY/]REPOSITORY[:TAG][@DIGEST].
#pragma once

#include <string>
#include <string_view>

#include "dirigent/base/result.h"

namespace dirigent::sandbox {

struct ImageReference {
  std::string registry;    // "docker.io", "localhost:5000"
  std::string repository;  // "library/debian"
  std::string tag;         // "latest" when neither tag nor digest was given
  std::string digest;      // "" = whatever the tag stands for

  // Written in full: two spellings of one image give the same.
  [[nodiscard]] std::string full() const;
};

// invalid_argument says which part is wrong.
Result<ImageReference> parse_reference(std::string_view text);

}  // namespace dirigent::sandbox
