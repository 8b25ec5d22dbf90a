// SPDX-License-Identifier: MIT
//
// Which function a request is for, and how a call is named.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "dirigent/base/random.h"
#include "dirigent/base/time.h"

namespace dirigent::roles {

// What a request target says before anybody looks at Host.
enum class PathKind {
  by_path,    // /function/NAME[.NS][/rest][?query]
  by_host,    // any other path
  health,     // /healthz: the function that Host names, else our own answer
  async_call,    // /async-function/NAME[.NS][/rest][?query]: as by_path, but kept and run later
  async_result,  // GET /async-function/result/ID: `name` is the id
  async_cancel,  // DELETE /async-function/ID: `name` is the id
  reserved,   // belongs to the platform, and is not served here
};
struct NamedPath {
  PathKind kind = PathKind::by_host;
  std::string_view name;          // by_path, async_call: as written
  // Beside Host, which then means nothing.
  [[nodiscard]] bool names_function() const { return kind == PathKind::by_path || kind == PathKind::async_call; }
  std::string_view rest;          // by_path: from the '/' or '?' on after the name; may be empty
};
NamedPath name_by_path(std::string_view target, std::string_view method = "POST");

// The names a Host may mean, best first: the whole host, its first two labels (NAME.NS), its first label. Lower-cased,
// without port, trailing dot and ".default". Addresses and ill-formed hosts have none.
class HostNames {
 public:
  explicit HostNames(std::string_view host);
  [[nodiscard]] const std::string_view* begin() const { return names_.data(); }
  [[nodiscard]] const std::string_view* end() const { return names_.data() + count_; }

 private:
  void add(std::string_view name);
  std::array<char, 256> text_;
  std::array<std::string_view, 3> names_;
  std::size_t count_ = 0;
};

// A tag names a deployment of a function that is called on demand only, beside the one that everybody gets: TAG--NAME. A
// request names it in its path or Host, or with the header Knative-Serving-Tag beside the function's own name.
inline constexpr std::string_view kTagSeparator = "--";
// The name "TAG--NAME" in `to`; empty when it is longer than a name can be.
std::string_view tagged_name(std::string_view tag, std::string_view name, std::array<char, 256>& to);

// Drops ".default" from a written name.
std::string_view canonical_name(std::string_view name);

// A client's call id is kept when it is harmless everywhere it is printed: 1 to 64 of A-Z a-z 0-9 - _ .
bool is_call_id(std::string_view text);
inline constexpr std::size_t kCallIdMax = 64;
inline constexpr std::size_t kUlidSize = 26;
// 48 bits of milliseconds and 80 random bits in Crockford's base 32: sorts by time.
void write_ulid(char* to, WallTime now, Rng& rng);

}  // namespace dirigent::roles
