// SPDX-License-Identifier: MIT
//
// HTTP and HTTPS downloads by libcurl.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"

namespace dirigent::sandbox {

struct FetchRequest {
  std::string url;
  std::vector<std::string> headers;  // "Name: value"; those of this list are not sent on to another host
  Duration connect_timeout = 10s;
  Duration silence_timeout = 30s;    // for so long less than a kilobyte a second may come
  // Gets the body of a 2xx answer piece by piece; false ends the download as exhausted.
  std::function<bool(std::string_view)> body;
};

struct FetchResponse {
  long status = 0;
  std::map<std::string, std::string> headers;  // of the last answer; names in lower case
  std::string error_body;                      // of an answer that is not 2xx, its first 4 KiB
};

// Blocks. Follows redirects. unsupported: no libcurl on this machine; unavailable: the server cannot be reached.
Result<FetchResponse> fetch(const FetchRequest& request);

}  // namespace dirigent::sandbox
