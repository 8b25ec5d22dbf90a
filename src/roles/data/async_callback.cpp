// SPDX-License-Identifier: MIT
#include "roles/data/async_callback.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "dirigent/base/text.h"
#include "sandbox/images/sha256.h"

namespace dirigent::roles {

namespace {

AddressBytes from_v4(const void* bytes) {
  AddressBytes address{};
  address[10] = address[11] = 0xff;
  std::memcpy(address.data() + 12, bytes, 4);
  return address;
}

bool is_v4(const AddressBytes& address) {
  return std::all_of(address.begin(), address.begin() + 10, [](std::uint8_t b) { return b == 0; }) && address[10] == 0xff &&
         address[11] == 0xff;
}

bool matches(const AddressBytes& address, const AddressBytes& network, int bits) {
  for (int bit = 0; bit < bits; ++bit) {
    const auto byte = static_cast<std::size_t>(bit / 8);
    const int mask = 0x80 >> (bit % 8);
    if ((address[byte] & mask) != (network[byte] & mask)) return false;
  }
  return true;
}

// inet_pton takes the canonical dotted form only: no octal, no hexadecimal, no fewer than four parts.
std::optional<AddressBytes> parse_address(const std::string& text, bool bracketed) {
  AddressBytes address{};
  if (bracketed) {
    if (::inet_pton(AF_INET6, text.c_str(), address.data()) == 1) return address;
    return std::nullopt;
  }
  in_addr v4{};
  if (::inet_pton(AF_INET, text.c_str(), &v4) == 1) return from_v4(&v4);
  return std::nullopt;
}

// A name whose last label is a number is one of the old ways to write an address, which some resolvers understand.
bool is_host_name(std::string_view name) {
  if (name.empty() || name.size() > 253) return false;
  std::string_view last;
  for (const std::string_view label : split(name, '.')) {
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') return false;
    const bool is_word = std::all_of(label.begin(), label.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    });
    if (!is_word) return false;
    last = label;
  }
  const bool is_number = last.front() >= '0' && last.front() <= '9';
  return !is_number;
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  if (text.empty() || text.size() > 5 || text.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  const auto port = parse_integer(text);
  if (!port || *port < 1 || *port > 65535) return std::nullopt;
  return static_cast<std::uint16_t>(*port);
}

struct V4Network {
  std::uint32_t network;
  int bits;
};
// Special-purpose address registries of IANA: what is not globally reachable.
constexpr V4Network kSpecialV4[] = {
    {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16}, {0xac100000, 12}, {0xc0000000, 24},
    {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 3},
};

bool is_public_v4(const std::uint8_t* bytes) {
  const std::uint32_t value = std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 | bytes[3];
  return std::none_of(std::begin(kSpecialV4), std::end(kSpecialV4), [value](const V4Network& special) {
    return (value ^ special.network) >> (32 - special.bits) == 0;
  });
}

std::string raw_digest(std::string_view bytes) {
  sandbox::Sha256 hash;
  hash.update(bytes);
  const std::string text = hash.digest();
  std::string raw;
  for (std::size_t i = text.find(':') + 1; i + 1 < text.size(); i += 2) {
    const auto value = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    raw += static_cast<char>(value(text[i]) << 4 | value(text[i + 1]));
  }
  return raw;
}

}  // namespace

// --- URLs ---------------------------------------------------------------------------------------------------------

std::string CallbackUrl::authority() const {
  const bool is_v6 = is_address && host.find(':') != std::string::npos;
  return fmt::format("{}{}", is_v6 ? "[" + host + "]" : host, port == (is_secure ? 443 : 80) ? "" : fmt::format(":{}", port));
}

Result<CallbackUrl> parse_callback_url(std::string_view text) {
  constexpr std::string_view kPlain = "http://";
  constexpr std::string_view kSecure = "https://";
  const auto wrong = [&](std::string_view what) {
    return failure(ErrorCode::invalid_argument, "X-Callback-Url \"{}\": {}", text.substr(0, 200), what);
  };
  CallbackUrl url;
  url.is_secure = to_lower(text.substr(0, kSecure.size())) == kSecure;
  if (!url.is_secure && to_lower(text.substr(0, kPlain.size())) != kPlain) return wrong("it must begin with http:// or https://");
  if (url.is_secure) url.port = 443;
  std::string_view rest = text.substr(url.is_secure ? kSecure.size() : kPlain.size());
  for (const char c : rest) {
    if (c <= ' ' || c >= 0x7f || c == '\\') return wrong("it has characters that no URL has");
  }
  const std::size_t end = rest.find_first_of("/?#");
  const std::string authority = to_lower(rest.substr(0, end));
  url.target = end == std::string_view::npos ? "/" : std::string(rest.substr(end));
  if (url.target.find('#') != std::string::npos) return wrong("a fragment means nothing to a server");
  if (url.target.front() == '?') url.target.insert(0, "/");
  if (authority.find('@') != std::string::npos) return wrong("it must not have a user name");
  std::string_view port;
  bool has_port = false;
  if (authority.starts_with('[')) {
    const std::size_t bracket = authority.find(']');
    if (bracket == std::string::npos) return wrong("] is missing");
    url.host = authority.substr(1, bracket - 1);
    const std::string_view behind = std::string_view(authority).substr(bracket + 1);
    if (!behind.empty() && behind.front() != ':') return wrong("something stands behind ]");
    has_port = !behind.empty();
    if (has_port) port = behind.substr(1);
    const auto address = parse_address(url.host, true);
    if (!address) return wrong("that is no IPv6 address");
    url.address = *address;
    url.is_address = true;
  } else {
    const std::size_t colon = authority.find(':');
    url.host = authority.substr(0, colon);
    has_port = colon != std::string::npos;
    if (has_port) port = std::string_view(authority).substr(colon + 1);
    if (url.host.ends_with('.')) url.host.pop_back();
    if (const auto address = parse_address(url.host, false)) {
      url.address = *address;
      url.is_address = true;
    } else if (!is_host_name(url.host)) {
      return wrong("the host is neither a name nor an address in its usual form");
    }
  }
  if (has_port) {
    const auto number = parse_port(port);
    if (!number) return wrong("the port must be 1 to 65535");
    url.port = *number;
  }
  if (url.port != 80 && url.port != 443 && url.port < 1024) return wrong("the port must be 80, 443 or above 1023");
  return url;
}

// --- rules --------------------------------------------------------------------------------------------------------

Result<CallbackRules> CallbackRules::parse(const std::vector<std::string>& entries) {
  CallbackRules rules;
  for (const std::string& text : entries) {
    const auto wrong = [&](std::string_view what) {
      return failure(ErrorCode::invalid_argument, "async_callback_allow: \"{}\": {}", text, what);
    };
    Entry entry;
    entry.text = text;
    std::string rest = to_lower(text);
    const std::size_t bracket = rest.starts_with('[') ? rest.find(']') : 0;
    if (bracket == std::string::npos) return wrong("] is missing");
    const std::size_t colon = rest.find(':', bracket);
    if (colon != std::string::npos) {
      const auto port = parse_port(std::string_view(rest).substr(colon + 1));
      if (!port) return wrong("the port must be 1 to 65535 (an IPv6 address stands in brackets)");
      entry.port = *port;
      rest.resize(colon);
    }
    const std::size_t slash = rest.find('/');
    std::string host = rest.substr(0, slash);
    const bool is_bracketed = host.starts_with('[') && host.ends_with(']');
    if (is_bracketed) host = host.substr(1, host.size() - 2);
    if (const auto address = parse_address(host, is_bracketed)) {
      entry.network = *address;
      const int shift = is_bracketed ? 0 : 96;
      entry.bits = 128;
      if (slash != std::string::npos) {
        const auto bits = parse_integer(std::string_view(rest).substr(slash + 1));
        if (!bits || *bits < 0 || *bits > 128 - shift) return wrong("the prefix has no such length");
        entry.bits = static_cast<int>(*bits) + shift;
      }
    } else {
      if (slash != std::string::npos || is_bracketed) return wrong("that is no network");
      const bool is_wild = host.starts_with("*.");
      if (!is_host_name(is_wild ? std::string_view(host).substr(2) : host)) return wrong("that is neither a host name nor an address");
      entry.name = is_wild ? host.substr(1) : host;
    }
    rules.entries_.push_back(std::move(entry));
  }
  return rules;
}

bool CallbackRules::lists_name(const CallbackUrl& url) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    if (entry.name.empty() || (entry.port != 0 && entry.port != url.port)) return false;
    if (entry.name.front() != '.') return url.host == entry.name;
    return url.host.size() > entry.name.size() && url.host.ends_with(entry.name);
  });
}

