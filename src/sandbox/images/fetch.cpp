// SPDX-License-Identifier: MIT
#include "sandbox/images/fetch.h"

#include "dirigent/base/text.h"
#include "io/curl.h"

namespace dirigent::sandbox {

namespace {

struct Transfer {
  const FetchRequest& request;
  FetchResponse response;
  bool stopped = false;
};

std::size_t on_header(char* bytes, std::size_t, std::size_t size, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const std::string_view line = trim(std::string_view(bytes, size));
  if (line.starts_with("HTTP/")) {
    // A new answer: after a redirect only the last one counts.
    transfer.response.headers.clear();
    const auto blank = line.find(' ');
    if (blank != line.npos) transfer.response.status = static_cast<long>(parse_integer(line.substr(blank + 1, 3)).value_or(0));
  } else if (const auto colon = line.find(':'); colon != line.npos) {
    transfer.response.headers[to_lower(line.substr(0, colon))] = std::string(trim(line.substr(colon + 1)));
  }
  return size;
}

std::size_t on_body(char* bytes, std::size_t, std::size_t size, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  if (transfer.response.status / 100 == 2) {
    transfer.stopped = !transfer.request.body({bytes, size});
    return transfer.stopped ? 0 : size;
  }
  constexpr std::size_t kErrorBodyMax = 4096;
  std::string& text = transfer.response.error_body;
  text.append(bytes, std::min(size, kErrorBodyMax - std::min(kErrorBodyMax, text.size())));
  return size;
}

}  // namespace

Result<FetchResponse> fetch(const FetchRequest& request) {
  const io::Curl& table = io::curl();
  if (!table.problem.empty()) return failure(ErrorCode::unsupported, "images cannot be pulled: {}", table.problem);
  CURL* easy = table.easy_init();
  if (easy == nullptr) return failure(ErrorCode::exhausted, "cannot fetch {}: no memory for libcurl", request.url);
  curl_slist* headers = nullptr;
  for (const auto& header : request.headers) headers = table.slist_append(headers, header.c_str());
  Transfer transfer{request, {}, false};
  const auto set = [&](CURLoption option, auto value) { table.easy_setopt(easy, option, value); };
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, 5L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_USERAGENT, "dirigent/1");
  set(CURLOPT_HTTPHEADER, headers);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(request.connect_timeout / 1ms));
  set(CURLOPT_LOW_SPEED_LIMIT, 1024L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.silence_timeout / 1s));
  set(CURLOPT_HEADERFUNCTION, &on_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  const CURLcode code = table.easy_perform(easy);
  table.easy_cleanup(easy);
  table.slist_free_all(headers);
  if (transfer.stopped) return failure(ErrorCode::exhausted, "cannot fetch {}: it is larger than it may be", request.url);
  if (code != CURLE_OK)
    return failure(ErrorCode::unavailable, "cannot fetch {}: {}", request.url, table.easy_strerror(code));
  return std::move(transfer.response);
}

}  // namespace dirigent::sandbox
