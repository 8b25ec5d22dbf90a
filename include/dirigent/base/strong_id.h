// SPDX-License-Identifier: MIT
//
// Strong ids: values that are ordered, hashed and printed like their representation, but never mixed up.
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace dirigent {

// A number with a meaning. `Tag` is any type of its own, usually declared in place:
//   using Generation = StrongNumber<struct GenerationTag>;
template <class Tag, class Rep = std::uint64_t>
struct StrongNumber {
  Rep value{};
  constexpr auto operator<=>(const StrongNumber&) const = default;
};

// A text with a meaning.
template <class Tag>
struct StrongText {
  std::string value;
  auto operator<=>(const StrongText&) const = default;
  [[nodiscard]] bool empty() const { return value.empty(); }
};

}  // namespace dirigent

template <class Tag, class Rep>
struct std::hash<dirigent::StrongNumber<Tag, Rep>> {
  std::size_t operator()(const dirigent::StrongNumber<Tag, Rep>& id) const noexcept { return std::hash<Rep>{}(id.value); }
};
// Not noexcept: libstdc++ then keeps each element's hash, so that a lookup compares texts only where hashes are equal.
template <class Tag>
struct std::hash<dirigent::StrongText<Tag>> {
  std::size_t operator()(const dirigent::StrongText<Tag>& id) const {
    return std::hash<std::string>{}(id.value);
  }
};
template <class Tag, class Rep>
struct fmt::formatter<dirigent::StrongNumber<Tag, Rep>> : fmt::formatter<Rep> {
  auto format(const dirigent::StrongNumber<Tag, Rep>& id, fmt::format_context& context) const {
    return fmt::formatter<Rep>::format(id.value, context);
  }
};
template <class Tag>
struct fmt::formatter<dirigent::StrongText<Tag>> : fmt::formatter<std::string_view> {
  auto format(const dirigent::StrongText<Tag>& id, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(id.value, context);
  }
};
