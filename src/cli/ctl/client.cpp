// SPDX-License-Identifier: MIT
#include "cli/ctl/client.h"

#include <asio/co_spawn.hpp>

#include <array>
#include <exception>
#include <optional>

#include "cli/ctl/views.h"
#include "dirigent/base/text.h"
#include "dirigent/io/address.h"

namespace dirigent::cli {

namespace {

// Exit 4 means "cannot reach the server": a server that says so of something else has been reached.
int exit_code_of(ErrorCode code, bool reached) {
  if (reached && code == ErrorCode::unavailable) return 1;
  return traits(code).exit_code;
}

ErrorCode code_of(std::string_view reason, int status) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i) {
    if (to_string(static_cast<ErrorCode>(i)) == reason) return static_cast<ErrorCode>(i);
  }
  switch (status) {
    case 401: case 403: return ErrorCode::permission_denied;
    case 404: return ErrorCode::not_found;
    case 409: return ErrorCode::already_exists;
    case 504: return ErrorCode::timed_out;
    default: return status >= 500 ? ErrorCode::internal : ErrorCode::invalid_argument;
  }
}

}  // namespace

Failure failure_of(Error error, std::vector<std::string> hints) {
  const int code = exit_code_of(error.code, true);
  return {std::move(error), std::move(hints), code};
}

Result<std::string> parse_server(std::string_view text) {
  std::string_view server = text;
  if (server.starts_with("http://")) server.remove_prefix(7);
  if (server.starts_with("https://")) {
    return failure(ErrorCode::unsupported, "server \"{}\": TLS is not supported here, use http:// or unix:/path", text);
  }
  while (server.ends_with('/') && !server.starts_with("unix:")) server.remove_suffix(1);
  auto address = io::parse_address(server);
  if (!address) return failure(address.error().within(fmt::format("server \"{}\"", text)));
  return std::string(server);
}

ControlClient::ControlClient(std::string server, Duration timeout)
    : server_(std::move(server)), timeout_(timeout), loop_(std::make_unique<io::Loop>()) {}

Result<io::HttpResponse> ControlClient::exchange(io::HttpCall call) {
  std::optional<Result<io::HttpResponse>> answer;
  std::exception_ptr bug;
  auto done = [&](std::exception_ptr exception, Result<io::HttpResponse> result) {
    bug = exception;
    answer = std::move(result);
    loop_->stop();
  };
  asio::co_spawn(loop_->context().get_executor(), io::http_call(*loop_, std::move(call)), std::move(done));
  loop_->run();
  if (bug) std::rethrow_exception(bug);
  return std::move(*answer);
}

Outcome<std::string> ControlClient::call(std::string_view method, std::string target, std::string body,
                                         Duration extra_time) {
  const std::string what = fmt::format("{} {}", method, target);
  io::HttpCall call;
  call.server = server_;
  call.method = std::string(method);
  call.target = std::move(target);
  if (!body.empty()) call.headers.emplace_back("Content-Type", "application/json");
  call.headers.emplace_back("User-Agent", "dirigent-ctl");
  call.body = std::move(body);
  call.timeout = timeout_ + extra_time;
  auto response = exchange(std::move(call));
  if (!response) {
    Failure failed{response.error(), {}, exit_code_of(response.error().code, false)};
    failed.error.message = fmt::format("no answer from the control plane: {}", response.error().message);
    if (response.error().code == ErrorCode::unavailable || response.error().code == ErrorCode::not_found) {
      failed.exit_code = 4;
      failed.hints = {"start one here:      dirigent dev",
                      "or name another one: dirigent ctl --server HOST:PORT (or DIRIGENT_SERVER)"};
    }
    return tl::unexpected(std::move(failed));
  }
  if (response->status >= 200 && response->status < 300) return std::move(response->body);
  const Problem problem = read_problem(response->body);
  Failure failed;
  failed.error.code = code_of(problem.reason, response->status);
  failed.error.message =
      problem.detail.empty() ? fmt::format("{} was answered with status {}", what, response->status) : problem.detail;
  if (!problem.hint.empty()) failed.hints.push_back(problem.hint);
  failed.exit_code = exit_code_of(failed.error.code, true);
  return tl::unexpected(std::move(failed));
}

}  // namespace dirigent::cli
