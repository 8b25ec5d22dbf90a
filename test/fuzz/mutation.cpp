// SPDX-License-Identifier: MIT
#include "mutation.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace dirigent::fuzz {

namespace {

constexpr std::string_view kWholeLines[] = {
    "Content-Length: 3\r\n", "Content-Length: 0\r\n", "Content-Length: 5, 5\r\n", "content-length:7\r\n",
    "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer-Encoding : chunked\r\n",
    "transfer-encoding:\tchunked\r\n", "Transfer_Encoding: chunked\r\n", "Host: f\r\n", "Host: nobody\r\n",
    "Connection: close\r\n", "Connection: keep-alive\r\n", "Connection: Host, Content-Length\r\n",
    "Connection: upgrade\r\nUpgrade: x\r\n", "Expect: 100-continue\r\n", "X-Forwarded-For: 1.2.3.4\r\n",
    "X-Dirigent-Reason: x\r\n", "X-Call-Id: c-1\r\n", "TE: trailers\r\n", "Trailer: X-Sum\r\n",
    "Connection: X-Sum\r\n", "X-Sum: 1\r\n", " folded\r\n", "\r\n", "\n", "\r", "3\r\nabc\r\n", "0\r\n\r\n",
    "0\r\nX-Sum: 1\r\n\r\n", "5;a=b\r\nhello\r\n", "GET /x HTTP/1.1\r\nHost: f\r\n\r\n",
    "POST /y HTTP/1.1\r\nHost: f\r\nContent-Length: 3\r\n\r\nabc", "HEAD /z HTTP/1.1\r\nHost: f\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"};

constexpr std::string_view kTokens[] = {
    "\r\n", "\n", "\r", "\r\n\r\n", " ", "\t", ":", ";", ",", "/", "//", "/../", "?", "#", "%00", "%2f", "*",
    "http://f/", "/function/f", "/function/", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "GET ", "HEAD ",
    "POST ", "OPTIONS ", "CONNECT ", "chunked", "close", "keep-alive", "upgrade", "0", "00", "1", "7", "f",
    "ffffffffffffffff", "10000000000000003", "-1", "+1", "0x3", "18446744073709551619", "999999999999999999", "_",
    "\0", "\x7f", "\xff", "\x0b", "\"", "\\"};

template <class Array>
std::string_view one_of(const Array& array, Rng& rng) {
  std::string_view chosen = array[rng.below(std::size(array))];
  return chosen.empty() ? std::string_view("\0", 1) : chosen;  // the literal "\0" has no length
}

struct Line {
  std::size_t at;
  std::size_t size;  // with its line end
};
std::vector<Line> lines_of(const std::string& text) {
  std::vector<Line> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::size_t size = (end == std::string::npos ? text.size() : end + 1) - at;
    lines.push_back({at, size});
    at += size;
  }
  return lines;
}

void mutate_lines(std::string& text, const std::string& other, Rng& rng) {
  const std::vector<Line> lines = lines_of(text);
  if (lines.empty()) {
    text = one_of(kWholeLines, rng);
    return;
  }
  const Line line = lines[rng.below(lines.size())];
  const Line second = lines[rng.below(lines.size())];
  switch (rng.below(6)) {
    case 0: text.erase(line.at, line.size); break;
    case 1: text.insert(second.at, text.substr(line.at, line.size)); break;
    case 2: text.insert(line.at, one_of(kWholeLines, rng)); break;
    case 3: text.replace(line.at, line.size, one_of(kWholeLines, rng)); break;
    case 4: {  // a line of somebody else
      const std::vector<Line> others = lines_of(other);
      if (!others.empty()) {
        const Line taken = others[rng.below(others.size())];
        text.insert(line.at, other, taken.at, taken.size);
      }
      break;
    }
    case 5: {  // swap
      const std::string moved = text.substr(line.at, line.size);
      text.erase(line.at, line.size);
      text.insert(std::min(second.at, text.size()), moved);
      break;
    }
  }
}

void mutate_tokens(std::string& text, Rng& rng) {
  const std::size_t at = rng.below(text.size() + 1);
  switch (rng.below(5)) {
    case 0: text.insert(at, one_of(kTokens, rng)); break;
    case 1: {
      const std::string_view token = one_of(kTokens, rng);
      text.replace(at, std::min(token.size(), text.size() - at), token);
      break;
    }
    case 2: {  // a number somewhere becomes another
      const std::size_t digit = text.find_first_of("0123456789", at);
      if (digit != std::string::npos) text[digit] = static_cast<char>('0' + rng.below(10));
      break;
    }
    case 3: {  // a letter changes its case
      const std::size_t letter = text.find_first_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", at);
      if (letter != std::string::npos) text[letter] = static_cast<char>(text[letter] ^ 0x20);
      break;
    }
    case 4: {  // blanks around what separates
      const std::size_t mark = text.find_first_of(":;, /", at);
      if (mark != std::string::npos) text.insert(mark + rng.below(2), rng.below(2) == 0 ? " " : "\t");
      break;
    }
  }
}

void mutate_bytes(std::string& text, Rng& rng) {
  if (text.empty()) return;
  const std::size_t at = rng.below(text.size());
  const std::size_t size = 1 + rng.below(std::min<std::size_t>(text.size() - at, 16));
  switch (rng.below(4)) {
    case 0: text[at] = static_cast<char>(rng.below(256)); break;
    case 1: text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8))); break;
    case 2: text.erase(at, size); break;
    case 3: text.insert(at, text.substr(at, size)); break;
  }
}

}  // namespace

void mutate_http_text(std::string& text, const std::string& other, Rng& rng) {
  switch (rng.below(8)) {
    case 0:
    case 1:
    case 2: mutate_lines(text, other, rng); break;
    case 3:
    case 4: mutate_tokens(text, rng); break;
    case 5:
    case 6: mutate_bytes(text, rng); break;
    case 7:  // the beginning of one message and the end of another
      if (rng.below(2) == 0) {
        text.append(other);
      } else {
        text = text.substr(0, rng.below(text.size() + 1)) + other.substr(rng.below(other.size() + 1));
      }
      break;
  }
}

}  // namespace dirigent::fuzz
