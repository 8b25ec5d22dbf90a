// SPDX-License-Identifier: MIT
//
// Where results may be sent, and how. A callback makes this data plane connect to an address that a client chose, from
// inside the operator's network; so nothing is allowed that the operator has not listed, and what a name resolves to is
// checked before the connection goes to that very address.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/http.h"

namespace dirigent::roles {

using AddressBytes = std::array<std::uint8_t, 16>;  // IPv4 as ::ffff:a.b.c.d

struct CallbackUrl {
  bool is_secure = false;  // https
  std::string host;        // a name in lower case, or an address without brackets
  std::uint16_t port = 80;
  std::string target;      // path and query
  bool is_address = false;
  AddressBytes address{};  // of is_address

  [[nodiscard]] std::string authority() const;  // for Host
};
// invalid_argument says what is wrong with it.
Result<CallbackUrl> parse_callback_url(std::string_view url);

class CallbackRules {
 public:
  // "example.com", "*.example.com", "10.1.2.3", "10.0.0.0/8", "[fd00::]/8"; each with ":port" or for any port. A name
  // allows what it resolves to only if that is a public address or another entry lists it.
  static Result<CallbackRules> parse(const std::vector<std::string>& entries);

  [[nodiscard]] bool any() const { return !entries_.empty(); }
  // permission_denied: not listed. Before anything is resolved.
  [[nodiscard]] Status check_url(const CallbackUrl& url) const;
  // permission_denied: the name of `url` leads to an address where it may not lead.
  [[nodiscard]] Status check_address(const CallbackUrl& url, const AddressBytes& address) const;

 private:
  struct Entry {
    std::string text;
    std::string name;        // "" = a network; with a leading '.' = everything below
    AddressBytes network{};
    int bits = 0;
    std::uint16_t port = 0;  // 0 = any
  };
  [[nodiscard]] bool lists_name(const CallbackUrl& url) const;
  [[nodiscard]] bool lists_address(const AddressBytes& address, std::uint16_t port) const;
  std::vector<Entry> entries_;
};

// Whether everybody on the Internet means the same host by it: no loopback, private, shared, link-local, multicast,
// documentation or reserved address, and none that is one of these in another form.
bool is_public_address(const AddressBytes& address);
std::string format_address_bytes(const AddressBytes& address);
// The addresses of a host, by the system's resolver. Blocks.
Result<std::vector<AddressBytes>> resolve_host(const std::string& host);

// "sha256=" and the HMAC in hex, over "TIMESTAMP.BODY".
std::string sign_callback(std::string_view secret, std::string_view timestamp, std::string_view body);

}  // namespace dirigent::roles
