// SPDX-License-Identifier: MIT
//
// How many connections each client address has open, over all shards of a data plane. Any thread; used when a connection
// comes and goes, and only while there is a limit.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

namespace dirigent::roles {

class AddressCounts {
 public:
  using Address = std::array<std::uint8_t, 16>;  // IPv4 as ::ffff:a.b.c.d
  // Counts one more, unless there are `limit` already.
  bool try_add(const Address& address, std::uint32_t limit);
  void remove(const Address& address);

 private:
  struct Hash {
    std::size_t operator()(const Address& address) const;
  };
  std::mutex mutex_;
  std::unordered_map<Address, std::uint32_t, Hash> counts_;
};

}  // namespace dirigent::roles
