// SPDX-License-Identifier: MIT
//
// One image in one registry (the distribution API, version 2): manifests and blobs, with Docker's credentials.
#pragma once

#include <functional>
#include <string>

#include "dirigent/sandbox/image_options.h"
#include "sandbox/images/manifest.h"
#include "sandbox/images/reference.h"

namespace dirigent::sandbox {

class Registry {
 public:
  Registry(const ImageOptions& options, ImageReference reference);

  // The manifest of a tag or digest, its digest checked. Blocks. not_found: the registry has no such image;
  // permission_denied: it wants credentials, or others; unavailable: it cannot be reached.
  struct Document {
    std::string digest;
    std::string text;
  };
  Result<Document> manifest(const std::string& tag_or_digest);
  // Writes the blob's bytes to `out`. Whoever calls checks the digest.
  Status blob(const std::string& digest, const std::function<bool(std::string_view)>& out);

 private:
  Status get(const std::string& path, const std::string& accept, const std::function<bool(std::string_view)>& out);
  Status authenticate(const std::string& challenge);
  Result<std::string> credentials() const;

  const ImageOptions& options_;
  ImageReference reference_;
  std::string base_;           // "https://host"
  std::string authorization_;  // header; "" = none
};

}  // namespace dirigent::sandbox
