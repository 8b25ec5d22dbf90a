// SPDX-License-Identifier: MIT
#include "cli/ctl/ctl.h"

#include <algorithm>
#include <cstdlib>

#include "cli/ctl/verb.h"
#include "dirigent/base/text.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

constexpr std::string_view kDefaultServer = "127.0.0.1:9092";
const std::vector<std::string> kOutputs{"table", "wide", "json", "name", "url"};

std::string help() {
  std::string text = "usage: dirigent ctl VERB [WORDS] [FLAGS]\n\nverbs:\n";
  std::vector<std::vector<std::string>> rows;
  for (const Verb& verb : all_verbs()) {
    std::string aliases;
    for (const auto& alias : verb.aliases) aliases += (aliases.empty() ? " (also " : ", ") + alias;
    rows.push_back({"  " + verb.name + (verb.words.empty() ? "" : " " + verb.words),
                    verb.summary + (aliases.empty() ? "" : aliases + ")")});
  }
  rows.push_back({"  completion bash", "print the completion script of a shell"});
  text += format_table(rows);
  text += "\nflags of every verb:\n" + describe_flags(common_flags());
  text += "\nexit status: 0 done, 1 failed, 2 usage, 3 not found, 4 cannot reach the server, 5 not authorised,\n"
          "  6 timed out waiting (the change was accepted), 7 the function answered 400 or more (invoke --fail)\n"
          "\nhelp on a verb: dirigent ctl VERB --help\n";
  return text;
}

std::string help(const Verb& verb) {
  std::string text = fmt::format("usage: dirigent ctl {}{}{} [FLAGS]\n{}\n", verb.name, verb.words.empty() ? "" : " ",
                                 verb.words, verb.summary);
  if (!verb.flags.empty()) text += "\nflags:\n" + describe_flags(verb.flags);
  return text + "\nflags of every verb:\n" + describe_flags(common_flags());
}

int show(Terminal& terminal, std::string_view text) {
  terminal.write(text);
  return 0;
}

int usage_error(Terminal& terminal, std::string_view message, std::string_view hint) {
  const std::string hints[] = {std::string(hint)};
  terminal.error(message, hints);
  return 2;
}

Result<Output> parse_output(std::string_view word) {
  const auto found = std::find(kOutputs.begin(), kOutputs.end(), word);
  if (found != kOutputs.end()) return static_cast<Output>(found - kOutputs.begin());
  return failure(ErrorCode::invalid_argument, "unknown output \"{}\"{}: use table, wide, json, name or url", word,
                 did_you_mean_suffix(word, kOutputs));
}

int unknown_verb(Terminal& terminal, std::string_view word) {
  std::vector<std::string> names{"completion"};
  for (const Verb& verb : all_verbs()) {
    names.push_back(verb.name);
    names.insert(names.end(), verb.aliases.begin(), verb.aliases.end());
  }
  const auto near = did_you_mean(word, names);
  return usage_error(terminal, fmt::format("unknown verb \"{}\"", word),
                     near ? fmt::format("did you mean \"{}\"?", *near) : "list them:  dirigent ctl --help");
}

int run_verb(const Verb& verb, const std::vector<std::string>& words, Terminal& terminal) {
  std::vector<Flag> flags = verb.flags;
  flags.insert(flags.end(), common_flags().begin(), common_flags().end());
  const std::string see = fmt::format("see:  dirigent ctl {} --help", verb.name);
  auto arguments = parse_arguments(words, flags, verb.words_max);
  if (!arguments) {
    if (std::find(words.begin(), words.end(), "--help") != words.end()) return show(terminal, help(verb));
    return usage_error(terminal, arguments.error().message, see);
  }
  if (arguments->has("help")) return show(terminal, help(verb));
  if (arguments->words().size() < verb.words_min) {
    return usage_error(terminal, fmt::format("{} needs {}", verb.name, verb.words), see);
  }
  if (arguments->is_on("no-color")) terminal.no_colour();
  auto output = parse_output(arguments->value("output").value_or("table"));
  if (!output) return usage_error(terminal, output.error().message, see);
  auto client = open_client(*arguments);
  if (!client) return usage_error(terminal, client.error().message, see);
  VerbContext context{
      terminal, *client, *arguments, *output, !arguments->is_on("no-headers"), arguments->is_on("quiet")};
  return verb.run(context);
}

}  // namespace

