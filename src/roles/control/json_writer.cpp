// SPDX-License-Identifier: MIT
#include "roles/control/json_writer.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "roles/control/json_text.h"

namespace dirigent::roles {

namespace {

constexpr std::size_t kNumberSizeMax = 64;  // as many as the library has room for itself

bool is_plain(std::string_view text) {
  for (const char c : text) {
    if (c < 0x20 || c > 0x7e || c == '"' || c == '\\') return false;
  }
  return true;
}

}  // namespace

std::string JsonWriter::take() {
  flush();
  return std::move(text_);
}

void JsonWriter::flush() {
  text_.append(staged_.data(), staged_size_);
  staged_size_ = 0;
}

void JsonWriter::put_long(std::string_view text) {
  flush();
  text_ += text;
}

void JsonWriter::begin(char bracket) {
  separate();
  put(bracket);
  needs_comma_ = false;
}

void JsonWriter::end(char bracket) {
  put(bracket);
  needs_comma_ = true;
}

void JsonWriter::key(std::string_view name) {
  if (needs_comma_) put(',');
  put('"');
  put(name);
  put('"');
  put(':');
  needs_comma_ = false;
}

void JsonWriter::foreign_key(std::string_view name) {
  separate();
  write_text(name);
  put(':');
  needs_comma_ = false;
}

void JsonWriter::null() {
  separate();
  put("null");
}

void JsonWriter::value(std::string_view text) {
  separate();
  write_text(text);
}

void JsonWriter::write_text(std::string_view text) {
  if (is_plain(text)) {
    put('"');
    put(text);
    put('"');
  } else {
    put(print_json(Json(text)));
  }
}

void JsonWriter::value(bool on) {
  separate();
  put(on ? std::string_view("true") : std::string_view("false"));
}

void JsonWriter::value(double number) {
  separate();
  // Whole numbers are the most. From 1e15 on the library writes an exponent.
  if (std::abs(number) < 1e15 && number == std::trunc(number) && !(number == 0 && std::signbit(number))) {
    write_digits(static_cast<std::int64_t>(number));
    put(".0");
  } else if (std::isfinite(number)) {
    char* place = room(kNumberSizeMax);
    staged_size_ += static_cast<std::size_t>(nlohmann::detail::to_chars(place, place + kNumberSizeMax, number) - place);
  } else {
    put("null");
  }
}

template <class Number>
void JsonWriter::write_digits(Number number) {
  char* place = room(kNumberSizeMax);
  staged_size_ += static_cast<std::size_t>(std::to_chars(place, place + kNumberSizeMax, number).ptr - place);
}

void JsonWriter::write_integer(std::int64_t number) {
  separate();
  write_digits(number);
}

void JsonWriter::write_unsigned(std::uint64_t number) {
  separate();
  write_digits(number);
}

void JsonWriter::value(const std::vector<std::string>& texts) {
  begin_array();
  for (const auto& text : texts) value(text);
  end_array();
}

void JsonWriter::value(const std::map<std::string, std::string>& texts) {
  begin_object();
  for (const auto& [name, text] : texts) {
    foreign_key(name);
    value(text);
  }
  end_object();
}

}  // namespace dirigent::roles
