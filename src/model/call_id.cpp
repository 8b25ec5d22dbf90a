// SPDX-License-Identifier: MIT
#include "dirigent/model/call_id.h"

namespace dirigent {

namespace {

// FNV-1a over everything but the check itself, folded to 16 bits.
std::uint16_t check_of(const CallId& id) {
  std::uint32_t hash = 2166136261U;
  for (std::size_t i = 0; i < 14; ++i) hash = (hash ^ id.bytes[i]) * 16777619U;
  return static_cast<std::uint16_t>(hash ^ hash >> 16);
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_dash(std::size_t at) { return at == 8 || at == 13 || at == 18 || at == 23; }

}  // namespace

CallId make_call_id(StoreId store, const std::array<std::uint8_t, 10>& random) {
  CallId id;
  for (std::size_t i = 0; i < 4; ++i) id.bytes[i] = static_cast<std::uint8_t>(store >> (24 - 8 * i));
  for (std::size_t i = 0; i < random.size(); ++i) id.bytes[4 + i] = random[i];
  id.bytes[6] = static_cast<std::uint8_t>((id.bytes[6] & 0x0f) | 0x40);
  id.bytes[8] = static_cast<std::uint8_t>((id.bytes[8] & 0x3f) | 0x80);
  const std::uint16_t check = check_of(id);
  id.bytes[14] = static_cast<std::uint8_t>(check >> 8);
  id.bytes[15] = static_cast<std::uint8_t>(check & 0xff);
  return id;
}

std::string to_string(const CallId& id) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(CallId::kTextSize);
  for (const std::uint8_t byte : id.bytes) {
    if (is_dash(text.size())) text += '-';
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::optional<CallId> parse_call_id(std::string_view text) {
  if (text.size() != CallId::kTextSize) return std::nullopt;
  CallId id;
  std::size_t digit = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_dash(i)) {
      if (text[i] != '-') return std::nullopt;
      continue;
    }
    const int value = hex_value(text[i]);
    if (value < 0) return std::nullopt;
    id.bytes[digit / 2] = static_cast<std::uint8_t>(id.bytes[digit / 2] << 4 | value);
    ++digit;
  }
  const std::uint16_t check = check_of(id);
  if (id.bytes[14] != check >> 8 || id.bytes[15] != (check & 0xff)) return std::nullopt;
  return id;
}

}  // namespace dirigent
