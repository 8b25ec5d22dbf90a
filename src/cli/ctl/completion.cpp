// SPDX-License-Identifier: MIT
//
// Shell completion: the shell's script is a few lines that ask this program, so it never falls behind the tables of
// flags.
#include <algorithm>

#include "cli/ctl/ctl.h"
#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "cli/settings.h"

namespace dirigent::cli {

namespace {

// The shell waits for the answer: a slow control plane must not hang the prompt.
constexpr Duration kAskTime = 1s;

std::vector<std::string> live_names(WordKind kind) {
  Arguments none;
  auto opened = open_client(none);
  if (!opened || kind == WordKind::none) return {};
  ControlClient client(opened->server(), kAskTime);
  auto body = client.call("GET", kind == WordKind::function ? "/v1/functions?names_only=1" : "/v1/nodes");
  if (!body) return {};
  if (kind == WordKind::function) return read_names(*body).value_or(std::vector<std::string>());
  std::vector<std::string> names;
  for (const auto& node : read_nodes(*body).value_or(std::vector<NodeRow>())) names.push_back(node.name);
  return names;
}

void add_flags(std::vector<std::string>& candidates, const std::vector<Flag>& flags) {
  for (const Flag& flag : flags) candidates.push_back("--" + flag.name);
}

// The flag whose value is being typed, if the word before takes one.
const Flag* flag_before(const std::vector<Flag>& flags, const std::string& word) {
  const auto found = std::find_if(flags.begin(), flags.end(), [&](const Flag& flag) {
    return !flag.value_name.empty() &&
           (word == "--" + flag.name || (flag.letter != 0 && word == std::string{'-', flag.letter}));
  });
  return found == flags.end() ? nullptr : &*found;
}

std::vector<std::string> verb_candidates(const Verb& verb, const std::vector<std::string>& line, std::size_t current) {
  std::vector<Flag> flags = verb.flags;
  flags.insert(flags.end(), common_flags().begin(), common_flags().end());
  if (const Flag* flag = flag_before(flags, line[current - 1])) return flag->words;
  std::vector<std::string> candidates;
  if (line[current].starts_with('-')) {
    add_flags(candidates, flags);
    return candidates;
  }
  return live_names(verb.completes);
}

std::vector<std::string> ctl_candidates(const std::vector<std::string>& line, std::size_t current) {
  for (std::size_t i = 2; i < current; ++i) {
    if (const Verb* verb = find_verb(line[i])) return verb_candidates(*verb, line, current);
    if (line[i] == "completion") return {"bash"};
  }
  if (const Flag* flag = flag_before(common_flags(), line[current - 1])) return flag->words;
  std::vector<std::string> candidates;
  if (line[current].starts_with('-')) {
    add_flags(candidates, common_flags());
    return candidates;
  }
  for (const Verb& verb : all_verbs()) candidates.push_back(verb.name);
  candidates.emplace_back("completion");
  return candidates;
}

std::vector<std::string> all_candidates(const std::vector<std::string>& line, std::size_t current) {
  if (current == 1) return {"control", "data", "worker", "dev", "ctl", "config", "--version", "--help"};
  if (line[1] == "ctl") return ctl_candidates(line, current);
  if (line[1] == "config" && current == 2) return {"show", "validate"};
  if (line[1] == "config") return {"--config", "--effective"};
  const auto& roles = role_names();
  if (std::find(roles.begin(), roles.end(), line[1]) == roles.end()) return {};
  const auto flags = flags_of(line[1]);
  if (const Flag* flag = flag_before(flags, line[current - 1])) return flag->words;
  std::vector<std::string> candidates;
  add_flags(candidates, flags);
  return candidates;
}

}  // namespace

std::string complete(const std::vector<std::string>& line, std::size_t current) {
  std::vector<std::string> words = line;
  if (current == 0) return {};
  if (current >= words.size()) words.resize(current + 1);
  std::string text;
  for (const auto& candidate : all_candidates(words, current)) {
    if (candidate.starts_with(words[current])) text += candidate + "\n";
  }
  return text;
}

std::string bash_completion() {
  return R"(# bash completion of dirigent: source <(dirigent ctl completion bash)
_dirigent() {
  local IFS=$'\n'
  COMPREPLY=($("${COMP_WORDS[0]}" __complete "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null))
}
complete -o default -F _dirigent dirigent
)";
}

}  // namespace dirigent::cli
