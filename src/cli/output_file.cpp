// SPDX-License-Identifier: MIT
#include "cli/output_file.h"

#include <fstream>

namespace dirigent::cli {

Status write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) return failure(ErrorCode::unavailable, "cannot write {} (is the folder there, and may you write in it?)", path);
  return {};
}

}  // namespace dirigent::cli
