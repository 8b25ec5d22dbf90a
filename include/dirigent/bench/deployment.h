// SPDX-License-Identifier: MIT
//
// Functions that exist for the length of a run: registered before it, deleted after it. Blocking; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"

namespace dirigent::bench {

struct DeployOptions {
  std::string server;  // the control API, "127.0.0.1:9092": registers (unless `form` is set) and deletes
  std::string form;    // the registration port, "127.0.0.1:9091": registers as the Invitro loader does
  std::string image = "builtin:trace";
  bool is_sweep = false;  // must be gone before the next call: `window` and no more than one sandbox
  Duration window = 6s;
  std::vector<std::pair<std::string, std::string>> fields;  // further fields of the registration, as text
  bool verify = false;                                      // start each once before it counts as deployed
  unsigned parallel = 64;
  Duration timeout = 60s;  // of each registration
};

struct NewFunction {
  std::string name;
  std::int64_t memory_mib = 128;
};

// The endpoints of each function, "127.0.0.1:8080;127.0.0.1:8081". What was registered before a failure is deleted
// again. Errors: unavailable (no control plane there), and whatever it answers, with the function's name.
Result<std::vector<std::string>> deploy(const DeployOptions& options, const std::vector<NewFunction>& functions);

// Deletes all of them; a function that is not there any more is none to complain about. The first error, after all were
// tried.
Status remove(const DeployOptions& options, const std::vector<NewFunction>& functions);

// One call to each until the data plane knows it (it answers something else than 404) and it has answered, within
// `patience`: a run must not count how long a registration takes to travel. `endpoints` as deploy() gives them.
Status wait_until_served(const std::vector<NewFunction>& functions, const std::vector<std::string>& endpoints,
                         Duration patience);

}  // namespace dirigent::bench
