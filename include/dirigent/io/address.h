// SPDX-License-Identifier: MIT
//
// Addresses as people write them: "127.0.0.1:9091", "[::1]:9091", "control:9091", ":9091" (every interface),
// "unix:/run/dirigent.sock". Values; any thread.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "dirigent/base/result.h"

namespace dirigent::io {

struct Address {
  std::string host;          // without brackets; empty: every interface; unused for a Unix socket
  std::uint16_t port = 0;    // 0: the system chooses
  std::string unix_path;     // not empty: a Unix socket

  [[nodiscard]] bool is_unix() const { return !unix_path.empty(); }
  friend bool operator==(const Address&, const Address&) = default;
};

// invalid_argument, with the accepted forms, for everything else. Does not resolve names.
Result<Address> parse_address(std::string_view text);
// The inverse of parse_address.
std::string format_address(const Address& address);

// A socket address in the system's form.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};
// Of a Unix path (invalid_argument when longer than the system's 107 bytes), or of a numeric host; an empty host is the
// IPv6 wildcard. not_found: the host is a name, which only a resolver can answer.
Result<SocketAddress> to_socket_address(const Address& address);
// "127.0.0.1:40312", "[::1]:40312", "unix:/path", "unix" (a client's unnamed socket).
std::string format_socket_address(const sockaddr* address, socklen_t length);

// The same for all processes that share a network namespace during one boot of a machine, different otherwise: whether
// a sandbox's private address can be reached from here. "<boot id>-<inode of the network namespace>".
Result<std::string> host_id();

}  // namespace dirigent::io
