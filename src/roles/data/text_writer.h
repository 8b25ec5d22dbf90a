// SPDX-License-Identifier: MIT
//
// Writes heads into a block without allocating. The writer of a head knows how long it can get and takes a block to match.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "dirigent/base/assert.h"
#include "dirigent/base/time.h"

namespace dirigent::roles {

class TextWriter {
 public:
  TextWriter(char* to, std::size_t capacity) : begin_(to), at_(to), end_(to + capacity) {}

  TextWriter& add(std::string_view text) {
    ASSERT(text.size() <= static_cast<std::size_t>(end_ - at_));
    if (!text.empty()) std::memcpy(at_, text.data(), text.size());  // an empty view may point nowhere
    at_ += text.size();
    return *this;
  }
  TextWriter& add_number(std::uint64_t value) {
    char digits[20];
    const auto result = std::to_chars(digits, digits + sizeof digits, value);
    return add({digits, static_cast<std::size_t>(result.ptr - digits)});
  }
  // A number with `decimals` digits after the point: 1234567 / 10^6 is "1.234567".
  TextWriter& add_decimal(std::uint64_t value, int decimals) {
    std::uint64_t unit = 1;
    for (int i = 0; i < decimals; ++i) unit *= 10;
    add_number(value / unit);
    char fraction[20];
    fraction[0] = '.';
    std::uint64_t rest = value % unit;
    for (int i = decimals; i > 0; --i, rest /= 10) fraction[i] = static_cast<char>('0' + rest % 10);
    return add({fraction, static_cast<std::size_t>(decimals) + 1});
  }
  TextWriter& add_milliseconds(Duration duration) {
    const auto nanoseconds = duration.count() < 0 ? 0 : duration.count();
    return add_decimal(static_cast<std::uint64_t>(nanoseconds) / 1000, 3);
  }
  TextWriter& add_header(std::string_view name, std::string_view value) {
    return add(name).add(": ").add(value).add("\r\n");
  }

  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(at_ - begin_); }

 private:
  char* begin_;
  char* at_;
  char* end_;
};

}  // namespace dirigent::roles
