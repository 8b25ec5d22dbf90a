// SPDX-License-Identifier: MIT
#include "cli/command_line.h"

#include <algorithm>

#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

const Flag* find_flag(std::span<const Flag> flags, std::string_view name) {
  const auto found = std::find_if(flags.begin(), flags.end(), [&](const Flag& flag) { return flag.name == name; });
  return found == flags.end() ? nullptr : &*found;
}
const Flag* find_letter(std::span<const Flag> flags, char letter) {
  const auto found = std::find_if(flags.begin(), flags.end(), [&](const Flag& flag) { return flag.letter == letter; });
  return found == flags.end() ? nullptr : &*found;
}

tl::unexpected<Error> unknown(std::string_view word, std::string_view name, std::span<const Flag> flags) {
  std::vector<std::string> names;
  for (const Flag& flag : flags) names.push_back(flag.name);
  const auto near = did_you_mean(name, names);
  return failure(ErrorCode::invalid_argument, "unknown flag {}{}", word,
                 near ? fmt::format(" (did you mean --{}?)", *near) : "");
}

// One flag at words[0], perhaps with its value; how many words it took.
struct Scanner {
  std::span<const Flag> flags;
  std::map<std::string, std::vector<std::string>, std::less<>>& values;

  Status put(const Flag& flag, std::string value) {
    auto& list = values[flag.name];
    if (!list.empty() && !flag.repeatable)
      return failure(ErrorCode::invalid_argument, "--{} is given twice", flag.name);
    list.push_back(std::move(value));
    return {};
  }

  Result<std::size_t> take_long(std::span<const std::string> words) {
    const std::string_view body = std::string_view(words[0]).substr(2);
    const std::size_t equals = body.find('=');
    const std::string_view name = body.substr(0, equals);
    std::optional<std::string> value;
    if (equals != std::string_view::npos) value = std::string(body.substr(equals + 1));
    if (const Flag* flag = find_flag(flags, name)) {
      std::size_t taken = 1;
      if (flag->value_name.empty()) {
        if (value && *value != "true" && *value != "false") {
          return failure(ErrorCode::invalid_argument, "--{} is \"{}\", expected true or false", name, *value);
        }
        if (!value) value = "true";
      } else if (!value) {
        if (words.size() < 2)
          return failure(ErrorCode::invalid_argument, "--{} needs a value: --{} {}", name, name, flag->value_name);
        value = words[1];
        taken = 2;
      }
      if (auto status = put(*flag, std::move(*value)); !status) return failure(status.error());
      return taken;
    }
    // --no-x switches x off.
    if (const Flag* flag = name.starts_with("no-") ? find_flag(flags, name.substr(3)) : nullptr;
        flag != nullptr && flag->value_name.empty() && !value) {
      if (auto status = put(*flag, "false"); !status) return failure(status.error());
      return std::size_t{1};
    }
    return unknown(fmt::format("--{}", name), name, flags);
  }

  // -q, -o json, -ojson, -qv.
  Result<std::size_t> take_short(std::span<const std::string> words) {
    const std::string& word = words[0];
    for (std::size_t i = 1; i < word.size(); ++i) {
      const Flag* flag = find_letter(flags, word[i]);
      if (flag == nullptr) return unknown(fmt::format("-{}", word[i]), word.substr(1), flags);
      if (flag->value_name.empty()) {
        if (auto status = put(*flag, "true"); !status) return failure(status.error());
        continue;
      }
      std::string value = word.substr(i + 1);
      const bool is_next = value.empty();
      if (is_next) {
        if (words.size() < 2)
          return failure(ErrorCode::invalid_argument, "-{} needs a value: -{} {}", word[i], word[i], flag->value_name);
        value = words[1];
      }
      if (auto status = put(*flag, std::move(value)); !status) return failure(status.error());
      return std::size_t{is_next ? 2u : 1u};
    }
    return std::size_t{1};
  }

  Result<std::size_t> take(std::span<const std::string> words) {
    return words[0].starts_with("--") ? take_long(words) : take_short(words);
  }
};

bool is_flag(std::string_view word) { return word.size() > 1 && word[0] == '-'; }

}  // namespace

std::optional<std::string> Arguments::value(std::string_view flag) const {
  const auto found = values_.find(flag);
  return found == values_.end() ? std::nullopt : std::optional(found->second.back());
}

std::vector<std::string> Arguments::values(std::string_view flag) const {
  const auto found = values_.find(flag);
  return found == values_.end() ? std::vector<std::string>() : found->second;
}

Result<Arguments> parse_arguments(std::span<const std::string> words, std::span<const Flag> flags,
                                  std::size_t words_max) {
  Arguments arguments;
  Scanner scanner{flags, arguments.values_};
  bool only_words = false;
  while (!words.empty()) {
    if (!only_words && words[0] == "--") {
      only_words = true;
      words = words.subspan(1);
    } else if (only_words || !is_flag(words[0])) {
      if (arguments.words_.size() == words_max)
        return failure(ErrorCode::invalid_argument, "unexpected word \"{}\"", words[0]);
      arguments.words_.push_back(words[0]);
      words = words.subspan(1);
    } else {
      auto taken = scanner.take(words);
      if (!taken) return failure(taken.error());
      words = words.subspan(*taken);
    }
  }
  return arguments;
}

Result<std::size_t> parse_leading_flags(std::span<const std::string> words, std::span<const Flag> flags,
                                        Arguments& out) {
  Scanner scanner{flags, out.values_};
  std::size_t at = 0;
  while (at < words.size() && is_flag(words[at])) {
    auto taken = scanner.take(words.subspan(at));
    if (!taken) return taken;
    at += *taken;
  }
  return at;
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