const std::vector<Flag>& common_flags() {
  static const std::vector<Flag> flags{
      {"output", 'o', "FORMAT", "table, wide, json, name or url", false, kOutputs},
      {"server", 's', "URL", "the control plane: http://HOST:PORT or unix:PATH (DIRIGENT_SERVER) [127.0.0.1:9092]"},
      {"request-timeout", 0, "DURATION", "longest wait for one answer of the control plane [30s]"},
      {"no-headers", 0, "", "tables without a first line"},
      {"quiet", 'q', "", "no progress and no hints"},
      {"no-color", 0, "", "no colours (NO_COLOR)"},
      {"help", 'h', "", "show this help"},
  };
  return flags;
}

const std::vector<Verb>& all_verbs() {
  static const std::vector<Verb> verbs = [] {
    std::vector<Verb> all;
    for (auto* group : {deploy_verbs, read_verbs, invoke_verbs, change_verbs, watch_verbs, trace_verbs, top_verbs, async_verbs,
                        node_verbs, control_verbs, prefetch_verbs, front_verbs}) {
      auto part = group();
      std::move(part.begin(), part.end(), std::back_inserter(all));
    }
    return all;
  }();
  return verbs;
}

const Verb* find_verb(std::string_view word) {
  for (const Verb& verb : all_verbs()) {
    if (verb.name == word || std::find(verb.aliases.begin(), verb.aliases.end(), word) != verb.aliases.end())
      return &verb;
  }
  return nullptr;
}

Result<ControlClient> open_client(const Arguments& arguments) {
  const char* variable = std::getenv("DIRIGENT_SERVER");
  const std::string fallback = variable != nullptr && *variable != '\0' ? variable : std::string(kDefaultServer);
  auto server = parse_server(arguments.value("server").value_or(fallback));
  if (!server) return failure(server.error());
  auto timeout = parse_duration(arguments.value("request-timeout").value_or("30s"));
  if (!timeout) return failure(timeout.error().within("--request-timeout"));
  return ControlClient(std::move(*server), *timeout);
}

int VerbContext::fail(const Failure& failure) const {
  std::vector<std::string> hints = failure.hints;
  if (failure.error.code == ErrorCode::not_found && failure.exit_code == 3) {
    hints.emplace_back(failure.error.message.find("node") != std::string::npos ? "list nodes:  dirigent ctl nodes"
                                                                               : "list functions:  dirigent ctl list");
  }
  terminal.error(failure.error.message, hints);
  return failure.exit_code;
}

int VerbContext::misused(std::string_view message) const {
  terminal.error(message);
  return 2;
}

void VerbContext::next(std::string_view command) const {
  if (!quiet) terminal.talk("next: {}\n", command);
}

Outcome<std::string> VerbContext::function_path(std::string_view name) const {
  auto parsed = parse_function_name(name);
  if (!parsed) return tl::unexpected(failure_of(parsed.error()));
  return fmt::format("/v1/functions/{}", parsed->value);
}

int run_ctl(const std::vector<std::string>& words, Terminal terminal) {
  // The common flags may stand before the verb as well.
  Arguments leading;
  auto skipped = parse_leading_flags(words, common_flags(), leading);
  if (!skipped)
    return usage_error(terminal, skipped.error().message, "flags of a verb stand behind it:  dirigent ctl --help");
  if (*skipped == words.size()) {
    if (leading.has("help")) return show(terminal, help());
    terminal.say(help());
    return 2;
  }
  const std::string& word = words[*skipped];
  std::vector<std::string> rest(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(*skipped));
  rest.insert(rest.end(), words.begin() + static_cast<std::ptrdiff_t>(*skipped) + 1, words.end());
  if (word == "help") return show(terminal, help());
  if (word == "completion") {
    if (rest != std::vector<std::string>{"bash"})
      return usage_error(terminal, "completion scripts exist for bash", "dirigent ctl completion bash");
    return show(terminal, bash_completion());
  }
  const Verb* verb = find_verb(word);
  if (verb == nullptr) return unknown_verb(terminal, word);
  return run_verb(*verb, rest, terminal);
}

}  // namespace dirigent::cli
