// SPDX-License-Identifier: MIT
//
// A second reading of HTTP/1, written from RFC 9110 and 9112 for the fuzz targets: slow, simple, line by line, and
// sharing nothing with the data plane. Strict where two readers could differ; where we refuse for taste only, it
// accepts.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dirigent::fuzz {

enum class Reading { whole, incomplete, broken };

struct ReferenceMessage {
  Reading reading = Reading::incomplete;
  std::string why;             // it is broken
  std::string method, target;  // of requests; the target as written
  int status = 0;              // of responses
  int minor = 1;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;                                          // of incomplete messages: what there is
  std::vector<std::string> trailers;
  bool head_is_whole = false;
  bool last = false;     // the connection carries nothing after it
  std::size_t size = 0;  // bytes read

  [[nodiscard]] std::size_t count(std::string_view name) const;
  [[nodiscard]] std::string get(std::string_view name) const;  // the first one
};

ReferenceMessage read_reference_request(std::string_view bytes);
// `ended`: no byte follows. Interim responses are read like others, without body.
ReferenceMessage read_reference_response(std::string_view bytes, bool answers_head, bool ended);

std::string lower_case(std::string_view text);

}  // namespace dirigent::fuzz