bool CallbackRules::lists_address(const AddressBytes& address, std::uint16_t port) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.name.empty() && (entry.port == 0 || entry.port == port) && matches(address, entry.network, entry.bits);
  });
}

Status CallbackRules::check_url(const CallbackUrl& url) const {
  if (!any()) {
    return failure(ErrorCode::permission_denied, "callbacks are off on this data plane (set async_callback_allow)");
  }
  const bool is_listed = url.is_address ? lists_address(url.address, url.port) : lists_name(url);
  if (is_listed) return {};
  return failure(ErrorCode::permission_denied, "callbacks to {}:{} are not allowed (async_callback_allow lists what is)", url.host,
                 url.port);
}

Status CallbackRules::check_address(const CallbackUrl& url, const AddressBytes& address) const {
  if (lists_address(address, url.port)) return {};
  if (!url.is_address && lists_name(url) && is_public_address(address)) return {};
  return failure(ErrorCode::permission_denied, "callbacks to {}: {} is an address that only an entry of its own in "
                 "async_callback_allow would allow", url.host, format_address_bytes(address));
}

// --- addresses ----------------------------------------------------------------------------------------------------

bool is_public_address(const AddressBytes& address) {
  if (is_v4(address)) return is_public_v4(address.data() + 12);
  const auto begins_with = [&](std::initializer_list<std::uint8_t> bytes) {
    return std::equal(bytes.begin(), bytes.end(), address.begin());
  };
  // Only 2000::/3 is given out; of it, what carries an IPv4 address (6to4, Teredo), documentation and benchmarking are out,
  // as are the translation prefixes of NAT64, which lie outside anyway.
  if ((address[0] & 0xe0) != 0x20) return false;
  if (begins_with({0x20, 0x02}) || begins_with({0x20, 0x01, 0x0d, 0xb8}) || begins_with({0x3f, 0xff})) return false;
  return !(begins_with({0x20, 0x01}) && (address[2] & 0xfe) == 0);  // 2001::/23
}

