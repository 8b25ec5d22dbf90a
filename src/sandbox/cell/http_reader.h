// SPDX-License-Identifier: MIT
//
// Reads HTTP/1.x requests from a growing buffer: heads, bodies by Content-Length or chunked. Small and strict enough
// for a demonstration server behind a proxy; limits are in the constants.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dirigent::sandbox::cell {

inline constexpr std::size_t kHeadBytesMax = 64 * 1024;
inline constexpr std::size_t kBodyBytesMax = 16 * 1024 * 1024;

struct Request {
  std::string method;
  std::string target;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  bool keep_alive = true;
  bool is_http10 = false;

  [[nodiscard]] std::string_view header(std::string_view name) const;  // "" when absent; names compare without case
  [[nodiscard]] std::string_view path() const;
  // The value of `name` in the query; `present` tells "?name" and no "name" apart.
  [[nodiscard]] std::string query(std::string_view name, bool* present = nullptr) const;
  [[nodiscard]] long query_number(std::string_view name, long otherwise) const;
};

class RequestReader {
 public:
  enum class Next { more, request, failed };

  void append(const char* data, std::size_t size) { buffer_.append(data, size); }
  // `request`: take() gives it. `failed`: status() says with which answer the connection ends.
  Next next();
  Request take() { return std::move(request_); }
  [[nodiscard]] int status() const { return status_; }
  // True once for a request that waits for "100 Continue" before it sends its body.
  bool take_expectation() { return std::exchange(expects_continue_, false); }
  [[nodiscard]] bool idle() const { return stage_ == Stage::head && position_ == buffer_.size(); }

 private:
  enum class Stage { head, fixed_body, chunk_size, chunk_data, chunk_end, trailer };
  Next fail(int status) { status_ = status; return Next::failed; }
  Next read_head();
  Next read_chunk_size();
  bool parse_head(std::string_view head);
  Next finish();

  std::string buffer_;
  std::size_t position_ = 0;  // read up to here
  std::size_t searched_ = 0;  // the end of the head does not begin before here
  Stage stage_ = Stage::head;
  std::size_t missing_ = 0;   // of the body or chunk
  Request request_;
  int status_ = 400;
  bool expects_continue_ = false;
};

}  // namespace dirigent::sandbox::cell
