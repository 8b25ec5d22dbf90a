// SPDX-License-Identifier: MIT
//
// Takes the framing off a message body, in place: what is left of a buffer after decode() are payload bytes only. Strict:
// chunk sizes are 1 to 15 hexadecimal digits, lines end with CR LF, trailers obey the rules of headers. Chunk extensions
// are dropped, and refused when they are more than the payload they come with can excuse. Of the trailers those pass that
// neither frame, route, authenticate nor describe the message, and that Connection does not list.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "roles/data/http_head.h"

namespace dirigent::roles {

class BodyDecoder {
 public:
  void begin(Framing framing, std::uint64_t length);
  // After begin(): trailers that the head's Connection lists go no further (RFC 9110 7.6.1).
  void withhold_listed(const MessageHead& head);

  struct Step {
    std::size_t consumed = 0;  // bytes of the input that belong to this message
    std::size_t produced = 0;  // payload bytes, moved to the front of the input
  };
  // Eats as much of `data` as belongs to the body.
  Step decode(char* data, std::size_t size);
  // The peer has sent its last byte. False: in the middle of the body.
  bool end_of_input();

  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] const char* problem() const { return problem_; }  // nullptr while all is well
  // How many bytes are still to come, as far as that is known.
  [[nodiscard]] std::uint64_t expected() const { return framing_ == Framing::length ? remaining_ : UINT64_MAX; }
  [[nodiscard]] Framing framing() const { return framing_; }
  // The lines after the last chunk that may be passed on, each with its CR LF. After done().
  [[nodiscard]] std::string_view trailers() const { return trailers_; }

 private:
  enum class State : std::uint8_t { size, extension, size_newline, data, data_return, data_newline, trailer };
  static constexpr std::size_t kLineMax = 8 * 1024;
  static constexpr std::size_t kTrailersMax = 16 * 1024;
  static constexpr std::uint64_t kExtensionsMax = 16 * 1024;  // of one body, beyond one byte for each of payload

  Step decode_chunked(char* data, std::size_t size);
  void read_trailer_byte(char c);
  void keep_trailer(std::string_view line);

  Framing framing_ = Framing::none;
  State state_ = State::size;
  bool done_ = true;
  std::uint8_t digits_ = 0;
  std::uint64_t remaining_ = 0;
  std::size_t line_bytes_ = 0;
  std::size_t trailer_bytes_ = 0;
  std::uint64_t payload_bytes_ = 0;    // of chunked bodies
  std::uint64_t extension_bytes_ = 0;
  const char* problem_ = nullptr;
  std::string line_;
  std::string trailers_;
  std::string withheld_;  // a list of names
};

}  // namespace dirigent::roles
