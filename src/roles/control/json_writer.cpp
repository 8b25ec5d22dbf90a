// SPDX-License-Identifier: MIT
#include "roles/control/json_writer.h"

#include <charconv>
#include <cmath>

#include "roles/control/json_text.h"

namespace dirigent::roles {

namespace {

bool is_plain(std::string_view text) {
  for (const char c : text) {
    if (c < 0x20 || c > 0x7e || c == '"' || c == '\\') return false;
  }
  return true;
}

void append_quoted(std::string& out, std::string_view text) {
  if (is_plain(text)) {
    out += '"';
    out += text;
    out += '"';
  } else {
    out += print_json(Json(text));
  }
}

template <class Number>
void append_number(std::string& out, Number number) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

}  // namespace

void JsonWriter::begin(char bracket) {
  separate();
  out_ += bracket;
  needs_comma_ = false;
}

void JsonWriter::end(char bracket) {
  out_ += bracket;
  needs_comma_ = true;
}

void JsonWriter::key(std::string_view name) {
  if (needs_comma_) out_ += ',';
  out_ += '"';
  out_ += name;
  out_.append("\":", 2);
  needs_comma_ = false;
}

void JsonWriter::foreign_key(std::string_view name) {
  separate();
  append_quoted(out_, name);
  out_ += ':';
  needs_comma_ = false;
}

void JsonWriter::null() {
  separate();
  out_ += "null";
}

void JsonWriter::value(std::string_view text) {
  separate();
  append_quoted(out_, text);
}

void JsonWriter::value(bool on) {
  separate();
  out_ += on ? "true" : "false";
}

void JsonWriter::value(double number) {
  separate();
  // Whole numbers are the most. From 1e15 on the library writes an exponent.
  if (std::abs(number) < 1e15 && number == std::trunc(number) && !(number == 0 && std::signbit(number))) {
    append_number(out_, static_cast<std::int64_t>(number));
    out_.append(".0", 2);
  } else if (std::isfinite(number)) {
    char digits[64];  // as many as the library has itself
    out_.append(digits, nlohmann::detail::to_chars(digits, digits + sizeof digits, number));
  } else {
    out_.append("null", 4);
  }
}

void JsonWriter::write_integer(std::int64_t number) {
  separate();
  append_number(out_, number);
}

void JsonWriter::write_unsigned(std::uint64_t number) {
  separate();
  append_number(out_, number);
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
