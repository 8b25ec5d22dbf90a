// SPDX-License-Identifier: MIT
#include "cli/config_command.h"

#include <algorithm>

#include "cli/ctl/deploy_body.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

std::string config_path(const Arguments& flags, const Environment& environment) {
  if (const auto path = flags.value("config")) return *path;
  const auto variable = environment.find("DIRIGENT_CONFIG");
  return variable == environment.end() ? std::string() : variable->second;
}

std::string shown_value(const Setting& setting, const Value& value) {
  if (!setting.is_list) return config_value(value.texts.empty() ? std::string() : value.texts.front());
  std::string text = "[";
  for (std::size_t i = 0; i < value.texts.size(); ++i) text += (i == 0 ? "" : ", ") + config_value(value.texts[i]);
  return text + "]";
}

const std::vector<Flag>& config_flags() {
  static const std::vector<Flag> flags{{"config", 'c', "FILE", "the configuration file (DIRIGENT_CONFIG)"},
                                       {"effective", 0, "", "also what has its default value"},
                                       {"help", 'h', "", "show this help"}};
  return flags;
}

std::string help() {
  return "usage: dirigent config show [ROLE] [FLAGS]   print settings, each with where its value comes from\n"
         "       dirigent config validate [FLAGS]      check the file and the environment for every role\n\nflags:\n" +
         describe_flags(config_flags());
}

// The output is a configuration file again.
int show(const std::vector<std::string>& sections, const Arguments& flags, Terminal& terminal,
         const Environment& environment) {
  int status = 0;
  for (const auto& section : sections) {
    auto merged = load_settings(section, flags, environment);
    if (!merged) {
      terminal.error(merged.error().message);
      return 1;
    }
    std::vector<std::vector<std::string>> rows;
    for (const Setting& setting : settings_of(section)) {
      const Value& value = (*merged)[setting.key];
      if (value.origin == "default" && !flags.is_on("effective")) continue;
      rows.push_back(
          {fmt::format("{} = {}", setting.key, shown_value(setting, value)), fmt::format("# {}", value.origin)});
    }
    if (auto checked = check_options(*merged); !checked) {
      terminal.error(checked.error().message);
      status = 1;
    }
    if (!rows.empty()) terminal.print("[{}]\n{}\n", section, format_table(rows));
  }
  return status;
}

int validate(const Arguments& flags, Terminal& terminal, const Environment& environment) {
  for (const auto& section : role_names()) {
    auto merged = load_settings(section, flags, environment);
    const Status checked = merged ? check_options(*merged) : Status(failure(merged.error()));
    if (checked) continue;
    terminal.error(checked.error().message);
    return 1;
  }
  const std::string path = config_path(flags, environment);
  terminal.print("{}: valid\n", path.empty() ? "defaults and environment" : path);
  return 0;
}

}  // namespace

Result<Settings> load_settings(std::string_view section, const Arguments& flags, const Environment& environment) {
  const std::string path = config_path(flags, environment);
  std::string text;
  if (!path.empty()) {
    auto read = read_whole_file(path);
    if (!read) return failure(read.error());
    text = std::move(*read);
  }
  return Settings::merge(section, text, path, environment, flags);
}

int run_config(const std::vector<std::string>& words, Terminal terminal, const Environment& environment) {
  auto arguments = parse_arguments(words, config_flags(), 2);
  const std::string hints[] = {"see:  dirigent config --help"};
  if (!arguments) {
    terminal.error(arguments.error().message, hints);
    return 2;
  }
  if (arguments->has("help")) {
    terminal.write(help());
    return 0;
  }
  const auto& given = arguments->words();
  if (given == std::vector<std::string>{"validate"}) return validate(*arguments, terminal, environment);
  if (!given.empty() && given[0] == "show") {
    if (given.size() == 1) return show(role_names(), *arguments, terminal, environment);
    const auto& roles = role_names();
    if (std::find(roles.begin(), roles.end(), given[1]) != roles.end())
      return show({given[1]}, *arguments, terminal, environment);
    terminal.error(fmt::format("unknown role \"{}\"{}", given[1], did_you_mean_suffix(given[1], roles)), hints);
    return 2;
  }
  const std::vector<std::string> verbs{"show", "validate"};
  terminal.error(given.empty() ? "config needs show or validate"
                               : fmt::format("unknown word \"{}\"{}", given[0], did_you_mean_suffix(given[0], verbs)),
                 hints);
  return 2;
}

}  // namespace dirigent::cli