std::string format_address_bytes(const AddressBytes& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (is_v4(address)) {
    ::inet_ntop(AF_INET, address.data() + 12, text, sizeof text);
  } else {
    ::inet_ntop(AF_INET6, address.data(), text, sizeof text);
  }
  return text;
}

Result<std::vector<AddressBytes>> resolve_host(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) return failure(ErrorCode::unavailable, "cannot resolve {}: {}", host, ::gai_strerror(error));
  std::vector<AddressBytes> addresses;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (each->ai_family == AF_INET) {
      addresses.push_back(from_v4(&reinterpret_cast<const sockaddr_in*>(each->ai_addr)->sin_addr));
    } else if (each->ai_family == AF_INET6) {
      AddressBytes address{};
      std::memcpy(address.data(), &reinterpret_cast<const sockaddr_in6*>(each->ai_addr)->sin6_addr, 16);
      addresses.push_back(address);
    }
  }
  ::freeaddrinfo(found);
  return addresses;
}

// --- signature ----------------------------------------------------------------------------------------------------

std::string sign_callback(std::string_view secret, std::string_view timestamp, std::string_view body) {
  constexpr std::size_t kBlock = 64;
  std::string key(secret);
  if (key.size() > kBlock) key = raw_digest(key);
  key.resize(kBlock, '\0');
  std::string inner = key;
  std::string outer = key;
  for (char& c : inner) c = static_cast<char>(c ^ 0x36);
  for (char& c : outer) c = static_cast<char>(c ^ 0x5c);
  inner.append(timestamp).append(".").append(body);
  outer += raw_digest(inner);
  const std::string digest = raw_digest(outer);
  std::string text = "sha256=";
  for (const char c : digest) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
}

}  // namespace dirigent::roles
