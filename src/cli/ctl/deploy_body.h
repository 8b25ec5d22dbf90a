// SPDX-License-Identifier: MIT
//
// The flags of `ctl deploy` as the JSON body of a registration. A file given with -f comes first, flags replace its
// fields.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command_line.h"
#include "dirigent/base/result.h"

namespace dirigent::cli {

struct DeployBody {
  std::string name;  // from the word on the command line, else from the file
  std::string json;
  std::string image;
};
using ReadFile = std::function<Result<std::string>(const std::string& path)>;  // "-" is stdin

const std::vector<Flag>& deploy_flags();
Result<DeployBody> deploy_body(const Arguments& arguments, const ReadFile& read_file);

// The whole file; "-" is stdin. Errors name the file and the system's words.
Result<std::string> read_whole_file(const std::string& path);

}  // namespace dirigent::cli
