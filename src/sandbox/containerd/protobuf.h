// SPDX-License-Identifier: MIT
//
// The encoding of protocol buffers, as much of it as containerd's messages need: numbers, texts and messages in fields.
// Some twenty messages of a few fields do not pay for a code generator and its library.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dirigent::sandbox::protobuf {

class Writer {
 public:
  // As the format says, what has its default value is left out.
  Writer& number(std::uint32_t field, std::uint64_t value) {
    if (value == 0) return *this;
    varint(field << 3);
    varint(value);
    return *this;
  }
  Writer& text(std::uint32_t field, std::string_view value) { return value.empty() ? *this : message(field, value); }
  // Also for empty messages, which mean something in lists.
  Writer& message(std::uint32_t field, std::string_view bytes) {
    varint(field << 3 | 2);
    varint(bytes.size());
    bytes_.append(bytes);
    return *this;
  }
  Writer& message(std::uint32_t field, const Writer& inner) { return message(field, inner.bytes()); }
  // One entry of a map of texts.
  Writer& entry(std::uint32_t field, std::string_view key, std::string_view value) {
    return message(field, Writer().text(1, key).text(2, value));
  }
  // google.protobuf.Any.
  static Writer any(std::string_view type, std::string_view value) { return std::move(Writer().text(1, type).text(2, value)); }

  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>(value | 0x80));
    bytes_.push_back(static_cast<char>(value));
  }
  std::string bytes_;
};

struct Field {
  std::uint32_t number = 0;
  std::uint64_t value = 0;   // of numbers
  std::string_view bytes;    // of texts and messages
};

// Reads field by field; ends at the end, and at the first thing that is not well-formed.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  std::optional<Field> next() {
    const auto key = varint();
    if (!key) return std::nullopt;
    Field field;
    field.number = static_cast<std::uint32_t>(*key >> 3);
    switch (*key & 7) {
      case 0: {
        const auto value = varint();
        if (!value) return std::nullopt;
        field.value = *value;
        return field;
      }
      case 1: return take(8, field);
      case 2: {
        const auto size = varint();
        return size ? take(*size, field) : std::nullopt;
      }
      case 5: return take(4, field);
      default: return std::nullopt;
    }
  }

 private:
  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return std::nullopt;
  }
  std::optional<Field> take(std::uint64_t size, Field field) {
    if (size > rest_.size()) return std::nullopt;
    field.bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return field;
  }
  std::string_view rest_;
};

// The number or text in one field of a message; 0 or "" when it is not there.
inline std::uint64_t number_in(std::string_view message, std::uint32_t field) {
  Reader reader(message);
  while (const auto one = reader.next()) {
    if (one->number == field) return one->value;
  }
  return 0;
}
inline std::string text_in(std::string_view message, std::uint32_t field) {
  Reader reader(message);
  while (const auto one = reader.next()) {
    if (one->number == field) return std::string(one->bytes);
  }
  return "";
}

}  // namespace dirigent::sandbox::protobuf
