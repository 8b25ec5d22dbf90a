// SPDX-License-Identifier: MIT
#include "conformance_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "dirigent/base/text.h"

namespace dirigent::test {

namespace {

[[noreturn]] void complain(const std::string& file, int line, std::string_view what) {
  throw std::runtime_error(fmt::format("{}:{}: {}", file, line, what));
}

// One line of a message: CR LF is added unless the line ends with a backslash of its own.
void add_line(std::string& message, std::string_view line) {
  std::size_t backslashes = 0;
  while (backslashes < line.size() && line[line.size() - 1 - backslashes] == '\\') ++backslashes;
  const bool is_open = backslashes % 2 == 1;
  if (is_open) line.remove_suffix(1);
  message += unescape(line);
  if (!is_open) message += "\r\n";
}

}  // namespace

std::string unescape(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      bytes.push_back(text[i]);
      continue;
    }
    if (++i == text.size()) throw std::runtime_error("a lone backslash");
    switch (text[i]) {
      case 'r': bytes.push_back('\r'); break;
      case 'n': bytes.push_back('\n'); break;
      case 't': bytes.push_back('\t'); break;
      case '0': bytes.push_back('\0'); break;
      case 's': bytes.push_back(' '); break;
      case '\\': bytes.push_back('\\'); break;
      case 'x':
        bytes.push_back(static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16)));
        i += 2;
        break;
      case '{': {
        const std::size_t end = text.find('}', i);
        const std::size_t star = text.rfind('*', end);
        if (end == std::string_view::npos || star == std::string_view::npos || star < i)
          throw std::runtime_error("a broken \\{TEXT*COUNT}");
        const std::string once = unescape(text.substr(i + 1, star - i - 1));
        const auto times = std::stoul(std::string(text.substr(star + 1, end - star - 1)));
        for (std::size_t n = 0; n < times; ++n) bytes += once;
        i = end;
        break;
      }
      default: throw std::runtime_error(fmt::format("an unknown escape \\{}", text[i]));
    }
  }
  return bytes;
}

std::string printable(std::string_view bytes) {
  std::string text;
  for (const char c : bytes.substr(0, 400)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\r') {
      text += "\\r";
    } else if (c == '\n') {
      text += "\\n\n";
    } else if (byte < 0x20 || byte >= 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text.push_back(c);
    }
  }
  if (bytes.size() > 400) text += fmt::format("... ({} bytes)", bytes.size());
  return text;
}

std::string ConformanceCase::find(std::string_view word) const {
  for (const std::string& line : expected) {
    if (line.size() > word.size() && line.starts_with(word) && line[word.size()] == ' ')
      return line.substr(word.size() + 1);
  }
  return "";
}

bool ConformanceCase::has(std::string_view line) const {
  return std::find(expected.begin(), expected.end(), line) != expected.end();
}

std::vector<ConformanceCase> read_conformance_cases(const std::string& file) {
  std::ifstream input(file);
  if (!input) throw std::runtime_error("cannot read " + file);
  std::vector<ConformanceCase> cases;
  enum class At { between, message, expected } at = At::between;
  int number = 0;
  for (std::string line; std::getline(input, line);) {
    ++number;
    if (line.starts_with("== ")) {
      if (at == At::message) complain(file, number, "the case before has no expectation");
      const std::size_t bar = line.rfind(" | ");
      if (bar == std::string::npos) complain(file, number, "a case is \"== TITLE | SOURCE\"");
      ConformanceCase& one = cases.emplace_back();
      one.file = file.substr(file.rfind('/') + 1);
      one.line = number;
      one.title = line.substr(3, bar - 3);
      one.source = line.substr(bar + 3);
      at = At::message;
    } else if (line.starts_with("-- ")) {
      if (at == At::between) complain(file, number, "an expectation without a message");
      cases.back().expected.push_back(line.substr(3));
      at = At::expected;
    } else if (at == At::message) {
      try {
        add_line(cases.back().message, line);
      } catch (const std::exception& error) {
        complain(file, number, error.what());
      }
    } else if (!line.empty() && !line.starts_with("#")) {
      complain(file, number, "neither a case, an expectation nor a comment");
    }
  }
  if (at == At::message) complain(file, number, "the last case has no expectation");
  return cases;
}

std::string_view to_string(Pieces pieces) {
  switch (pieces) {
    case Pieces::whole: return "in one piece";
    case Pieces::bytes: return "byte by byte";
    case Pieces::two: return "in two pieces";
  }
  return "";
}

std::vector<std::string_view> cut(std::string_view message, Pieces pieces, std::size_t place) {
  if (message.empty()) return {};
  if (pieces == Pieces::whole) return {message};
  if (pieces == Pieces::two) {
    const std::size_t at = place % message.size();
    if (at == 0) return {message};
    return {message.substr(0, at), message.substr(at)};
  }
  // Long messages would take thousands of system calls and show nothing more.
  const std::size_t size = message.size() <= 2048 ? 1 : 1021;
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at < message.size(); at += size) parts.push_back(message.substr(at, size));
  return parts;
}

}  // namespace dirigent::test
