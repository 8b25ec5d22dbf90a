// SPDX-License-Identifier: MIT
//
// `dirigent ctl invoke`: one request to a function, through a data plane as any client's.
#include "cli/ctl/deploy_body.h"
#include "cli/ctl/phases.h"
#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

std::string_view status_words(int status) {
  switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "";
  }
}

// -d TEXT, -d @FILE, -d - (stdin).
Result<std::string> request_body(const Arguments& arguments) {
  const auto data = arguments.value("data");
  if (!data) return std::string();
  if (*data == "-" || *data == "@-") return read_whole_file("-");
  if (data->starts_with('@')) return read_whole_file(data->substr(1));
  return *data;
}

Result<io::HttpCall> make_call(VerbContext& context, std::string_view url) {
  const Arguments& arguments = context.arguments;
  io::HttpCall call;
  url.remove_prefix(std::string_view("http://").size());
  const auto slash = url.find('/');
  call.server = std::string(url.substr(0, slash));
  call.target = std::string(url.substr(slash));
  if (const auto path = arguments.value("path")) {
    if (!path->starts_with('/') && !path->starts_with('?')) {
      return failure(ErrorCode::invalid_argument, "--path \"{}\" must begin with / or ?", *path);
    }
    call.target += *path;
  }
  call.method = arguments.value("method").value_or("POST");
  auto body = request_body(arguments);
  if (!body) return failure(body.error());
  call.body = std::move(*body);
  for (const auto& text : arguments.values("header")) {
    const auto colon = text.find(':');
    if (colon == std::string::npos || colon == 0)
      return failure(ErrorCode::invalid_argument, "-H \"{}\" is not of the form \"Name: value\"", text);
    call.headers.emplace_back(trim(text.substr(0, colon)), trim(text.substr(colon + 1)));
  }
  auto timeout = parse_duration(arguments.value("timeout").value_or("310s"));
  if (!timeout) return failure(timeout.error().within("--timeout"));
  call.timeout = *timeout;
  return call;
}

void tell_request(VerbContext& context, const io::HttpCall& call, std::string_view name,
                  const io::HttpResponse& response) {
  const auto id = io::find_header(response.headers, "X-Call-Id");
  context.terminal.talk("> {} {}{}\n", call.method, name, id ? fmt::format("  call {}", printable(*id)) : "");
  if (const auto timing = io::find_header(response.headers, "Server-Timing")) {
    context.terminal.say(printable(draw_phases(parse_server_timing(*timing))));
  } else {
    context.terminal.talk("(the data plane sent no Server-Timing: it may be switched off, expose_timing)\n");
  }
  const auto words = status_words(response.status);
  context.terminal.talk("< {}{}{}, {} bytes\n", response.status, words.empty() ? "" : " ", words, response.body.size());
}

int invoke(VerbContext& context) {
  auto path = context.function_path(context.word(0));
  if (!path) return context.fail(path.error());
  auto answer = context.client.call("GET", *path);
  if (!answer) return context.fail(answer.error());
  auto function = read_function(*answer);
  if (!function) return context.fail(function.error());
  if (!function->url.starts_with("http://")) {
    return context.fail(failure_of(
        Error{ErrorCode::unavailable, fmt::format("cannot invoke {}: no data plane is connected", function->name)},
        {"start one:  dirigent data"}));
  }
  auto call = make_call(context, function->url);
  if (!call) return context.misused(call.error().message);
  const io::HttpCall shown = *call;
  auto response = context.client.exchange(std::move(*call));
  if (!response) {
    Failure failed = failure_of(response.error().within(fmt::format("cannot invoke {}", function->name)));
    if (response.error().code == ErrorCode::unavailable) failed.exit_code = 4;
    return context.fail(failed);
  }
  if (context.arguments.is_on("verbose")) tell_request(context, shown, function->name, *response);
  context.terminal.write(response->body);
  if (response->status < 400) return 0;
  if (!context.arguments.is_on("verbose") && !context.quiet) {
    if (!response->body.empty() && !response->body.ends_with('\n')) context.terminal.say("\n");
    context.terminal.talk("{} answered {} {}\n", function->name, response->status, status_words(response->status));
  }
  return context.arguments.is_on("fail") ? 7 : 0;
}

}  // namespace

std::vector<Verb> invoke_verbs() {
  return {{"invoke", {}, "NAME", 1, 1, "call a function once; its answer goes to stdout",
           {{"data", 'd', "TEXT", "body: TEXT, @FILE, or - for stdin"},
            {"header", 'H', "NAME: VALUE", "header of the request (repeatable)", true},
            {"method", 'X', "METHOD", "method of the request [POST]"},
            {"path", 0, "PATH", "what follows the function in the URL: /rest?query"},
            {"verbose", 'v', "", "show where the time went, on stderr"},
            {"fail", 0, "", "exit status 7 when the answer is 400 or more"},
            {"timeout", 0, "DURATION", "longest wait for the whole answer [310s]"}},
           WordKind::function, invoke}};
}

}  // namespace dirigent::cli
