// SPDX-License-Identifier: MIT
//
// The name of one asynchronous call: 128 bits that look like a version 4 UUID, so that clients which expect one are
// content. Of these, 32 bits name the store that keeps the call (any data plane can so tell whom to ask), 16 check the
// rest (a mistyped id is told from one that has been forgotten), 6 are the UUID's own and 74 are random: whoever knows
// the id may read the result, so they come from the operating system.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace dirigent {

using StoreId = std::uint32_t;  // of a directory of calls; 0 = none

struct CallId {
  static constexpr std::size_t kTextSize = 36;
  std::array<std::uint8_t, 16> bytes{};

  [[nodiscard]] StoreId store() const {
    return StoreId{bytes[0]} << 24 | StoreId{bytes[1]} << 16 | StoreId{bytes[2]} << 8 | StoreId{bytes[3]};
  }
  friend bool operator==(const CallId&, const CallId&) = default;
  friend auto operator<=>(const CallId&, const CallId&) = default;
};

// `random`: ten bytes that nobody can guess.
CallId make_call_id(StoreId store, const std::array<std::uint8_t, 10>& random);
// "6f1d2a30-9c1b-4e0f-8a55-0d3c7b21f9e4", lower case.
std::string to_string(const CallId& id);
// nullopt: not the form of one, or its check does not fit.
std::optional<CallId> parse_call_id(std::string_view text);

struct CallIdHash {
  std::size_t operator()(const CallId& id) const {
    std::uint64_t parts[2];
    std::memcpy(parts, id.bytes.data(), sizeof parts);
    // The random bytes lie in both halves; the store's number is the same for all.
    return static_cast<std::size_t>(parts[0] * 0x9e3779b97f4a7c15ULL ^ parts[1]);
  }
};

}  // namespace dirigent
