// SPDX-License-Identifier: MIT
//
// The text files of the conformance suite: raw messages with the outcome that the RFCs, or our own rules where they are
// stricter, ask for. conformance/README.md describes the format.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dirigent::test {

struct ConformanceCase {
  std::string file;
  int line = 0;
  std::string title;
  std::string source;                 // the section that decides
  std::string message;                // as it goes over the wire
  std::vector<std::string> expected;  // the lines after "--", in order

  // The first expectation that begins with `word` and a blank, without both; "" when there is none.
  [[nodiscard]] std::string find(std::string_view word) const;
  [[nodiscard]] bool has(std::string_view line) const;
};

// Throws std::runtime_error with file and line when a file cannot be read or understood.
std::vector<ConformanceCase> read_conformance_cases(const std::string& file);
// The escapes of the format: \r \n \t \0 \s \\ \xHH \{TEXT*COUNT}.
std::string unescape(std::string_view text);
// The other direction, short enough to be printed.
std::string printable(std::string_view bytes);

// How a message is cut into writes. Whatever the cuts, the outcome is the same.
enum class Pieces { whole, bytes, two };
constexpr Pieces kAllPieces[] = {Pieces::whole, Pieces::bytes, Pieces::two};
std::string_view to_string(Pieces pieces);
// `place` chooses where the message is cut in two.
std::vector<std::string_view> cut(std::string_view message, Pieces pieces, std::size_t place);

}  // namespace dirigent::test
