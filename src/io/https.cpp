// SPDX-License-Identifier: MIT
#include "io/https.h"

#include "dirigent/base/text.h"
#include "io/curl.h"

namespace dirigent::io {

namespace {

struct Answer {
  std::uint64_t read = 0;
  std::uint64_t max = 0;
};

std::size_t on_body(char*, std::size_t, std::size_t size, void* context) {
  auto& answer = *static_cast<Answer*>(context);
  answer.read += size;
  return answer.read > answer.max ? 0 : size;
}

std::string in_brackets(const std::string& host) { return host.find(':') == std::string::npos ? host : "[" + host + "]"; }

}  // namespace

Result<int> https_post(const HttpsPost& post) {
  const Curl& table = curl();
  const std::string url = fmt::format("https://{}:{}{}", in_brackets(post.host), post.port, post.target);
  if (!table.problem.empty()) return failure(ErrorCode::unsupported, "cannot send to {}: {}", url, table.problem);
  CURL* easy = table.easy_init();
  if (easy == nullptr) return failure(ErrorCode::exhausted, "cannot send to {}: no memory for libcurl", url);
  curl_slist* headers = table.slist_append(nullptr, "Expect:");
  for (const auto& [name, value] : post.headers) headers = table.slist_append(headers, fmt::format("{}: {}", name, value).c_str());
  // Only this connection is made: the name is not looked up again.
  curl_slist* connect_to = table.slist_append(nullptr, fmt::format("::{}:{}", in_brackets(post.address), post.port).c_str());
  Answer answer;
  answer.max = post.answer_max;
  const auto set = [&](CURLoption option, auto value) { table.easy_setopt(easy, option, value); };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_PATH_AS_IS, 1L);
  set(CURLOPT_CONNECT_TO, connect_to);
  set(CURLOPT_PROTOCOLS_STR, "https");
  set(CURLOPT_PROXY, "");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_POST, 1L);
  set(CURLOPT_POSTFIELDS, post.body.data());
  set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(post.body.size()));
  set(CURLOPT_USERAGENT, "dirigent/1");
  set(CURLOPT_HTTPHEADER, headers);
  set(CURLOPT_TIMEOUT_MS, static_cast<long>(post.timeout / 1ms));
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&answer));
  if (!post.ca_file.empty()) set(CURLOPT_CAINFO, post.ca_file.c_str());
  const CURLcode code = table.easy_perform(easy);
  long status = 0;
  table.easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  table.easy_cleanup(easy);
  table.slist_free_all(headers);
  table.slist_free_all(connect_to);
  const bool was_enough = code == CURLE_WRITE_ERROR && answer.read > answer.max;
  if (code != CURLE_OK && !was_enough) return failure(code == CURLE_OPERATION_TIMEDOUT ? ErrorCode::timed_out : ErrorCode::unavailable, "cannot send to {} ({}): {}", url, post.address, table.easy_strerror(code));
  return static_cast<int>(status);
}

}  // namespace dirigent::io
