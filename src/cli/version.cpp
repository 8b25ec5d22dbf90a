// SPDX-License-Identifier: MIT
#include "cli/version.h"

#include "cli/settings.h"
#include "version_data.h"

namespace dirigent::cli {

std::string version_number() { return DIRIGENT_VERSION; }

std::string version_line() {
  std::string runtimes;
  for (const auto& name : runtime_names()) runtimes += " " + name;
  return fmt::format("dirigent {} ({}, {})  runtimes:{}\n", DIRIGENT_VERSION, DIRIGENT_COMMIT, DIRIGENT_BUILD_TYPE, runtimes);
}

}  // namespace dirigent::cli
