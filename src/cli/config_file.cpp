// SPDX-License-Identifier: MIT
#include "cli/config_file.h"

#include <algorithm>

#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

bool is_key_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

class Reader {
 public:
  Reader(std::string_view text, std::string_view file_name) : text_(text), file_name_(file_name) {}

  Result<std::vector<ConfigEntry>> read() {
    std::vector<ConfigEntry> entries;
    std::string section;
    for (;;) {
      skip_blank_lines();
      if (at_end()) return entries;
      if (peek() == '[') {
        auto name = read_section();
        if (!name) return failure(name.error());
        section = std::move(*name);
        continue;
      }
      auto entry = read_entry();
      if (!entry) return failure(entry.error());
      entry->section = section;
      const auto same = std::find_if(entries.begin(), entries.end(),
                                     [&](const ConfigEntry& e) { return e.section == section && e.key == entry->key; });
      if (same != entries.end()) return wrong(fmt::format("{} was set in line {} already", entry->key, same->line));
      entries.push_back(std::move(*entry));
    }
  }

 private:
  [[nodiscard]] bool at_end() const { return at_ == text_.size(); }
  [[nodiscard]] char peek() const { return text_[at_]; }
  char take() {
    const char c = text_[at_++];
    if (c == '\n') ++line_;
    return c;
  }
  tl::unexpected<Error> wrong(std::string_view what) const {
    return failure(ErrorCode::invalid_argument, "{}:{}: {}", file_name_, line_, what);
  }
  void skip_blanks() {
    while (!at_end() && (peek() == ' ' || peek() == '\t' || peek() == '\r')) take();
  }
  void skip_comment() {
    if (!at_end() && (peek() == '#' || peek() == ';')) {
      while (!at_end() && peek() != '\n') take();
    }
  }
  void skip_blank_lines() {
    for (;;) {
      skip_blanks();
      skip_comment();
      if (at_end() || peek() != '\n') return;
      take();
    }
  }
  Status end_of_line() {
    skip_blanks();
    skip_comment();
    if (at_end() || peek() == '\n') return {};
    const std::string_view rest = text_.substr(at_, text_.find('\n', at_) - at_);
    return wrong(fmt::format("unexpected \"{}\" after the value", trim(rest)));
  }

  std::string read_key() {
    std::string key;
    while (!at_end() && is_key_character(peek())) key += take();
    // Dashes as on the command line mean the same as underscores.
    std::replace(key.begin(), key.end(), '-', '_');
    return key;
  }

  Result<std::string> read_section() {
    take();
    skip_blanks();
    std::string name = read_key();
    skip_blanks();
    if (name.empty() || at_end() || peek() != ']') return wrong("a section is written [name]");
    take();
    if (auto status = end_of_line(); !status) return failure(status.error());
    return name;
  }

  Result<ConfigEntry> read_entry() {
    ConfigEntry entry;
    entry.line = line_;
    entry.key = read_key();
    skip_blanks();
    if (entry.key.empty() || at_end() || peek() != '=') return wrong("expected key = value");
    take();
    skip_blanks();
    if (!at_end() && peek() == '[') {
      if (auto status = read_array(entry.values); !status) return failure(status.error());
    } else {
      auto value = read_value("#;");
      if (!value) return failure(value.error());
      entry.values.push_back(std::move(*value));
    }
    if (auto status = end_of_line(); !status) return failure(status.error());
    return entry;
  }

  Status read_array(std::vector<std::string>& values) {
    take();
    for (;;) {
      skip_blank_lines();
      if (at_end()) return wrong("the array is not closed with ]");
      if (peek() == ']') {
        take();
        return {};
      }
      auto value = read_value(",]#");
      if (!value) return failure(value.error());
      values.push_back(std::move(*value));
      skip_blank_lines();
      if (at_end()) return wrong("the array is not closed with ]");
      if (peek() == ',') {
        take();
      } else if (peek() != ']') {
        return wrong("expected , or ] in an array");
      }
    }
  }

  // `stops`: what ends a bare word, besides the end of the line.
  Result<std::string> read_value(std::string_view stops) {
    if (at_end() || peek() == '\n') return wrong("the value is missing (write \"\" for an empty one)");
    if (peek() == '"' || peek() == '\'') return read_quoted(take());
    std::string word;
    while (!at_end() && peek() != '\n' && stops.find(peek()) == std::string_view::npos) word += take();
    word = std::string(trim(word));
    if (word.empty()) return wrong("the value is missing (write \"\" for an empty one)");
    return word;
  }

  Result<std::string> read_quoted(char quote) {
    std::string value;
    while (!at_end() && peek() != '\n') {
      const char c = take();
      if (c == quote) return value;
      if (c != '\\' || quote == '\'') {
        value += c;
        continue;
      }
      if (at_end()) break;
      switch (const char escaped = take()) {
        case 'n': value += '\n'; break;
        case 't': value += '\t'; break;
        case '"': case '\\': value += escaped; break;
        default: return wrong(fmt::format("unknown escape \\{} (use '...' to write backslashes)", escaped));
      }
    }
    return wrong(fmt::format("the string is not closed with {}", quote));
  }

  std::string_view text_;
  std::string_view file_name_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

Result<std::vector<ConfigEntry>> parse_config(std::string_view text, std::string_view file_name) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  return Reader(text, file_name).read();
}

std::string config_value(std::string_view value) {
  const bool is_number = parse_number(value).has_value();
  if (is_number || value == "true" || value == "false") return std::string(value);
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n') {
      quoted += "\\n";
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace dirigent::cli
