// SPDX-License-Identifier: MIT
#include "catch.h"
#include "dirigent/io/http.h"

using namespace dirigent;
using namespace dirigent::io;

TEST_CASE("message: headers are found without case, the first one wins") {
  const Headers headers = {{"Content-Type", "a"}, {"content-type", "b"}};
  CHECK(find_header(headers, "CONTENT-TYPE") == "a");
  CHECK_FALSE(find_header(headers, "Content"));
}

TEST_CASE("message: a target is split at the first question mark") {
  HttpRequest request;
  request.target = "/a%20b?c=d?e";
  CHECK(request.path() == "/a%20b");
  CHECK(request.query() == "c=d?e");
  request.target = "/";
  CHECK(request.path() == "/");
  CHECK(request.query().empty());
}

TEST_CASE("message: percent encoding is undone, and its errors are seen") {
  CHECK(percent_decode("a%20b%2F%c3%A9", false) == "a b/\xc3\xa9");
  CHECK(percent_decode("a+b", true) == "a b");
  CHECK(percent_decode("a+b", false) == "a+b");
  CHECK(percent_decode("", false) == "");
  for (const char* text : {"%", "%2", "a%", "%zz", "%2x", "%%20"}) CHECK_FALSE(percent_decode(text, false));
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  CHECK(percent_decode(percent_encode(all), true) == all);
  CHECK(percent_encode("a b/~") == "a%20b%2F~");
}

TEST_CASE("message: forms keep their order and repeated names") {
  const auto form = parse_form("a=1&b=x+y&&a=%26&flag&=v&c==");
  REQUIRE(form.has_value());
  const std::vector<std::pair<std::string, std::string>> expected = {{"a", "1"},   {"b", "x y"}, {"a", "&"},
                                                                     {"flag", ""}, {"", "v"},    {"c", "="}};
  CHECK(*form == expected);
  CHECK(parse_form("")->empty());
  CHECK(parse_form("a=%4").error().code == ErrorCode::invalid_argument);
}
