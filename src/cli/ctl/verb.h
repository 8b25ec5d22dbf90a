// SPDX-License-Identifier: MIT
//
// What a verb of `dirigent ctl` is: a row in a table with its words, flags and function. One file per group of verbs.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command_line.h"
#include "cli/ctl/client.h"
#include "cli/terminal.h"

namespace dirigent::cli {

enum class Output { table, wide, json, name, url };

// What a verb works with.
struct VerbContext {
  Terminal& terminal;
  ControlClient& client;
  const Arguments& arguments;  // with the common flags
  Output output = Output::table;
  bool headers = true;
  bool quiet = false;

  [[nodiscard]] const std::string& word(std::size_t i) const { return arguments.words()[i]; }
  // Prints the failure; its exit status.
  int fail(const Failure& failure) const;
  int fail(const Error& error) const { return fail(failure_of(error)); }
  // A usage error found by the verb: exit status 2.
  int misused(std::string_view message) const;
  // A hint for the next step, on stderr, unless quiet.
  void next(std::string_view command) const;
  // A function name as a path element, checked here so that a slip is told without asking the server.
  [[nodiscard]] Outcome<std::string> function_path(std::string_view name) const;
};

enum class WordKind { none, function, node };

struct Verb {
  std::string name;
  std::vector<std::string> aliases;
  std::string words;          // for the usage line: "NAME N|--auto"
  std::size_t words_min = 0;
  std::size_t words_max = 0;
  std::string summary;
  std::vector<Flag> flags;
  WordKind completes = WordKind::none;  // the first word
  int (*run)(VerbContext&) = nullptr;
};

std::vector<Verb> deploy_verbs();   // deploy
std::vector<Verb> read_verbs();     // list, describe
std::vector<Verb> change_verbs();   // delete, scale
std::vector<Verb> invoke_verbs();   // invoke
std::vector<Verb> watch_verbs();    // logs, events
std::vector<Verb> trace_verbs();    // trace
std::vector<Verb> top_verbs();      // top
std::vector<Verb> async_verbs();    // async, dlq
std::vector<Verb> node_verbs();     // nodes, cordon, drain, uncordon
std::vector<Verb> control_verbs();  // control
std::vector<Verb> prefetch_verbs(); // prefetch
std::vector<Verb> front_verbs();    // haproxy-config

const std::vector<Verb>& all_verbs();
const Verb* find_verb(std::string_view word);
const std::vector<Flag>& common_flags();

// The client that --server and DIRIGENT_SERVER name.
Result<ControlClient> open_client(const Arguments& arguments);

}  // namespace dirigent::cli
