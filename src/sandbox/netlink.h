// SPDX-License-Identifier: MIT
//
// Netlink by hand: the few requests with which links, addresses, routes and neighbours are made, and one to delete a
// table of nf_tables. Needs the C++ library only, because the static `cell` program uses it too. Every function
// returns 0 or an errno.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dirigent::sandbox::netlink {

// One request under construction: header, fixed part, attributes (nested ones too).
class Request {
 public:
  Request(std::uint16_t type, std::uint16_t flags);
  void fixed(const void* data, std::size_t size);
  void attribute(std::uint16_t type, const void* data, std::size_t size);
  void attribute_u32(std::uint16_t type, std::uint32_t value) { attribute(type, &value, sizeof value); }
  void attribute_text(std::uint16_t type, const std::string& text) { attribute(type, text.c_str(), text.size() + 1); }
  [[nodiscard]] std::size_t open(std::uint16_t type);
  void close(std::size_t position);
  // The finished message, with its sequence number set.
  std::string& finish(std::uint32_t sequence);

 private:
  std::string bytes_;
};

// A NETLINK_ROUTE socket of the network namespace in which it was opened. One thread at a time.
class RouteSocket {
 public:
  RouteSocket() = default;
  RouteSocket(const RouteSocket&) = delete;
  RouteSocket& operator=(const RouteSocket&) = delete;
  ~RouteSocket();

  int open();
  // Sends several requests in one system call and returns the first error (of the request `failed`, counted from 0).
  int run(std::vector<Request>& requests, std::size_t* failed = nullptr);
  int run(Request request);

 private:
  int fd_ = -1;
  std::uint32_t sequence_ = 0;
};

// A pair of links: `name` here (up, with `mac`) and `peer` in the network namespace of process `pid`.
Request make_veth(const std::string& name, const std::string& mac, const std::string& peer, const std::string& peer_mac,
                  std::uint32_t pid, int index);
// The same with a descriptor of the peer's network namespace.
Request make_veth_into(const std::string& name, const std::string& mac, const std::string& peer,
                       const std::string& peer_mac, int peer_namespace);
Request set_up(int index);
// IPv6 makes no address of its own for the link. Refused by a kernel without IPv6.
Request set_no_link_local(int index);
Request delete_link(int index);
// Addresses and gateways are in network order.
Request add_address(int index, std::uint32_t address, int prefix);
Request delete_address(int index, std::uint32_t address, int prefix);
// A route to one address through a link. `source` = 0: the kernel's choice.
Request add_host_route(int index, std::uint32_t address, std::uint32_t source);
Request delete_host_route(int index, std::uint32_t address);
Request add_default_route(int index, std::uint32_t gateway);
// Whatever has no more specific route in this network is refused here, and never sent to another gateway.
Request add_unreachable_route(std::uint32_t network, int prefix);
Request delete_unreachable_route(std::uint32_t network, int prefix);
Request add_neighbour(int index, std::uint32_t address, const std::string& mac);
Request delete_neighbour(int index, std::uint32_t address);

// Deletes a table of nf_tables ("inet" or "ip" by `family` NFPROTO_*); ENOENT when there is none.
int delete_nft_table(std::uint8_t family, const std::string& name);

}  // namespace dirigent::sandbox::netlink
