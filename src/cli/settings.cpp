// SPDX-License-Identifier: MIT
#include "cli/settings.h"

#include <algorithm>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"

extern char** environ;

namespace dirigent::cli {

namespace {

std::string to_upper(std::string_view text) {
  std::string upper(text);
  for (char& c : upper) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return upper;
}

// A list may be one text with commas; "" and "none" are the empty list.
std::vector<std::string> list_of(const std::vector<std::string>& texts) {
  std::vector<std::string> list;
  for (const auto& text : texts) {
    for (const auto part : split(text, ',')) {
      if (!trim(part).empty() && trim(part) != "none") list.emplace_back(trim(part));
    }
  }
  return list;
}

const Setting* find(std::string_view section, std::string_view key) {
  const auto& table = settings();
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const Setting& s) { return s.section == section && s.key == key; });
  return found == table.end() ? nullptr : &*found;
}

// Every name in the file is checked, also those of other roles: a slip of the pen must not wait for its role to start.
Status check_entry(const ConfigEntry& entry, std::string_view file_name) {
  if (entry.section.empty()) {
    return failure(ErrorCode::invalid_argument,
                   "{}:{}: {} stands before the first section: write it below [control], [data], [worker] or [dev]",
                   file_name, entry.line, entry.key);
  }
  const auto& roles = role_names();
  if (std::find(roles.begin(), roles.end(), entry.section) == roles.end()) {
    return failure(ErrorCode::invalid_argument,
                   "{}:{}: unknown section [{}]{}: the sections are control, data, worker and dev", file_name,
                   entry.line, entry.section, did_you_mean_suffix(entry.section, roles));
  }
  const Setting* setting = find(entry.section, entry.key);
  if (setting == nullptr) {
    std::vector<std::string> keys;
    for (const Setting& s : settings_of(entry.section)) keys.push_back(s.key);
    return failure(ErrorCode::invalid_argument, "{}:{}: unknown key \"{}\" in [{}]{}", file_name, entry.line, entry.key,
                   entry.section, did_you_mean_suffix(entry.key, keys));
  }
  if (entry.values.size() != 1 && !setting->is_list) {
    return failure(ErrorCode::invalid_argument, "{}:{}: {} takes one value, not an array", file_name, entry.line,
                   entry.key);
  }
  return {};
}

}  // namespace

std::string environment_name(const Setting& setting) {
  return fmt::format("DIRIGENT_{}_{}", to_upper(setting.section), to_upper(setting.key));
}

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto equals = text.find('=');
    if (equals != std::string_view::npos) environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

Result<Settings> Settings::merge(std::string_view section, std::string_view file_text, std::string_view file_name,
                                 const Environment& environment, const Arguments& flags) {
  Settings merged;
  merged.section_ = section;
  const auto own = settings_of(section);
  std::vector<std::string> variables;
  const auto put = [&](const Setting& setting, std::vector<std::string> texts, std::string origin) {
    if (setting.is_list) texts = list_of(texts);
    merged.values_[setting.key] = Value{std::move(texts), std::move(origin)};
  };
  for (const Setting& setting : own) {
    put(setting, {setting.default_value}, "default");
    variables.push_back(environment_name(setting));
  }

  auto entries = parse_config(file_text, file_name);
  if (!entries) return failure(entries.error());
  for (ConfigEntry& entry : *entries) {
    if (auto status = check_entry(entry, file_name); !status) return failure(status.error());
    if (entry.section == section)
      put(*find(section, entry.key), std::move(entry.values), fmt::format("{}:{}", file_name, entry.line));
  }

  const std::string prefix = fmt::format("DIRIGENT_{}_", to_upper(section));
  for (const auto& [name, value] : environment) {
    if (!name.starts_with(prefix)) continue;
    const auto known = std::find(variables.begin(), variables.end(), name);
    if (known == variables.end()) {
      return failure(ErrorCode::invalid_argument, "unknown environment variable {}{}", name,
                     did_you_mean_suffix(name, variables));
    }
    put(own[static_cast<std::size_t>(known - variables.begin())], {value}, name);
  }

  for (const Setting& setting : own) {
    const std::string flag = flag_name(setting.key);
    if (flags.has(flag)) put(setting, flags.values(flag), "--" + flag);
  }
  return merged;
}

const Value& Settings::operator[](std::string_view key) const {
  const auto found = values_.find(key);
  ASSERT(found != values_.end(), "[{}] has no setting {}", section_, key);
  return found->second;
}

}  // namespace dirigent::cli
