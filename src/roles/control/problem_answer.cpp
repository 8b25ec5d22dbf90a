// SPDX-License-Identifier: MIT
#include "roles/control/problem_answer.h"

#include "dirigent/base/text.h"
#include "roles/control/view_json.h"

namespace dirigent::roles {

io::HttpResponse problem(int status, std::string_view code, std::string_view detail, std::string_view hint, bool retriable) {
  auto response = io::json_response(status, problem_json(status, code, detail, hint, retriable));
  for (auto& [name, value] : response.headers) {
    if (to_lower(name) == "content-type") value = "application/problem+json";
  }
  response.headers.emplace_back("X-Dirigent-Reason", code);
  if (retriable) response.headers.emplace_back("Retry-After", "1");
  return response;
}

io::HttpResponse problem(const Error& error, std::string_view hint) {
  const ErrorTraits known = traits(error.code);
  return problem(known.http_status, to_string(error.code), error.message, hint, known.retriable);
}

}  // namespace dirigent::roles
