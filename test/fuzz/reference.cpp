// SPDX-License-Identifier: MIT
#include "reference.h"

#include <algorithm>
#include <cstdint>
#include <optional>

namespace dirigent::fuzz {

namespace {

bool is_name_byte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}
bool is_name(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), is_name_byte); }
bool is_field_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
}

std::string strip(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \t") + 1 - begin));
}

std::vector<std::string> list_of(const ReferenceMessage& message, std::string_view name) {
  std::vector<std::string> elements;
  for (const auto& [header, value] : message.headers) {
    if (header != name) continue;
    std::size_t at = 0;
    while (at <= value.size()) {
      const std::size_t comma = std::min(value.find(',', at), value.size());
      if (std::string element = lower_case(strip(std::string_view(value).substr(at, comma - at))); !element.empty())
        elements.push_back(element);
      at = comma + 1;
    }
  }
  return elements;
}

bool has(const std::vector<std::string>& list, std::string_view element) {
  return std::find(list.begin(), list.end(), element) != list.end();
}

class Reader {
 public:
  Reader(std::string_view bytes, ReferenceMessage& message) : bytes_(bytes), message_(message) {}

  // nullopt: the line is not there yet, or broken.
  std::optional<std::string> line() {
    const std::size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) return std::nullopt;
    if (end == at_ || bytes_[end - 1] != '\r') {
      broken("a line without CR LF");
      return std::nullopt;
    }
    std::string text(bytes_.substr(at_, end - 1 - at_));
    at_ = end + 1;
    if (!std::all_of(text.begin(), text.end(), is_field_byte)) {
      broken("a control byte");
      return std::nullopt;
    }
    return text;
  }
  void broken(std::string_view why) {
    message_.reading = Reading::broken;
    message_.why = why;
  }
  [[nodiscard]] bool is_broken() const { return message_.reading == Reading::broken; }
  [[nodiscard]] std::string_view rest() const { return bytes_.substr(at_); }
  void skip(std::size_t size) { at_ += size; }
  [[nodiscard]] std::size_t at() const { return at_; }

  // Header or trailer lines up to the empty one. False: incomplete or broken.
  template <class Each>
  bool fields(Each each) {
    for (;;) {
      const auto text = line();
      if (!text) return false;
      if (text->empty()) return true;
      const std::size_t colon = text->find(':');
      if (colon == std::string::npos || !is_name(text->substr(0, colon))) {
        broken("not a header line");
        return false;
      }
      each(text->substr(0, colon), strip(std::string_view(*text).substr(colon + 1)));
    }
  }

 private:
  std::string_view bytes_;
  ReferenceMessage& message_;
  std::size_t at_ = 0;
};

bool read_headers(Reader& reader, ReferenceMessage& message) {
  const bool whole = reader.fields([&](const std::string& name, const std::string& value) {
    message.headers.emplace_back(lower_case(name), value);
  });
  message.head_is_whole = whole;
  return whole;
}

struct Frame {
  bool chunked = false;
  std::optional<std::uint64_t> length;
};

bool read_frame(Reader& reader, const ReferenceMessage& message, Frame& frame) {
  const std::size_t codings = message.count("transfer-encoding");
  const std::size_t lengths = message.count("content-length");
  if (codings > 1 || lengths > 1 || (codings == 1 && lengths == 1)) {
    reader.broken("ambiguous framing");
    return false;
  }
  if (codings == 1) {
    if (lower_case(message.get("transfer-encoding")) != "chunked" || message.minor == 0) {
      reader.broken("a transfer coding that is not chunked");
      return false;
    }
    frame.chunked = true;
  }
  if (lengths == 1) {
    const std::string text = message.get("content-length");
    if (text.empty() || text.size() > 18 ||
        !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      reader.broken("a length that is no number");
      return false;
    }
    frame.length = std::stoull(text);
  }
  return true;
}

bool read_chunks(Reader& reader, ReferenceMessage& message) {
  for (;;) {
    const auto line = reader.line();
    if (!line) return false;
    const std::string digits = line->substr(0, line->find(';'));
    if (digits.empty() || digits.size() > 15 ||
        digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      reader.broken("a chunk size that is no number");
      return false;
    }
    const std::uint64_t size = std::stoull(digits, nullptr, 16);
    if (size == 0) break;
    const std::string_view rest = reader.rest();
    message.body += rest.substr(0, std::min<std::uint64_t>(size, rest.size()));
    if (rest.size() > size && rest[size] != '\r') reader.broken("a chunk longer than its size");
    if (rest.size() > size + 1 && rest[size + 1] != '\n') reader.broken("a chunk longer than its size");
    if (reader.is_broken() || rest.size() < size + 2) return false;
    reader.skip(size + 2);
  }
  return reader.fields(
      [&](const std::string& name, const std::string& value) { message.trailers.push_back(name + ": " + value); });
}

