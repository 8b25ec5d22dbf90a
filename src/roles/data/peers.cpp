// SPDX-License-Identifier: MIT
#include "roles/data/peers.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "dirigent/base/assert.h"
#include "dirigent/base/text.h"

namespace dirigent::roles {

namespace {

PeerKey as_v6(const SocketAddress& address) {
  PeerKey bytes{};
  if (address.storage.ss_family == AF_INET6) {
    std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr, 16);
  } else {
    bytes[10] = bytes[11] = 0xff;
    std::memcpy(bytes.data() + 12, &reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr, 4);
  }
  return bytes;
}

}  // namespace

ClientPeer ClientPeer::of(const SocketAddress& address) {
  ClientPeer peer;
  const std::string text = to_string(address);
  const std::string_view host = std::string_view(text).substr(0, text.rfind(':'));
  peer.size = static_cast<std::uint8_t>(std::min(host.size(), peer.text.size()));
  std::memcpy(peer.text.data(), host.data(), peer.size);
  peer.key = as_v6(address);
  return peer;
}

Result<PeerFilter> PeerFilter::parse(const std::vector<std::string>& entries) {
  PeerFilter filter;
  for (const std::string& entry : entries) {
    const std::size_t slash = entry.find('/');
    const std::string host = entry.substr(0, slash);
    const bool is_v6 = host.find(':') != std::string::npos;
    const auto address = parse_socket_address(is_v6 ? "[" + host + "]:0" : host + ":0");
    if (!address) {
      return failure(ErrorCode::invalid_argument, "trusted_proxies: \"{}\" is not an address or network", entry);
    }
    Network network{as_v6(*address), 128};
    if (slash != std::string::npos) {
      const auto bits = parse_integer(std::string_view(entry).substr(slash + 1));
      const int bits_max = is_v6 ? 128 : 32;
      if (!bits || *bits < 0 || *bits > bits_max) {
        return failure(ErrorCode::invalid_argument, "trusted_proxies: \"{}\": the prefix must be 0 to {} bits", entry,
                       bits_max);
      }
      network.bits = static_cast<int>(*bits) + (is_v6 ? 0 : 96);
    }
    filter.networks_.push_back(network);
  }
  return filter;
}

bool PeerFilter::contains(const SocketAddress& peer) const {
  if (networks_.empty()) return false;
  const auto bytes = as_v6(peer);
  return std::any_of(networks_.begin(), networks_.end(), [&](const Network& network) {
    for (int bit = 0; bit < network.bits; ++bit) {
      const auto byte = static_cast<std::size_t>(bit / 8);
      const int mask = 0x80 >> (bit % 8);
      if ((bytes[byte] & mask) != (network.address[byte] & mask)) return false;
    }
    return true;
  });
}

std::size_t AddressCounts::Hash::operator()(const PeerKey& address) const {
  return std::hash<std::string_view>()({reinterpret_cast<const char*>(address.data()), address.size()});
}

bool AddressCounts::try_add(const PeerKey& address, std::uint32_t limit) {
  const std::lock_guard lock(mutex_);
  std::uint32_t& count = counts_[address];
  if (count >= limit) return false;
  ++count;
  return true;
}

void AddressCounts::remove(const PeerKey& address) {
  const std::lock_guard lock(mutex_);
  const auto known = counts_.find(address);
  ASSERT(known != counts_.end());
  if (--known->second == 0) counts_.erase(known);
}

}  // namespace dirigent::roles
