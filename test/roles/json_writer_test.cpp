// SPDX-License-Identifier: MIT
#include "roles/control/json_writer.h"

#include <limits>

#include "catch.h"
#include "dirigent/base/random.h"
#include "roles/control/json_text.h"

namespace dirigent::roles {
namespace {

std::string any_text(Rng& rng) {
  static const std::vector<std::string> pieces{"a", "\"", "\\", "/", "\n", "\t", "\x01", "\x1f", "\x7f",
                                               "\xc3\xa9", "\xff", "\xe2\x82", "\xf0\x9f\x98\x80", " "};
  std::string text;
  // Now and then longer than what the writer puts together before it is asked for room.
  for (auto n = rng.below(rng.below(50) == 0 ? 3000 : 8); n > 0; --n) text += pieces[rng.below(pieces.size())];
  return text;
}

double any_number(Rng& rng) {
  static const std::vector<double> odd{0, -0.0, 1, -1, 0.1, 1e15, 999'999'999'999'999, -1e15,
                                       1e16, 1e300, 5e-324, 1e-7, 123456.789, 9007199254740993.0,
                                       std::numeric_limits<double>::max(), std::numeric_limits<double>::infinity(),
                                       std::numeric_limits<double>::quiet_NaN()};
  if (rng.below(2) == 0) return odd[rng.below(odd.size())];
  return (rng.unit() - 0.5) * static_cast<double>(rng.below(1'000'000));
}

// The same value both ways.
Json write_any(Rng& rng, JsonWriter& json, int depth) {
  switch (rng.below(depth > 0 ? 9 : 7)) {
    case 0: {
      const std::string text = any_text(rng);
      json.value(text);
      return text;
    }
    case 1: {
      const double number = any_number(rng);
      json.value(number);
      return number;
    }
    case 2: {
      const auto number = static_cast<std::int64_t>(rng());
      json.value(number);
      return number;
    }
    case 3: {
      const std::uint64_t number = rng();
      json.value(number);
      return number;
    }
    case 4: {
      const bool on = rng.below(2) == 0;
      json.value(on);
      return on;
    }
    case 5: {
      const auto maybe = rng.below(2) == 0 ? std::optional<std::uint32_t>() : std::optional<std::uint32_t>(7);
      json.value(maybe);
      return maybe ? Json(*maybe) : Json();
    }
    case 6: {
      std::map<std::string, std::string> texts;
      for (auto n = rng.below(3); n > 0; --n) texts[any_text(rng)] = any_text(rng);
      json.value(texts);
      Json object = Json::object();
      for (const auto& [name, text] : texts) object[name] = text;
      return object;
    }
    case 7: {
      Json array = Json::array();
      json.begin_array();
      for (auto n = rng.below(4); n > 0; --n) array.push_back(write_any(rng, json, depth - 1));
      json.end_array();
      return array;
    }
    default: {
      Json object = Json::object();
      json.begin_object();
      for (int i = 0; i < static_cast<int>(rng.below(4)); ++i) {
        const std::string name = i % 2 == 0 ? "plain_" + std::to_string(i) : std::to_string(i) + any_text(rng);
        if (i % 2 == 0) {
          json.key(name);
        } else {
          json.foreign_key(name);
        }
        object[name] = write_any(rng, json, depth - 1);
      }
      json.end_object();
      return object;
    }
  }
}

TEST_CASE("json writer: writes what the library prints for the same value, byte for byte") {
  const std::uint64_t seed = entropy_seed();
  INFO("seed " << seed);
  Rng rng(seed);
  for (int i = 0; i < 2000; ++i) {
    JsonWriter json;
    json.begin_array();
    const Json value = write_any(rng, json, 5);
    json.end_array();
    REQUIRE(json.take() == print_json(Json::array({value})));
  }
}

}  // namespace
}  // namespace dirigent::roles
