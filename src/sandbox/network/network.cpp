// SPDX-License-Identifier: MIT
#include "sandbox/network/network.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

namespace dirigent::sandbox {

namespace {

// Locally administered, and the same bytes for the same end of the same cell.
std::string mac_of(std::uint8_t end, std::uint32_t range, std::uint32_t number) {
  const std::uint8_t bytes[6] = {0x02,
                                 0xd1,
                                 end,
                                 static_cast<std::uint8_t>(range),
                                 static_cast<std::uint8_t>(number >> 8),
                                 static_cast<std::uint8_t>(number)};
  return std::string(reinterpret_cast<const char*>(bytes), sizeof bytes);
}

}  // namespace

NameLock& NameLock::operator=(NameLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

NameLock::~NameLock() {
  if (fd_ >= 0) ::close(fd_);
}

Result<NameLock> NameLock::take(const std::string& name) {
  NameLock lock;
  lock.fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (lock.fd_ < 0) return errno_failure(errno, "cannot make a unix socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t size = std::min(name.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, name.data(), size);
  if (::bind(lock.fd_, reinterpret_cast<sockaddr*>(&address),
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size)) != 0) {
    if (errno == EADDRINUSE) return failure(ErrorCode::already_exists, "{} is in use by another process", name);
    return errno_failure(errno, fmt::format("cannot take the name {}", name));
  }
  return lock;
}

Result<std::unique_ptr<Network>> Network::open(const std::string& node) {
  auto network = std::unique_ptr<Network>(new Network());
  const auto preferred = static_cast<std::uint32_t>(std::hash<std::string>{}(node) % kRanges);
  bool claimed = false;
  for (std::uint32_t i = 0; i < kRanges && !claimed; ++i) {
    network->range_ = (preferred + i) % kRanges;
    auto lock = NameLock::take(fmt::format("dirigent-range-{}", network->range_));
    if (!lock && lock.error().code != ErrorCode::already_exists) return failure(lock.error());
    if (!lock) continue;
    network->lock_ = std::move(*lock);
    claimed = true;
  }
  if (!claimed)
    return failure(ErrorCode::exhausted,
                   "all {} address ranges of 198.18.0.0/15 are taken: too many workers on this host", kRanges);
  if (Status ready = network->set_up(); !ready) return failure(ready.error());
  return network;
}

Result<std::unique_ptr<Network>> Network::take_over(NameLock lock, std::uint32_t gateway) {
  auto network = std::unique_ptr<Network>(new Network());
  network->range_ = (ntohl(gateway) - (198u << 24 | 18u << 16)) / kRangeSize;
  network->lock_ = std::move(lock);
  if (network->range_ >= kRanges || network->lock_.fd() < 0 || network->gateway() != gateway)
    return failure(ErrorCode::corrupt, "an earlier worker has left {} as gateway, which is none", to_dotted(gateway));
  if (Status ready = network->set_up(); !ready) return failure(ready.error());
  return network;
}

// Repeating it changes nothing.
Status Network::set_up() {
  if (const int error = socket_.open()) return errno_failure(error, "cannot open a netlink socket");
  if (const int error = socket_.run(netlink::add_address(1, gateway(), 32))) {
    return errno_failure(error, fmt::format("cannot add address {} to lo", to_dotted(gateway())));
  }
  // An address without a sandbox answers "unreachable" here. By the host's default route its packets would leave the
  // host, and whoever answers there would pass for a sandbox.
  if (const int error = socket_.run(netlink::add_unreachable_route(address_of(0), wire::kRangePrefix))) {
    static_cast<void>(socket_.run(netlink::delete_address(1, gateway(), 32)));
    return errno_failure(error, fmt::format("cannot add a route for {}/{}", to_dotted(address_of(0)), wire::kRangePrefix));
  }
  // Without a network interface of its own, a fresh namespace has lo down.
  static_cast<void>(socket_.run(netlink::set_up(1)));
  return {};
}

Result<wire::Network> Network::attach(std::uint32_t serial, std::uint32_t pid, std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  const std::string name = fmt::format("{}{:x}", link_prefix(), serial);
  if (const int error = socket_.run(netlink::make_veth(name, mac_of(0, range_, number), wire::kInnerLink,
                                                       mac_of(1, range_, number), pid, 0))) {
    return errno_failure(error, fmt::format("cannot make the link {} to process {}", name, pid));
  }
  return route(name, number);
}

Result<wire::Network> Network::attach_namespace(std::uint32_t serial, int network_namespace, std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  const std::string name = fmt::format("{}{:x}", link_prefix(), serial);
  if (const int error = socket_.run(netlink::make_veth_into(name, mac_of(0, range_, number), wire::kInnerLink,
                                                            mac_of(1, range_, number), network_namespace))) {
    return errno_failure(error, fmt::format("cannot make the link {}", name));
  }
  return route(name, number);
}

// The host's side of a link that has just been made.
Result<wire::Network> Network::route(const std::string& name, std::uint32_t number) {
  const auto index = static_cast<int>(::if_nametoindex(name.c_str()));
  if (index == 0) return errno_failure(errno, fmt::format("cannot find the link {}", name));
  // No link-local address and its chatter on the host's side. Not by /proc: whoever writes there spins while anybody else
  // changes a network. A kernel without IPv6 refuses, and has none.
  static_cast<void>(socket_.run(netlink::set_no_link_local(index)));
  std::vector<netlink::Request> requests;
  requests.push_back(netlink::add_host_route(index, address_of(number), gateway()));
  requests.push_back(netlink::add_neighbour(index, address_of(number), mac_of(1, range_, number)));
  if (const int error = socket_.run(requests))
    return errno_failure(error, fmt::format("cannot route {} to {}", to_dotted(address_of(number)), name));
  return wire::Network{address_of(number), gateway(), mac_of(0, range_, number), mac_of(1, range_, number)};
}

void Network::remove_gateway() {
  const std::lock_guard lock(mutex_);
  static_cast<void>(socket_.run(netlink::delete_address(1, gateway(), 32)));
  static_cast<void>(socket_.run(netlink::delete_unreachable_route(address_of(0), wire::kRangePrefix)));
}

void Network::wait_for_links(Duration patience) const {
  const auto until = std::chrono::steady_clock::now() + patience;
  for (;;) {
    bool found = false;
    struct if_nameindex* links = ::if_nameindex();
    for (auto* link = links; link != nullptr && link->if_index != 0; ++link)
      found = found || std::string_view(link->if_name).starts_with(link_prefix());
    if (links != nullptr) ::if_freenameindex(links);
    if (!found || std::chrono::steady_clock::now() > until) return;
    std::this_thread::sleep_for(2ms);
  }
}

std::uint32_t Network::address_of(std::uint32_t number) const {
  return htonl((198u << 24 | 18u << 16) + range_ * kRangeSize + number);
}

std::string Network::link_prefix() const { return fmt::format("dg{:02x}-", range_); }

std::string to_dotted(std::uint32_t address) {
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &address, text, sizeof text);
  return text;
}

}  // namespace dirigent::sandbox
