// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/io/address.h"

using namespace dirigent;
using namespace dirigent::io;

TEST_CASE("address: every documented form is parsed and formatted back") {
  CHECK(*parse_address("127.0.0.1:9091") == Address{"127.0.0.1", 9091, ""});
  CHECK(*parse_address("[::1]:80") == Address{"::1", 80, ""});
  CHECK(*parse_address(":0") == Address{"", 0, ""});
  CHECK(*parse_address("control-1.local:65535") == Address{"control-1.local", 65535, ""});
  CHECK(*parse_address("unix:/run/a b") == Address{"", 0, "/run/a b"});
  for (const char* text : {"127.0.0.1:9091", "[::1]:80", ":0", "control-1.local:65535", "unix:/run/a b",
                           "[fe80::1%lo]:1"}) {
    CHECK(format_address(*parse_address(text)) == text);
  }
}

TEST_CASE("address: everything else is refused with its own words") {
  for (const char* text : {"", "localhost", "localhost:", "localhost:x", "localhost:65536", "localhost:-1",
                           "localhost:+1", "localhost: 1", "::1:80", "[::1]", "[::1]80", "[::1:80", "[localhost]:80",
                           "a b:80", "unix:", "http://x:80", "x:80/"}) {
    const auto address = parse_address(text);
    INFO(text);
    REQUIRE_FALSE(address.has_value());
    CHECK(address.error().code == ErrorCode::invalid_argument);
    CHECK(address.error().message.find(*text == '\0' ? "empty" : text) != std::string::npos);
  }
}

TEST_CASE("address: socket addresses are numeric, and print as people write them") {
  const auto round_trip = [](const char* text) {
    const auto address = to_socket_address(*parse_address(text));
    REQUIRE(address.has_value());
    return format_socket_address(address->get(), address->length);
  };
  CHECK(round_trip("127.0.0.1:80") == "127.0.0.1:80");
  CHECK(round_trip("[::1]:80") == "[::1]:80");
  CHECK(round_trip("[::ffff:10.0.0.1]:80") == "10.0.0.1:80");
  CHECK(round_trip(":80") == "[::]:80");
  CHECK(round_trip("unix:/run/x") == "unix:/run/x");
  CHECK(to_socket_address(*parse_address("localhost:80")).error().code == ErrorCode::not_found);
  CHECK(to_socket_address(Address{"", 0, std::string(200, 'a')}).error().code == ErrorCode::invalid_argument);
  CHECK(format_socket_address(nullptr, 0) == "unix");
}

TEST_CASE("address: the host id is stable and made of boot and namespace") {
  const auto id = host_id();
  REQUIRE(id.has_value());
  CHECK(id->size() > 38);
  CHECK(host_id() == id);
}
