// SPDX-License-Identifier: MIT
//
// The command line as a function: main() says how roles are started and which commands there are besides, this decides
// what the words mean, runs it and gives the exit status (docs/operations.md). One call per process.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigent/cli/options.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"

namespace dirigent::cli {

// A role that has been started. Destroyed after stop() has ended.
class RunningRole {
 public:
  virtual ~RunningRole() = default;
  // Every real address with its name ("invoke", "rpc", "form", "admin"), in the order to print.
  [[nodiscard]] virtual std::vector<std::pair<std::string, std::string>> addresses() const = 0;
  // Further lines for people at the start: (label, text), for example ("capacity", "2 cpu, 7.6 GiB on node laptop").
  [[nodiscard]] virtual std::vector<std::pair<std::string, std::string>> notes() const { return {}; }
  // Stops accepting, drains for at most `drain`, ends everything.
  virtual io::Action stop(Duration drain) = 0;
};

template <class Options>
using Starter = std::function<io::Task<std::unique_ptr<RunningRole>>(io::Loop&, Options)>;

// A command beside the roles: "bench", "sim", or one for internal use.
struct ExtraCommand {
  std::string name;
  std::string summary;  // one line for --help; "" hides the command
  std::function<int(std::vector<std::string> arguments)> run;
};

struct Commands {
  Starter<ControlOptions> control;
  Starter<DataOptions> data;
  Starter<WorkerOptions> worker;
  Starter<DevOptions> dev;
  std::vector<ExtraCommand> extra;
};

// `arguments` without the program's name.
int run(std::vector<std::string> arguments, const Commands& commands);

}  // namespace dirigent::cli
