// SPDX-License-Identifier: MIT
//
// What the tests of a store of calls share.
#pragma once

#include <array>
#include <string>

#include "dirigent/store/call_store.h"

namespace dirigent::store::test {

inline CallId id_of(std::uint32_t number, StoreId store = 7) {
  std::array<std::uint8_t, 10> random{};
  for (std::size_t i = 0; i < 4; ++i) random[i] = static_cast<std::uint8_t>(number >> 8 * i);
  return make_call_id(store, random);
}

// A store that has many files soon.
inline CallStoreOptions small(const std::string& directory, Bytes segment = 256_KiB) {
  CallStoreOptions options;
  options.directory = directory;
  options.bytes_max = 16_MiB;
  options.segment_bytes = segment;
  return options;
}

}  // namespace dirigent::store::test
