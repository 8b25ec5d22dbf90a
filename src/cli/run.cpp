// SPDX-License-Identifier: MIT
#include "dirigent/cli/run.h"

#include <algorithm>

#include "cli/config_command.h"
#include "cli/ctl/ctl.h"
#include "cli/role_runner.h"
#include "cli/settings.h"
#include "cli/version.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

struct Role {
  std::string_view name;
  std::string_view summary;
};
constexpr Role kRoles[] = {
    {"dev", "control, data and worker in one process: the quickest way to try it"},
    {"control", "the control plane: functions, scaling, placement"},
    {"data", "a data plane: takes invocations and forwards them to sandboxes"},
    {"worker", "a worker: starts and stops sandboxes on this machine"},
};

std::string help(const Commands& commands) {
  std::string text = "usage: dirigent COMMAND [FLAGS]\n\n";
  std::vector<std::vector<std::string>> rows;
  for (const Role& role : kRoles) rows.push_back({"  " + std::string(role.name), std::string(role.summary)});
  rows.push_back({"  ctl", "talk to a control plane: deploy, list, invoke, ..."});
  rows.push_back({"  config", "show or validate settings"});
  for (const auto& command : commands.extra) {
    if (!command.summary.empty()) rows.push_back({"  " + command.name, command.summary});
  }
  return text + format_table(rows) +
         "\n      --version   version, commit, build type, runtimes\nhelp on a command: dirigent COMMAND --help\n";
}

std::string role_help(const Role& role) {
  return fmt::format(
      "usage: dirigent {} [FLAGS]\n{}\n\nEvery flag is also a key of the file (--config FILE, section [{}]) and a "
      "variable "
      "(DIRIGENT_{}_KEY).\n\nflags:\n{}",
      role.name, role.summary, role.name,
      [&] {
        std::string upper(role.name);
        std::transform(upper.begin(), upper.end(), upper.begin(),
                       [](char c) { return static_cast<char>(c - 'a' + 'A'); });
        return upper;
      }(),
      describe_flags(flags_of(role.name)));
}

template <class Options>
int start_role(std::string_view name, const Settings& settings, Result<Options> (*make)(const Settings&),
               const Starter<Options>& starter, Terminal& terminal) {
  auto options = make(settings);
  if (!options) {
    terminal.error(options.error().message);
    return 1;
  }
  if (!starter) {
    terminal.error(fmt::format("this build does not contain the {} role", name));
    return 1;
  }
  const Options chosen = std::move(*options);
  return run_role(name, chosen.process, [&](io::Loop& loop) { return starter(loop, chosen); }, terminal);
}

int run_named_role(const Role& role, const std::vector<std::string>& words, const Commands& commands,
                   Terminal terminal) {
  auto flags = parse_arguments(words, flags_of(role.name), 0);
  if (!flags) {
    const std::string hints[] = {fmt::format("see:  dirigent {} --help", role.name)};
    terminal.error(flags.error().message, hints);
    return 2;
  }
  if (flags->has("help")) {
    terminal.write(role_help(role));
    return 0;
  }
  auto settings = load_settings(role.name, *flags, process_environment());
  if (!settings) {
    terminal.error(settings.error().message);
    return 1;
  }
  if (role.name == "control")
    return start_role<ControlOptions>(role.name, *settings, control_options, commands.control, terminal);
  if (role.name == "data") return start_role<DataOptions>(role.name, *settings, data_options, commands.data, terminal);
  if (role.name == "worker")
    return start_role<WorkerOptions>(role.name, *settings, worker_options, commands.worker, terminal);
  return start_role<DevOptions>(role.name, *settings, dev_options, commands.dev, terminal);
}

// dirigent __complete INDEX WORD...
int run_completion(const std::vector<std::string>& words, Terminal& terminal) {
  const auto current = words.empty() ? std::nullopt : parse_integer(words[0]);
  if (!current || *current < 0 || *current > 10'000) return 2;
  terminal.write(complete({words.begin() + 1, words.end()}, static_cast<std::size_t>(*current)));
  return 0;
}

int unknown_command(const std::string& word, const Commands& commands, Terminal& terminal) {
  std::vector<std::string> names{"ctl", "config"};
  for (const Role& role : kRoles) names.emplace_back(role.name);
  for (const auto& command : commands.extra) {
    if (!command.summary.empty()) names.push_back(command.name);
  }
  const auto near = did_you_mean(word, names);
  const std::string hints[] = {near ? fmt::format("did you mean \"{}\"?", *near) : "list them:  dirigent --help"};
  terminal.error(fmt::format("unknown command \"{}\"", word), hints);
  return 2;
}

}  // namespace

int run(std::vector<std::string> arguments, const Commands& commands) {
  Terminal terminal = Terminal::of_process();
  if (arguments.empty()) {
    terminal.say(help(commands));
    return 2;
  }
  const std::string command = arguments.front();
  arguments.erase(arguments.begin());
  if (command == "--help" || command == "-h" || command == "help") {
    terminal.write(help(commands));
    return 0;
  }
  if (command == "--version" || command == "version") {
    terminal.write(version_line());
    return 0;
  }
  for (const Role& role : kRoles) {
    if (role.name == command) return run_named_role(role, arguments, commands, std::move(terminal));
  }
  if (command == "ctl") return run_ctl(arguments, std::move(terminal));
  if (command == "config") return run_config(arguments, std::move(terminal), process_environment());
  if (command == "__complete") return run_completion(arguments, terminal);
  for (const auto& extra : commands.extra) {
    if (extra.name == command) return extra.run(std::move(arguments));
  }
  return unknown_command(command, commands, terminal);
}

}  // namespace dirigent::cli
