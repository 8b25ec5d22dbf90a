// SPDX-License-Identifier: MIT
#include "dirigent/bench/deployment.h"

#include <asio/co_spawn.hpp>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "dirigent/base/text.h"
#include "dirigent/io/http.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"

namespace dirigent::bench {

namespace {

using Json = nlohmann::json;

// What is wrong, from a problem document or a plain text.
std::string detail_of(const io::HttpResponse& response) {
  const Json json = Json::parse(response.body, nullptr, false);
  if (json.is_object() && json.contains("detail") && json["detail"].is_string())
    return json["detail"].get<std::string>();
  return std::string(trim(response.body.substr(0, 300)));
}

Error refusal(std::string_view what, const io::HttpResponse& response) {
  const ErrorCode code = response.status == 404   ? ErrorCode::not_found
                         : response.status == 409 ? ErrorCode::already_exists
                         : response.status >= 500 ? ErrorCode::unavailable
                                                  : ErrorCode::invalid_argument;
  return {code, fmt::format("{}: answered with status {}: {}", what, response.status, detail_of(response))};
}

// Runs `step` for every index, a few at a time, and blocks until all have ended. The first error stops those not begun.
using Step = std::function<io::Task<void>(io::Loop&, std::size_t)>;

class Batch {
 public:
  Batch(std::size_t count, unsigned parallel, bool stops_at_error, Step step)
      : count_(count), stops_at_error_(stops_at_error), step_(std::move(step)), group_(loop_, "bench") {
    for (unsigned i = 0; i < std::min<std::size_t>(parallel, count); ++i) group_.spawn(work());
    asio::co_spawn(loop_.context().get_executor(), group_.wait(), [this](std::exception_ptr) { loop_.stop(); });
    loop_.run();
  }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  io::Action work() {
    while (next_ < count_ && !(error_ && stops_at_error_)) {
      const std::size_t index = next_++;
      const Status status = co_await step_(loop_, index);
      if (!status && !error_) error_ = status.error();
    }
  }

