// SPDX-License-Identifier: MIT
//
// What single sandboxes have on the host below the engine's directory, where containerd's shims find it too: a small tmpfs for
// secrets and for what may be changed below a writable root. Made only for those that need it. Everything blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::sandbox {

class OwnMounts {
 public:
  explicit OwnMounts(const std::string& directory) : directory_(directory + "/own") {}

  // A tmpfs for `name`, with `bytes` for changes (0 = the root cannot be written).
  Status make(const std::string& name, std::uint64_t bytes) const;
  void remove(const std::string& name) const;
  // All but those of `kept`.
  void remove_all(const std::vector<std::string>& kept) const;

  [[nodiscard]] std::string secrets(const std::string& name) const { return directory_ + "/" + name + "/secrets"; }
  // Options of an overlay with the changes on top.
  [[nodiscard]] std::vector<std::string> overlay_options(const std::string& name) const;
  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

}  // namespace dirigent::sandbox
