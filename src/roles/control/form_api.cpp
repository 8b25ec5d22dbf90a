// SPDX-License-Identifier: MIT
#include "roles/control/form_api.h"

#include <memory>

#include "dirigent/base/text.h"
#include "roles/control/form_fields.h"

namespace dirigent::roles {

namespace {

using Answer = asio::awaitable<io::HttpResponse, asio::io_context::executor_type>;

// The bytes the original's clients know: errors end with a newline, successes do not.
io::HttpResponse plain(int status, std::string body) {
  io::HttpResponse response;
  response.status = status;
  response.headers.emplace_back("Content-Type", "text/plain; charset=utf-8");
  response.body = std::move(body);
  return response;
}
io::HttpResponse refusal(int status, std::string_view text) {
  auto response = plain(status, fmt::format("{}\n", text));
  response.headers.emplace_back("X-Content-Type-Options", "nosniff");
  return response;
}

class FormApi {
 public:
  FormApi(ControlService& service, FormApiOptions options) : service_(service), options_(std::move(options)) {}

  Answer answer(io::HttpRequest request) {
    const std::string_view path = request.path();
    if (path == "/health") co_return io::HttpResponse{};
    if (path == "/check") co_return check(request);
    if (request.method != "POST") co_return refusal(405, "Method not allowed.");
    auto form = read_form(request);
    if (!form) co_return refusal(400, "Invalid parsing service registration request.");
    Form fields = std::move(*form);
    if (path == "/patch") co_return co_await patch(std::move(fields));
    co_return co_await add(std::move(fields));
  }

 private:
  // The body counts only when it says that it is a form; the query comes after it.
  static Result<Form> read_form(const io::HttpRequest& request) {
    Form form;
    const auto type = io::find_header(request.headers, "Content-Type").value_or("");
    if (to_lower(trim(split(type, ';').front())) == "application/x-www-form-urlencoded") {
      auto body = io::parse_form(request.body);
      if (!body) return body;
      form = std::move(*body);
    }
    auto query = io::parse_form(request.query());
    if (!query) return query;
    form.insert(form.end(), query->begin(), query->end());
    return form;
  }

  // Where the client should send invocations; empty when nobody could take them.
  std::string endpoints() {
    if (!options_.load_balancer_address.empty()) return options_.load_balancer_address;
    std::string joined;
    for (const auto& plane : service_.data_planes()) {
      if (plane.invoke_address.empty()) continue;
      if (!joined.empty()) joined += ';';
      joined += plane.invoke_address;
    }
    return joined;
  }

  Answer add(Form form) {
    auto request = read_registration(form, service_.default_profile(), options_);
    if (!request) co_return refusal(400, request.error().message);
    // A client takes an empty list for success and sends its invocations nowhere.
    if (endpoints().empty()) co_return refusal(503, "Failed to register service. No data plane is connected.");
    DeployRequest order = std::move(*request);
    auto deployed = co_await service_.deploy(std::move(order));
    if (deployed) co_return plain(200, endpoints());
    if (deployed.error().code == ErrorCode::already_exists) co_return refusal(409, "Failed to register service.");
    co_return refusal(409, fmt::format("Failed to register service. {}.", deployed.error().message));
  }

  Answer patch(Form form) {
    const std::string* name = first_value(form, "function");
    if (name == nullptr || name->empty()) co_return refusal(400, "Function name not specified.");
    auto function = parse_function_name(*name);
    if (!function) co_return refusal(400, "Function name does not exist.");
    auto view = service_.describe(*function);
    if (!view || view->function.revisions.empty()) co_return refusal(400, "Function name does not exist.");
    DeployRequest order;
    order.name = *function;
    order.spec = view->function.revisions.back().spec;
    order.verify = false;
    if (auto status = apply_form_patch(form, order.spec); !status) co_return refusal(400, status.error().message);
    auto deployed = co_await service_.deploy(std::move(order));
    if (!deployed) co_return refusal(500, deployed.error().message);
    co_return io::HttpResponse{};
  }

  io::HttpResponse check(const io::HttpRequest& request) {
    auto query = io::parse_form(request.query());
    const std::string* name = query ? first_value(*query, "name") : nullptr;
    if (name == nullptr || name->empty()) return refusal(400, "Querystring argument 'name' has not been specified.");
    io::HttpResponse response;
    auto function = parse_function_name(*name);
    if (!function || !service_.describe(*function)) response.status = 404;
    return response;
  }

  ControlService& service_;
  FormApiOptions options_;
};

}  // namespace

io::HttpHandler make_form_api(ControlService& service, FormApiOptions options) {
  auto api = std::make_shared<FormApi>(service, std::move(options));
  return [api](io::HttpRequest request) { return api->answer(std::move(request)); };
}

}  // namespace dirigent::roles
