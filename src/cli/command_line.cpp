// SPDX-License-Identifier: MIT
#include "cli/command_line.h"

#include <CLI/CLI.hpp>

#include <algorithm>

#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

tl::unexpected<Error> unknown(std::string_view word, std::span<const Flag> flags) {
  const std::string_view flag = word.substr(0, word.find('='));
  std::vector<std::string> names;
  for (const Flag& known : flags) names.push_back(known.name);
  const auto near = did_you_mean(flag.substr(flag.find_first_not_of('-')), names);
  return failure(ErrorCode::invalid_argument, "unknown flag {}{}", flag, near ? fmt::format(" (did you mean --{}?)", *near) : "");
}

bool is_flag(std::string_view word) { return word.size() > 1 && word[0] == '-'; }

// One App per call: a table of flags is data, and parsing leaves nothing behind.
class Parser {
 public:
  explicit Parser(std::span<const Flag> flags) : flags_(flags) {
    app_.set_help_flag();
    for (const Flag& flag : flags) {
      std::string names = "--" + flag.name;
      if (flag.letter != 0) names += fmt::format(",-{}", flag.letter);
      CLI::Option* option = nullptr;
      if (flag.value_name.empty()) {
        // --no-x switches x off.
        option = app_.add_flag(names + ",!--no-" + flag.name);
      } else {
        option = app_.add_option(names)->expected(1);
      }
      options_.push_back(option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll));
    }
  }

  CLI::App& app() { return app_; }

  Status parse(std::span<const std::string> words) {
    std::vector<std::string> reversed(words.rbegin(), words.rend());  // CLI11 takes from the back
    try {
      app_.parse(std::move(reversed));
    } catch (const CLI::ParseError& error) {
      const std::string_view text = error.what();
      for (const Flag& flag : flags_) {
        if (text.starts_with("--" + flag.name + ":")) {
          return failure(ErrorCode::invalid_argument, "--{} needs a value: --{} {}", flag.name, flag.name, flag.value_name);
        }
      }
      return failure(ErrorCode::invalid_argument, "{}", text);
    }
    return {};
  }

  Status collect(std::map<std::string, std::vector<std::string>, std::less<>>& values) const {
    for (std::size_t i = 0; i < flags_.size(); ++i) {
      const Flag& flag = flags_[i];
      if (options_[i]->count() == 0) continue;
      const std::vector<std::string>& results = options_[i]->results();
      if (results.size() > 1 && !flag.repeatable) return failure(ErrorCode::invalid_argument, "--{} is given twice", flag.name);
      if (flag.value_name.empty() && results.front() != "true" && results.front() != "false") {
        return failure(ErrorCode::invalid_argument, "--{} is \"{}\", expected true or false", flag.name, results.front());
      }
      auto& list = values[flag.name];
      list.insert(list.end(), results.begin(), results.end());
    }
    return {};
  }

 private:
  std::span<const Flag> flags_;
  CLI::App app_;
  std::vector<CLI::Option*> options_;
};

}  // namespace

std::optional<std::string> Arguments::value(std::string_view flag) const {
  const auto found = values_.find(flag);
  return found == values_.end() ? std::nullopt : std::optional(found->second.back());
}

std::vector<std::string> Arguments::values(std::string_view flag) const {
  const auto found = values_.find(flag);
  return found == values_.end() ? std::vector<std::string>() : found->second;
}

Result<Arguments> parse_arguments(std::span<const std::string> words, std::span<const Flag> flags, std::size_t words_max) {
  Arguments arguments;
  Parser parser(flags);
  parser.app().add_option("words", arguments.words_)->expected(-1);
  parser.app().allow_extras();
  if (auto status = parser.parse(words); !status) return failure(status.error());
  // What CLI11 did not take: flags that are not there, and the "--" itself.
  for (const auto& rest : parser.app().remaining()) {
    if (rest != "--") return unknown(rest, flags);
  }
  if (auto status = parser.collect(arguments.values_); !status) return failure(status.error());
  if (arguments.words_.size() > words_max) return failure(ErrorCode::invalid_argument, "unexpected word \"{}\"", arguments.words_[words_max]);
  return arguments;
}

Result<std::size_t> parse_leading_flags(std::span<const std::string> words, std::span<const Flag> flags, Arguments& out) {
  Parser parser(flags);
  parser.app().prefix_command();
  if (auto status = parser.parse(words); !status) return failure(status.error());
  const std::size_t taken = words.size() - parser.app().remaining().size();
  if (taken < words.size() && is_flag(words[taken])) return unknown(words[taken], flags);
  if (auto status = parser.collect(out.values_); !status) return failure(status.error());
  return taken;
}

std::string describe_flags(std::span<const Flag> flags) {
  std::vector<std::string> heads;
  std::size_t width = 0;
  for (const Flag& flag : flags) {
    std::string head = flag.letter != 0 ? fmt::format("-{}, ", flag.letter) : "    ";
    head += "--" + flag.name;
    if (!flag.value_name.empty()) head += " " + flag.value_name;
    width = std::max(width, head.size());
    heads.push_back(std::move(head));
  }
  std::string text;
  for (std::size_t i = 0; i < flags.size(); ++i) text += fmt::format("  {:<{}}  {}\n", heads[i], width, flags[i].help);
  return text;
}

}  // namespace dirigent::cli
