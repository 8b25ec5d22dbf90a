// SPDX-License-Identifier: MIT
#include "dirigent/io/address.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "dirigent/base/text.h"
#include "dirigent/io/file_descriptor.h"

namespace dirigent::io {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::string_view kForms = "write host:port, [v6]:port, :port or unix:/path";

Result<std::uint16_t> parse_port(std::string_view port, std::string_view whole) {
  const bool digits = !port.empty() && port.size() <= 5 &&
                      std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
  const std::int64_t number = digits ? parse_integer(port).value_or(-1) : -1;
  if (number < 0 || number > 65535) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": \"{}\" is not a port (0 to 65535)", whole, port);
  }
  return static_cast<std::uint16_t>(number);
}

bool is_host_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

Result<Address> parse_unix(std::string_view text) {
  Address address;
  address.unix_path = std::string(text.substr(kUnixPrefix.size()));
  if (address.unix_path.empty()) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": the path is missing (write unix:/path)", text);
  }
  if (address.unix_path.find('\0') != std::string::npos) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": the path contains a zero byte", text);
  }
  return address;
}

Result<Address> parse_bracketed(std::string_view text) {
  const std::size_t end = text.find(']');
  if (end == std::string_view::npos || end + 1 >= text.size() || text[end + 1] != ':') {
    return failure(ErrorCode::invalid_argument, "address \"{}\": after [v6] comes :port ({})", text, kForms);
  }
  Address address;
  address.host = std::string(text.substr(1, end - 1));
  in6_addr ignored{};
  const std::string without_zone = address.host.substr(0, address.host.find('%'));
  if (inet_pton(AF_INET6, without_zone.c_str(), &ignored) != 1) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": \"{}\" is not an IPv6 address", text, address.host);
  }
  auto port = parse_port(text.substr(end + 2), text);
  if (!port) return failure(port.error());
  address.port = *port;
  return address;
}

std::string format_ip(int family, const void* bytes, std::uint16_t port_big_endian, std::uint32_t scope) {
  char host[INET6_ADDRSTRLEN] = "";
  inet_ntop(family, bytes, host, sizeof host);
  if (family == AF_INET) return fmt::format("{}:{}", host, ntohs(port_big_endian));
  if (scope == 0) return fmt::format("[{}]:{}", host, ntohs(port_big_endian));
  return fmt::format("[{}%{}]:{}", host, scope, ntohs(port_big_endian));
}

}  // namespace

Result<Address> parse_address(std::string_view text) {
  if (text.empty()) return failure(ErrorCode::invalid_argument, "the address is empty ({})", kForms);
  if (text.starts_with(kUnixPrefix)) return parse_unix(text);
  if (text.front() == '[') return parse_bracketed(text);
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": the port is missing ({})", text, kForms);
  }
  Address address;
  address.host = std::string(text.substr(0, colon));
  if (address.host.find(':') != std::string::npos) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": an IPv6 address needs brackets ({})", text, kForms);
  }
  if (address.host.size() > 253 || !std::all_of(address.host.begin(), address.host.end(), is_host_character)) {
    return failure(ErrorCode::invalid_argument, "address \"{}\": \"{}\" is not a host ({})", text, address.host,
                   kForms);
  }
  auto port = parse_port(text.substr(colon + 1), text);
  if (!port) return failure(port.error());
  address.port = *port;
  return address;
}

std::string format_address(const Address& address) {
  if (address.is_unix()) return std::string(kUnixPrefix) + address.unix_path;
  if (address.host.find(':') != std::string::npos) return fmt::format("[{}]:{}", address.host, address.port);
  return fmt::format("{}:{}", address.host, address.port);
}

Result<SocketAddress> to_socket_address(const Address& address) {
  SocketAddress result;
  if (address.is_unix()) {
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    if (address.unix_path.size() >= sizeof un.sun_path) {
      return failure(ErrorCode::invalid_argument, "socket path {} is longer than {} bytes (choose a shorter one)",
                     address.unix_path, sizeof un.sun_path - 1);
    }
    std::memcpy(un.sun_path, address.unix_path.data(), address.unix_path.size());
    std::memcpy(&result.storage, &un, sizeof un);
    result.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.unix_path.size() + 1);
    return result;
  }
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(address.port);
  if (inet_pton(AF_INET, address.host.c_str(), &v4.sin_addr) == 1) {
    std::memcpy(&result.storage, &v4, sizeof v4);
    result.length = sizeof v4;
    return result;
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(address.port);
  const std::size_t percent = address.host.find('%');
  const std::string plain = address.host.substr(0, percent);
  if (address.host.empty() || inet_pton(AF_INET6, plain.c_str(), &v6.sin6_addr) == 1) {
    if (percent != std::string::npos) {
      const std::string zone = address.host.substr(percent + 1);
      v6.sin6_scope_id = if_nametoindex(zone.c_str());
      if (v6.sin6_scope_id == 0) v6.sin6_scope_id = static_cast<std::uint32_t>(parse_integer(zone).value_or(0));
    }
    std::memcpy(&result.storage, &v6, sizeof v6);
    result.length = sizeof v6;
    return result;
  }
  return failure(ErrorCode::not_found, "\"{}\" is a name, not a numeric address", address.host);
}

std::string format_socket_address(const sockaddr* address, socklen_t length) {
  if (address == nullptr || length < sizeof(sa_family_t)) return "unix";
  switch (address->sa_family) {
    case AF_INET: {
      sockaddr_in v4{};
      std::memcpy(&v4, address, std::min<std::size_t>(sizeof v4, length));
      return format_ip(AF_INET, &v4.sin_addr, v4.sin_port, 0);
    }
    case AF_INET6: {
      sockaddr_in6 v6{};
      std::memcpy(&v6, address, std::min<std::size_t>(sizeof v6, length));
      // A v4 client of a dual-stack listener is shown as what it is.
      if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) return format_ip(AF_INET, &v6.sin6_addr.s6_addr[12], v6.sin6_port, 0);
      return format_ip(AF_INET6, &v6.sin6_addr, v6.sin6_port, v6.sin6_scope_id);
    }
    case AF_UNIX: {
      sockaddr_un un{};
      const std::size_t size = std::min<std::size_t>(sizeof un, length);
      std::memcpy(&un, address, size);
      const std::size_t header = offsetof(sockaddr_un, sun_path);
      if (size <= header || un.sun_path[0] == '\0') return "unix";
      return std::string(kUnixPrefix) + std::string(un.sun_path, strnlen(un.sun_path, size - header));
    }
    default: return fmt::format("family {}", static_cast<int>(address->sa_family));
  }
}

Result<std::string> host_id() {
  constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";
  const FileDescriptor file(::open(kBootId, O_RDONLY | O_CLOEXEC));
  char text[64] = "";
  const ssize_t size = file.is_open() ? ::read(file.get(), text, sizeof text - 1) : -1;
  if (size <= 0) return errno_failure(errno, fmt::format("cannot read {} (is /proc mounted?)", kBootId));
  struct stat net {};
  if (::stat("/proc/self/ns/net", &net) != 0) {
    return errno_failure(errno, "cannot look at /proc/self/ns/net (is /proc mounted?)");
  }
  return fmt::format("{}-{}", trim(std::string_view(text, static_cast<std::size_t>(size))), net.st_ino);
}

}  // namespace dirigent::io
