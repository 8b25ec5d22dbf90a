// SPDX-License-Identifier: MIT
//
// The control plane's API seen from a shell: blocking calls, failures with hints and an exit status.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/io/http.h"

namespace dirigent::cli {

struct Failure {
  Error error;
  std::vector<std::string> hints;  // one line each, may be empty
  int exit_code = 1;               // the table of docs/operations.md
};
template <class T>
using Outcome = tl::expected<T, Failure>;

Failure failure_of(Error error, std::vector<std::string> hints = {});

// "http://127.0.0.1:9092", "127.0.0.1:9092", "unix:/path" -> what io::HttpCall wants.
Result<std::string> parse_server(std::string_view text);

class ControlClient {
 public:
  // `server` as parse_server gives it. `timeout` is for each call.
  ControlClient(std::string server, Duration timeout);

  // The body of a 2xx answer. Everything else is a Failure made from the server's problem document.
  Outcome<std::string> call(std::string_view method, std::string target, std::string body = {},
                            Duration extra_time = {});
  // Any exchange with any server; used for invocations.
  Result<io::HttpResponse> exchange(io::HttpCall call);

  [[nodiscard]] const std::string& server() const { return server_; }

 private:
  std::string server_;
  Duration timeout_;
  std::unique_ptr<io::Loop> loop_;
};

}  // namespace dirigent::cli
