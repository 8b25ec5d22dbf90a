// SPDX-License-Identifier: MIT
//
// Reads HTTP/1.1 responses of one connection as their bytes come: the status, three headers, where the body ends and
// how it begins. Built for speed: a response that comes in one piece is never copied. Not a judge of the server
// (roles/data is); what it cannot delimit with certainty is an error. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/bench/measurement.h"

namespace dirigent::bench {

constexpr std::size_t kBodyKept = 512;  // of each answer, for what trace functions say
constexpr std::size_t kHeadBytesMax = 64 * 1024;

class ResponseReader {
 public:
  enum class State { head, body, done, failed };

  // Begins a response. `to_head`: the request was a HEAD, the response has no body whatever it says.
  void begin(bool to_head);
  // Takes bytes; how many of them belong to this response. Stops at its end.
  std::size_t feed(std::string_view bytes);
  // The peer has closed its side: the end of a response without a length, an error otherwise.
  void finish();

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool has_head() const { return state_ == State::body || state_ == State::done; }
  [[nodiscard]] bool has_begun() const { return state_ != State::head || !head_.empty(); }
  [[nodiscard]] bool keeps_connection() const { return keeps_connection_; }

  [[nodiscard]] int status() const { return status_; }
  [[nodiscard]] const Timing& timing() const { return timing_; }
  [[nodiscard]] std::string_view reason() const { return reason_; }
  [[nodiscard]] std::string_view body() const { return body_; }
  [[nodiscard]] std::uint64_t body_bytes() const { return body_bytes_; }

 private:
  enum class Framing { none, length, chunked, until_close };
  enum class Chunk { size, data, data_end, trailer };

  std::size_t feed_head(std::string_view bytes);
  std::size_t feed_body(std::string_view bytes);
  std::size_t feed_chunked(std::string_view bytes);
  bool parse_head(std::string_view head);
  bool parse_header(std::string_view name, std::string_view value);
  bool parse_chunk_size();
  void keep_body(std::string_view bytes);

  State state_ = State::head;
  Framing framing_ = Framing::none;
  Chunk chunk_ = Chunk::size;
  bool to_head_ = false;
  bool keeps_connection_ = true;
  bool has_length_ = false;
  int status_ = 0;
  std::uint64_t left_ = 0;  // of the body or the chunk
  std::uint64_t body_bytes_ = 0;
  std::string head_;  // what came of it so far, when it comes in pieces
  std::string line_;  // of the chunked framing
  std::string body_;
  std::string reason_;
  Timing timing_;
};

}  // namespace dirigent::bench
