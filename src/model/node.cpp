// SPDX-License-Identifier: MIT
#include "dirigent/model/node.h"

#include <vector>

#include "dirigent/base/text.h"

namespace dirigent {

namespace {
const std::vector<std::string> kUses{"open", "cordoned", "drained"};
}  // namespace

std::string_view to_string(NodeUse use) { return kUses[static_cast<std::size_t>(use)]; }

Result<NodeUse> parse_node_use(std::string_view word) {
  for (std::size_t i = 0; i < kUses.size(); ++i) {
    if (kUses[i] == word) return static_cast<NodeUse>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown use of a node \"{}\"{}", word, did_you_mean_suffix(word, kUses));
}

}  // namespace dirigent
