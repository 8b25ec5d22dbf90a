// SPDX-License-Identifier: MIT
//
// One HTTPS request, by libcurl. Blocks: for a BlockingPool.
#pragma once

#include <cstdint>
#include <string>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/io/http.h"

namespace dirigent::io {

struct HttpsPost {
  std::string host;       // a name, or an address without brackets; what the certificate has to be for
  std::uint16_t port = 443;
  std::string address;    // where the connection goes, whatever the name means: numeric, without brackets
  std::string target;     // path and query
  Headers headers;        // without Host
  std::string body;
  Duration timeout = 10s; // of the whole
  std::uint64_t answer_max = 64 << 10;  // what comes beyond it is not read, and no error
  std::string ca_file;    // PEM; empty = the system's
};

// The status of the answer; redirects are not followed, proxies of the environment not used. unsupported: no libcurl;
// unavailable (also when its certificate is not to be trusted); timed_out.
Result<int> https_post(const HttpsPost& post);

}  // namespace dirigent::io