void read_body(Reader& reader, ReferenceMessage& message, const Frame& frame) {
  if (frame.chunked) {
    if (!read_chunks(reader, message)) return;
  } else if (frame.length) {
    const std::string_view rest = reader.rest();
    message.body = rest.substr(0, std::min<std::uint64_t>(*frame.length, rest.size()));
    if (rest.size() < *frame.length) return;
    reader.skip(message.body.size());
  }
  message.reading = Reading::whole;
  message.size = reader.at();
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string lowered(text);
  for (char& c : lowered) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return lowered;
}

std::size_t ReferenceMessage::count(std::string_view name) const {
  return static_cast<std::size_t>(
      std::count_if(headers.begin(), headers.end(), [&](const auto& header) { return header.first == name; }));
}
std::string ReferenceMessage::get(std::string_view name) const {
  const auto found =
      std::find_if(headers.begin(), headers.end(), [&](const auto& header) { return header.first == name; });
  return found == headers.end() ? "" : found->second;
}

ReferenceMessage read_reference_request(std::string_view bytes) {
  ReferenceMessage message;
  const std::size_t skipped = bytes.starts_with("\r\n") ? 2 : 0;
  Reader reader(bytes.substr(skipped), message);
  const auto first = reader.line();
  if (!first) return message;
  const std::size_t one = first->find(' ');
  const std::size_t two = one == std::string::npos ? one : first->find(' ', one + 1);
  const std::string version = two == std::string::npos ? "" : first->substr(two + 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    reader.broken("not a request line");
    return message;
  }
  message.method = first->substr(0, one);
  message.target = first->substr(one + 1, two - one - 1);
  message.minor = version.back() - '0';
  const bool target_is_text =
      std::all_of(message.target.begin(), message.target.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (!is_name(message.method) || message.target.empty() || !target_is_text) {
    reader.broken("not a request line");
    return message;
  }
  if (!read_headers(reader, message)) return message;
  const std::size_t hosts = message.count("host");
  Frame frame;
  if (hosts > 1 || (hosts == 0 && message.minor == 1)) reader.broken("not one Host");
  if (reader.is_broken() || !read_frame(reader, message, frame)) return message;
  const auto options = list_of(message, "connection");
  message.last = has(options, "close") || (message.minor == 0 && !has(options, "keep-alive"));
  read_body(reader, message, frame);
  message.size += message.reading == Reading::whole ? skipped : 0;
  return message;
}

ReferenceMessage read_reference_response(std::string_view bytes, bool answers_head, bool ended) {
  ReferenceMessage message;
  Reader reader(bytes, message);
  const auto first = reader.line();
  if (!first) return message;
  const bool is_digits = first->size() >= 12 && std::all_of(first->begin() + 9, first->begin() + 12,
                                                            [](char c) { return c >= '0' && c <= '9'; });
  if ((!first->starts_with("HTTP/1.1 ") && !first->starts_with("HTTP/1.0 ")) || !is_digits ||
      (first->size() > 12 && (*first)[12] != ' ') || (*first)[9] == '0') {
    reader.broken("not a status line");
    return message;
  }
  message.minor = (*first)[7] - '0';
  message.status = std::stoi(first->substr(9, 3));
  Frame frame;
  if (!read_headers(reader, message) || !read_frame(reader, message, frame)) return message;
  const auto options = list_of(message, "connection");
  message.last = has(options, "close") || (message.minor == 0 && !has(options, "keep-alive"));
  const bool bodiless = answers_head || message.status < 200 || message.status == 204 || message.status == 304;
  if ((message.status < 200 || message.status == 204) && frame.chunked) {
    reader.broken("chunks of a response without a body");
    return message;
  }
  if (bodiless) {
    message.reading = Reading::whole;
    message.size = reader.at();
  } else if (!frame.chunked && !frame.length) {
    message.body = reader.rest();
    message.last = true;
    message.size = bytes.size();
    message.reading = ended ? Reading::whole : Reading::incomplete;
  } else {
    read_body(reader, message, frame);
  }
  return message;
}

}  // namespace dirigent::fuzz