  std::size_t count_;
  bool stops_at_error_;
  Step step_;
  io::Loop loop_;
  io::TaskGroup group_;
  std::size_t next_ = 0;
  std::optional<Error> error_;
};

Json registration(const DeployOptions& options, const NewFunction& function) {
  Json body{{"image", options.image}, {"memory_bytes", std::max<std::int64_t>(function.memory_mib, 16) << 20}};
  if (options.is_sweep) {
    // One sandbox that is gone before the function's next call.
    body["scale_min"] = 0;
    body["scale_max"] = 1;
    body["concurrency_limit"] = 1;
    body["scale_window_ms"] = options.window / 1ms;
    body["panic_window_percent"] = 100.0 / 3;
  }
  for (const auto& [key, text] : options.fields) {
    Json value = Json::parse(text, nullptr, false);
    body[key] = value.is_discarded() ? Json(text) : std::move(value);
  }
  return body;
}

io::HttpCall form_call(const DeployOptions& options, const NewFunction& function) {
  io::HttpCall call;
  call.server = options.form;
  call.method = "POST";
  call.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
  call.body = fmt::format(
      "{}image={}&name={}&port_forwarding=80&port_forwarding=tcp&requested_cpu=100&requested_memory={}&scaling_lower_"
      "bound=0&scaling_upper_bound={}",
      options.is_sweep ? "cold_start_sweep=true&" : "", io::percent_encode(options.image),
      io::percent_encode(function.name), function.memory_mib, options.is_sweep ? 1 : 10'000);
  for (const auto& [key, text] : options.fields)
    call.body += fmt::format("&{}={}", io::percent_encode(key), io::percent_encode(text));
  call.timeout = options.timeout;
  return call;
}

io::HttpCall api_call(const DeployOptions& options, const NewFunction& function) {
  io::HttpCall call;
  call.server = options.server;
  call.method = "PUT";
  call.target = fmt::format("/v1/functions/{}?create_only=1{}", function.name, options.verify ? "" : "&verify=0");
  call.headers.emplace_back("Content-Type", "application/json");
  call.body = registration(options, function).dump();
  call.timeout = options.timeout;
  return call;
}

// "http://127.0.0.1:8080/function/hello" -> "127.0.0.1:8080"
std::string endpoint_of(const std::string& url) {
  std::string_view rest = url;
  if (rest.starts_with("http://")) rest.remove_prefix(7);
  return std::string(rest.substr(0, rest.find('/')));
}

io::Task<void> register_one(io::Loop& loop, const DeployOptions& options, const NewFunction& function,
                            std::string& endpoints, char& is_made) {
  const bool by_form = !options.form.empty();
  io::HttpCall call = by_form ? form_call(options, function) : api_call(options, function);
  const std::string what = fmt::format("cannot register function \"{}\" at {}", function.name, call.server);
  auto response = co_await io::http_call(loop, std::move(call));
  if (!response) co_return failure(response.error().within(what));
  if (response->status != (by_form ? 200 : 201)) co_return failure(refusal(what, *response));
  is_made = 1;
  if (by_form) {
    endpoints = response->body;
  } else {
    const Json json = Json::parse(response->body, nullptr, false);
    if (json.is_object() && json.contains("url") && json["url"].is_string())
      endpoints = endpoint_of(json["url"].get<std::string>());
  }
  if (endpoints.empty())
    co_return failure(ErrorCode::unavailable,
                      "function \"{}\" is registered, but no data plane is connected to call it through",
                      function.name);
  co_return Status();
}

io::Task<void> remove_one(io::Loop& loop, const DeployOptions& options, const NewFunction& function) {
  io::HttpCall call;
  call.server = options.server;
  call.method = "DELETE";
  call.target = fmt::format("/v1/functions/{}", function.name);
  call.timeout = options.timeout;
  const std::string what = fmt::format("cannot delete function \"{}\" at {}", function.name, options.server);
  auto response = co_await io::http_call(loop, std::move(call));
  if (!response) co_return failure(response.error().within(what));
  if (response->status != 204 && response->status != 404) co_return failure(refusal(what, *response));
  co_return Status();
}

io::Task<void> serve_one(io::Loop& loop, const NewFunction& function, const std::string& endpoints, Instant deadline) {
  int status = 0;
  for (const auto endpoint : split(endpoints, ';')) {
    for (;;) {
      io::HttpCall call;
      call.server = std::string(endpoint);
      call.method = "POST";
      call.headers.emplace_back("Host", function.name);
      call.headers.emplace_back("Workload", "empty");
      call.headers.emplace_back("Function", function.name);
      call.timeout = std::max<Duration>(deadline - io::Loop::now(), 1ms);
      auto response = co_await io::http_call(loop, std::move(call));
      if (!response)
        co_return failure(response.error().within(fmt::format("function \"{}\" does not answer", function.name)));
      status = response->status;
      if (status != 404 && status != 503) break;
      if (io::Loop::now() >= deadline)
        co_return failure(refusal(fmt::format("function \"{}\" is not served", function.name), *response));
      co_await io::sleep_for(loop, 10ms);
    }
  }
  co_return Status();
}

}  // namespace

Result<std::vector<std::string>> deploy(const DeployOptions& options, const std::vector<NewFunction>& functions) {
  std::vector<std::string> endpoints(functions.size());
  std::vector<char> is_made(functions.size());
  const Batch batch(functions.size(), options.parallel, true, [&](io::Loop& loop, std::size_t i) {
    return register_one(loop, options, functions[i], endpoints[i], is_made[i]);
  });
  if (!batch.error()) return endpoints;
  std::vector<NewFunction> made;
  for (std::size_t i = 0; i < functions.size(); ++i) {
    if (is_made[i] != 0) made.push_back(functions[i]);
  }
  if (!options.server.empty() && !made.empty()) static_cast<void>(remove(options, made));
  return failure(*batch.error());
}

Status remove(const DeployOptions& options, const std::vector<NewFunction>& functions) {
  const Batch batch(functions.size(), options.parallel, false,
                    [&](io::Loop& loop, std::size_t i) { return remove_one(loop, options, functions[i]); });
  if (batch.error()) return failure(*batch.error());
  return {};
}

Status wait_until_served(const std::vector<NewFunction>& functions, const std::vector<std::string>& endpoints,
                         Duration patience) {
  constexpr unsigned kParallel = 32;
  const Instant deadline = io::Loop::now() + patience;
  const Batch batch(functions.size(), kParallel, true, [&](io::Loop& loop, std::size_t i) {
    return serve_one(loop, functions[i], endpoints[i], deadline);
  });
  if (batch.error()) return failure(*batch.error());
  return {};
}

}  // namespace dirigent::bench
