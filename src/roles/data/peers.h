// SPDX-License-Identifier: MIT
//
// Who connects: what a front knows of its client, which clients are trusted proxies, and how many connections an
// address has.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dirigent/base/result.h"
#include "roles/data/upstream.h"

namespace dirigent::roles {

using PeerKey = std::array<std::uint8_t, 16>;  // an address without its port; IPv4 as ::ffff:a.b.c.d

struct ClientPeer {
  static ClientPeer of(const SocketAddress& address);
  [[nodiscard]] std::string_view address() const { return {text.data(), size}; }

  std::array<char, 48> text{};  // the address without its port
  std::uint8_t size = 0;
  bool trusted = false;         // its X-Forwarded-* are believed
  bool counted = false;         // among the connections of its address
  PeerKey key{};
};

// A parsed entry of trusted_proxies.
class PeerFilter {
 public:
  static Result<PeerFilter> parse(const std::vector<std::string>& entries);
  [[nodiscard]] bool contains(const SocketAddress& peer) const;

 private:
  struct Network {
    PeerKey address{};
    int bits = 128;
  };
  std::vector<Network> networks_;
};

// How many connections each client address has open, over all shards of a data plane. Any thread; used when a
// connection comes and goes, and only while there is a limit.
class AddressCounts {
 public:
  // Counts one more, unless there are `limit` already.
  bool try_add(const PeerKey& address, std::uint32_t limit);
  void remove(const PeerKey& address);

 private:
  struct Hash {
    std::size_t operator()(const PeerKey& address) const;
  };
  std::mutex mutex_;
  std::unordered_map<PeerKey, std::uint32_t, Hash> counts_;
};

}  // namespace dirigent::roles
