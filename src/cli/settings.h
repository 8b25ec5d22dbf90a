// SPDX-License-Identifier: MIT
//
// The settings of the roles: one table gives each its flag (--rpc-listen), its key in the configuration file
// ([control] rpc_listen), its environment variable (DIRIGENT_CONTROL_RPC_LISTEN) and its default. Later sources win:
// default, file, environment, flag. Every value remembers where it comes from, for `config show` and for error
// messages.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command_line.h"
#include "cli/config_file.h"
#include "dirigent/base/result.h"
#include "dirigent/cli/options.h"

namespace dirigent::cli {

struct Setting {
  std::string section;      // "control", "data", "worker", "dev"
  std::string key;          // "rpc_listen"
  std::string value_name;   // "ADDRESS"; "" = true or false
  std::string default_value;  // of a list: separated by commas
  std::string help;
  bool is_list = false;
  std::vector<std::string> words{};  // the values there are; empty = free text
};

const std::vector<std::string>& role_names();
const std::vector<Setting>& settings();
std::vector<Setting> settings_of(std::string_view section);
// The flags of a role: its settings and --config.
std::vector<Flag> flags_of(std::string_view section);
std::string flag_name(std::string_view key);              // "rpc-listen"
std::string environment_name(const Setting& setting);     // "DIRIGENT_CONTROL_RPC_LISTEN"

struct Value {
  std::vector<std::string> texts;
  std::string origin;  // "default", "dirigent.toml:12", "DIRIGENT_CONTROL_RPC_LISTEN", "--rpc-listen"
};

using Environment = std::map<std::string, std::string, std::less<>>;
Environment process_environment();

class Settings {
 public:
  // Merges the sources of one role. Unknown sections, keys and variables are errors that say where and suggest a name.
  // `file_name` "" = no file.
  static Result<Settings> merge(std::string_view section, std::string_view file_text, std::string_view file_name,
                                const Environment& environment, const Arguments& flags);

  [[nodiscard]] const Value& operator[](std::string_view key) const;
  [[nodiscard]] const std::string& section() const { return section_; }

 private:
  std::string section_;
  std::map<std::string, Value, std::less<>> values_;
};

// Typed and checked; errors name the setting, where its value comes from, and what is expected.
Result<ControlOptions> control_options(const Settings& settings);
Result<DataOptions> data_options(const Settings& settings);
Result<WorkerOptions> worker_options(const Settings& settings);
Result<DevOptions> dev_options(const Settings& settings);
// Whether the options of `settings.section()` can be made.
Status check_options(const Settings& settings);

}  // namespace dirigent::cli
