// SPDX-License-Identifier: MIT
//
// Writes JSON as text, part by part, without making values first: a list of ten thousand functions is made ten times as
// fast. The text is what print_json() gives for the same value, byte for byte. Private to the control role's APIs.
//
//   JsonWriter json(text);
//   json.begin_object();
//   json.member("name", function.name.value);
//   json.key("sandboxes");
//   json.begin_array();
//   ...
//
// Whoever writes keeps the order of begin and end, and gives each value in an object a key; nothing is checked.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/strong_id.h"

namespace dirigent::roles {

class JsonWriter {
 public:
  // Appends to `out`, which must outlive it.
  explicit JsonWriter(std::string& out) : out_(out) {}

  void begin_object() { begin('{'); }
  void end_object() { end('}'); }
  void begin_array() { begin('['); }
  void end_array() { end(']'); }
  // REQUIRES: a name of ours, in which nothing has to be escaped.
  void key(std::string_view name);
  // Any text; what is not UTF-8 becomes U+FFFD, as in values.
  void foreign_key(std::string_view name);

  void null();
  void value(std::string_view text);
  void value(const char* text) { value(std::string_view(text)); }
  void value(const std::string& text) { value(std::string_view(text)); }
  void value(bool on);
  void value(double number);
  void value(std::signed_integral auto number) { write_integer(static_cast<std::int64_t>(number)); }
  void value(std::unsigned_integral auto number) { write_unsigned(static_cast<std::uint64_t>(number)); }
  void value(const std::vector<std::string>& texts);
  void value(const std::map<std::string, std::string>& texts);
  template <class Tag, class Number>
  void value(StrongNumber<Tag, Number> number) {
    value(number.value);
  }
  template <class T>
  void value(const std::optional<T>& maybe) {
    if (maybe) {
      value(*maybe);
    } else {
      null();
    }
  }

  template <class T>
  void member(std::string_view name, const T& content) {
    key(name);
    value(content);
  }

 private:
  void begin(char bracket);
  void end(char bracket);
  void separate() {
    if (needs_comma_) out_ += ',';
    needs_comma_ = true;
  }
  void write_integer(std::int64_t number);
  void write_unsigned(std::uint64_t number);

  std::string& out_;
  bool needs_comma_ = false;  // something stands before what comes next
};

}  // namespace dirigent::roles
