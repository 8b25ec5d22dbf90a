// SPDX-License-Identifier: MIT
#include "transcript.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "catch.h"

namespace dirigent::test {

namespace {
std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}
std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}
}  // namespace

void run_transcript(const std::string& path, const CommandRunner& run) {
  const bool rewrite = std::getenv("DIRIGENT_REWRITE") != nullptr;
  std::ifstream file(path);
  INFO("scenario " << path << " (DIRIGENT_REWRITE=1 replaces its expectations)");
  REQUIRE(file.good());
  std::string rewritten;
  std::vector<std::string> commands;
  std::string line;
  std::size_t blocks = 0;
  while (std::getline(file, line)) {
    if (line != "----") {
      rewritten += line + "\n";
      if (!line.empty() && line.front() != '#') commands.push_back(line);
      continue;
    }
    std::vector<std::string> expected;
    while (std::getline(file, line) && !line.empty()) expected.push_back(line);
    std::vector<std::string> output;
    for (const auto& command : commands) run(words_of(command), output);
    if (!rewrite) {
      INFO("after:\n" << joined(commands));
      CHECK(joined(output) == joined(expected));
    }
    rewritten += "----\n" + joined(output) + "\n";
    commands.clear();
    ++blocks;
  }
  CHECK(blocks > 0);
  if (rewrite) {
    while (rewritten.ends_with("\n\n")) rewritten.pop_back();
    std::ofstream(path) << rewritten;
  }
}

std::string option(const std::vector<std::string>& words, std::string_view name, std::string_view otherwise) {
  const std::string prefix = std::string(name) + "=";
  for (const auto& word : words) {
    if (word.starts_with(prefix)) return word.substr(prefix.size());
  }
  return std::string(otherwise);
}

}  // namespace dirigent::test
