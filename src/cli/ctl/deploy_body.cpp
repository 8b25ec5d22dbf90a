// SPDX-License-Identifier: MIT
#include "cli/ctl/deploy_body.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "dirigent/base/text.h"
#include "dirigent/model/function.h"

namespace dirigent::cli {

namespace {

using Json = nlohmann::ordered_json;

enum class Kind { text, number, list, map };

// Most flags are one field of the API.
struct FieldFlag {
  Flag flag;
  std::string field;
  Kind kind;
};

const std::vector<FieldFlag>& field_flags() {
  static const std::vector<FieldFlag> table{
      {{"image", 'i', "IMAGE", "builtin:NAME, exec:/path [args], dir:/rootfs, tar:/file.tar, or a reference"},
       "image",
       Kind::text},
      {{"arg", 0, "WORD", "argument of the function's program (repeatable)", true}, "arguments", Kind::list},
      {{"env", 'e', "KEY=VALUE", "environment variable (repeatable)", true}, "environment", Kind::map},
      {{"user", 0, "USER", "UID[:GID] or NAME[:GROUP] in the image [the image's own]"}, "user", Kind::text},
      {{"working-directory", 0, "DIR", "where the program starts"}, "working_directory", Kind::text},
      {{"ready-path", 0, "PATH", "GET this until it answers 2xx or 3xx [a TCP connect is enough]"},
       "ready_path",
       Kind::text},
      {{"memory", 0, "BYTES", "memory of a sandbox [128MiB]"}, "memory", Kind::text},
      {{"cpu", 0, "CPUS", "CPU reserved for a sandbox [0.1]"}, "cpu", Kind::text},
      {{"cpu-limit", 0, "CPUS", "hard CPU limit of a sandbox [none]"}, "cpu_limit", Kind::text},
      {{"pids-max", 0, "N", "most processes and threads in a sandbox [1024]"}, "pids_max", Kind::number},
      {{"profile", 0, "NAME", "scaling profile: knative, dirigent, latency or cost", false, scaling_profile_names()},
       "profile",
       Kind::text},
      {{"concurrency-limit", 0, "N", "requests at a time in one sandbox; 0 = no limit"},
       "concurrency_limit",
       Kind::number},
      {{"scale-min", 0, "N", "sandboxes kept at least [0]"}, "scale_min", Kind::number},
      {{"scale-max", 0, "N", "sandboxes at most; 0 = no limit [0]"}, "scale_max", Kind::number},
      {{"scale-init", 0, "N", "sandboxes of a new revision [0]"}, "scale_initial", Kind::number},
      {{"scale-activation", 0, "N", "least sandboxes when there are any [1]"}, "scale_activation", Kind::number},
      {{"warm", 0, "N", "spare sandboxes: started, and unused until one more is wanted [0]"}, "warm", Kind::number},
      {{"scale-down-delay", 0, "DURATION", "wait before scaling down [0s]"}, "scale_down_delay", Kind::text},
      {{"scale-metric", 0, "NAME", "concurrency or rps", false, {"concurrency", "rps"}}, "scale_metric", Kind::text},
      {{"scale-target", 0, "X", "load one sandbox should have [100 in flight, 200 requests/s]"},
       "scale_target",
       Kind::number},
      {{"scale-utilization", 0, "PERCENT", "of the target [70]"}, "scale_utilization_percent", Kind::number},
      {{"scale-window", 0, "DURATION", "over which the load is averaged [60s]"}, "scale_window", Kind::text},
      {{"panic-window", 0, "PERCENT", "of the window [10]"}, "panic_window_percent", Kind::number},
      {{"panic-threshold", 0, "PERCENT", "of the ready sandboxes, at which panic begins [200]"},
       "panic_threshold_percent",
       Kind::number},
      {{"burst", 0, "N", "target burst capacity [211]"}, "target_burst_capacity", Kind::number},
      {{"keep-last", 0, "DURATION", "how long the last sandbox is kept [0s]"}, "last_sandbox_retention", Kind::text},
      {{"scale-to-zero-grace", 0, "DURATION", "wait before the last sandbox goes [0s]"},
       "scale_to_zero_grace",
       Kind::text},
      {{"aggregation", 0, "NAME", "linear or weighted-exponential", false, {"linear", "weighted-exponential"}},
       "scale_aggregation",
       Kind::text},
      {{"timeout", 0, "DURATION", "longest whole request [300s]"}, "timeout", Kind::text},
      {{"first-byte-timeout", 0, "DURATION", "longest wait for the response's head [as --timeout]"},
       "first_byte_timeout",
       Kind::text},
      {{"idle-timeout", 0, "DURATION", "longest silence in both directions; 0 = off [0]"}, "idle_timeout", Kind::text},
      {{"queue-timeout", 0, "DURATION", "longest wait for a sandbox [30s]"}, "queue_timeout", Kind::text},
      {{"queue-depth", 0, "N", "most waiting requests per data plane [10000]"}, "queue_depth", Kind::number},
      {{"body-max", 0, "BYTES", "largest request body; 0 = the data plane's limit [0]"}, "body_max", Kind::text},
      {{"start-timeout", 0, "DURATION", "longest start of a sandbox [60s]"}, "start_timeout", Kind::text},
      {{"drain", 0, "DURATION", "longest wait for running requests of a sandbox that has to go [30s]"},
       "drain_timeout",
       Kind::text},
      {{"label", 'l', "KEY=VALUE", "label of the function (repeatable)", true}, "labels", Kind::map},
      {{"constraint", 0, "KEY=VALUE", "only nodes with this label; KEY!=VALUE: without it (repeatable)", true},
       "constraints",
       Kind::list},
      {{"runtime", 0, "NAME", "what starts the sandboxes [the node's default]"}, "runtime", Kind::text},
  };
  return table;
}

Result<std::pair<std::string, std::string>> split_pair(const std::string& flag, const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return failure(ErrorCode::invalid_argument, "--{} \"{}\" is not of the form KEY=VALUE", flag, text);
  }
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

// The flag's field and its other form must not both be sent.
void set_field(Json& body, const std::string& field, Json value) {
  static const std::map<std::string, std::string> unit_forms{
      {"memory", "memory_bytes"}, {"cpu", "cpu_milli"}, {"cpu_limit", "cpu_limit_milli"},
      {"body_max", "body_max_bytes"}};
  const auto unit = unit_forms.find(field);
  body.erase(unit != unit_forms.end() ? unit->second : field + "_ms");
  body[field] = std::move(value);
}

Status apply_field(const FieldFlag& entry, const Arguments& arguments, Json& body) {
  const std::string& name = entry.flag.name;
  const auto values = arguments.values(name);
  if (values.empty()) return {};
  if (entry.kind == Kind::list) {
    body[entry.field] = values;
  } else if (entry.kind == Kind::map) {
    for (const auto& text : values) {
      auto pair = split_pair(name, text);
      if (!pair) return failure(pair.error());
      body[entry.field][pair->first] = pair->second;
    }
  } else if (entry.kind == Kind::number) {
    const auto integer = parse_integer(values.back());
    const auto number = parse_number(values.back());
    if (!number) return failure(ErrorCode::invalid_argument, "--{} \"{}\" is not a number", name, values.back());
    set_field(body, entry.field, integer ? Json(*integer) : Json(*number));
  } else {
    set_field(body, entry.field, values.back());
  }
  return {};
}

// "1..5", "1..", "..5", "3".
Status apply_scale(const std::string& text, Json& body) {
  const auto wrong =
      failure(ErrorCode::invalid_argument, "--scale \"{}\" is not of the form MIN..MAX, MIN.., ..MAX or N", text);
  const auto dots = text.find("..");
  const std::string low = text.substr(0, dots);
  const std::string high = dots == std::string::npos ? low : text.substr(dots + 2);
  for (const auto& [bound, field] : {std::pair{low, "scale_min"}, {high, "scale_max"}}) {
    if (bound.empty() && dots != std::string::npos && text.size() > 2) continue;
    const auto number = parse_integer(bound);
    if (!number || *number < 0) return wrong;
    body[field] = *number;
  }
  return {};
}

// "8080" or "h2c:8080".
Status apply_port(std::string text, Json& body) {
  const bool is_h2c = text.starts_with("h2c:");
  if (is_h2c) text.erase(0, 4);
  if (text.starts_with("http1:")) text.erase(0, 6);
  const auto port = parse_integer(text);
  if (!port || *port < 1 || *port > 65535) {
    return failure(ErrorCode::invalid_argument, "--port \"{}\" is not a port: write N or h2c:N with N in 1..65535",
                   text);
  }
  body["port"] = *port;
  body["protocol"] = is_h2c ? "h2c" : "http1";
  return {};
}

// Lines KEY=VALUE; blank lines and lines that start with # are skipped.
Status apply_environment_file(const std::string& path, const ReadFile& read_file, Json& body) {
  auto text = read_file(path);
  if (!text) return failure(text.error());
  int number = 0;
  for (const auto line : split(*text, '\n')) {
    ++number;
    const auto entry = trim(line);
    if (entry.empty() || entry.starts_with('#')) continue;
    const auto equals = entry.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return failure(ErrorCode::invalid_argument, "{}:{}: \"{}\" is not of the form KEY=VALUE", path, number, entry);
    }
    body["environment"][std::string(entry.substr(0, equals))] = std::string(entry.substr(equals + 1));
  }
  return {};
}

Status apply_secrets(const Arguments& arguments, const ReadFile& read_file, Json& body) {
  for (const auto& text : arguments.values("secret")) {
    auto pair = split_pair("secret", text);
    if (!pair) return failure(ErrorCode::invalid_argument, "--secret \"{}\" is not of the form NAME=FILE", text);
    auto content = read_file(pair->second);
    if (!content) return failure(content.error());
    body["secrets"][pair->first] = encode_base64(*content);
  }
  return {};
}

Result<Json> start_from_file(const Arguments& arguments, const ReadFile& read_file) {
  const auto path = arguments.value("file");
  if (!path) return Json::object();
  auto text = read_file(*path);
  if (!text) return failure(text.error());
  Json body = Json::parse(text->begin(), text->end(), nullptr, false);
  if (!body.is_object()) {
    return failure(ErrorCode::invalid_argument,
                   "{} is not a JSON object: {{\"name\": \"hello\", \"image\": \"builtin:hello\"}} would be one",
                   *path);
  }
  return body;
}

}  // namespace

const std::vector<Flag>& deploy_flags() {
  static const std::vector<Flag> flags = [] {
    std::vector<Flag> all{
        {"file", 'f', "FILE", "read the function from a JSON file; - = stdin"},
        {"scale", 0, "MIN..MAX", "bounds of the number of sandboxes"},
        {"port", 'p', "[h2c:]N", "where the function listens, told to it as PORT [8080]"},
        {"env-file", 0, "FILE", "environment variables, one KEY=VALUE a line"},
        {"secret", 0, "NAME=FILE", "the function finds the file's content in /run/secrets/NAME (repeatable); it is never shown", true},
        {"tag", 0, "TAG", "deploy beside NAME, as TAG--NAME; for requests with Knative-Serving-Tag: TAG"},
        {"scale-to-zero", 0, "", "--no-scale-to-zero keeps at least one sandbox"},
        {"verify", 0, "", "--no-verify moves the traffic without a test start"},
        {"create-only", 0, "", "fail when the function exists"},
        {"prefetch", 0, "", "first get the image to all nodes"},
        {"wait", 0, "", "--no-wait returns when the registration is durable"},
        {"wait-timeout", 0, "DURATION", "longest wait for the test start [60s]"},
    };
    for (const auto& entry : field_flags()) all.push_back(entry.flag);
    return all;
  }();
  return flags;
}

Result<DeployBody> deploy_body(const Arguments& arguments, const ReadFile& read_file) {
  auto start = start_from_file(arguments, read_file);
  if (!start) return failure(start.error());
  Json body = std::move(*start);
  if (body.contains("environment") && !body["environment"].is_object()) {
    return failure(ErrorCode::invalid_argument, "field \"environment\" of the file is not an object");
  }
  if (const auto path = arguments.value("env-file")) {
    if (auto status = apply_environment_file(*path, read_file, body); !status) return failure(status.error());
  }
  if (auto status = apply_secrets(arguments, read_file, body); !status) return failure(status.error());
  for (const FieldFlag& entry : field_flags()) {
    if (auto status = apply_field(entry, arguments, body); !status) return failure(status.error());
  }
  if (const auto scale = arguments.value("scale")) {
    if (auto status = apply_scale(*scale, body); !status) return failure(status.error());
  }
  if (const auto port = arguments.value("port")) {
    if (auto status = apply_port(*port, body); !status) return failure(status.error());
  }
  if (arguments.has("scale-to-zero")) body["scale_to_zero"] = arguments.is_on("scale-to-zero");

  DeployBody result;
  if (!arguments.words().empty()) body["name"] = arguments.words().front();
  if (const auto name = body.find("name"); name != body.end() && name->is_string())
    result.name = name->get<std::string>();
  if (const auto tag = arguments.value("tag"); tag && !result.name.empty()) {
    result.name = *tag + "--" + result.name;
    body["name"] = result.name;
  }
  if (const auto image = body.find("image"); image != body.end() && image->is_string())
    result.image = image->get<std::string>();
  if (result.name.empty())
    return failure(ErrorCode::invalid_argument,
                   "deploy needs a name: dirigent ctl deploy NAME --image IMAGE, or \"name\" in the file");
  if (result.image.empty())
    return failure(ErrorCode::invalid_argument,
                   "deploy needs --image, for example --image builtin:hello, or \"image\" in the file");
  result.json = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  return result;
}

Result<std::string> read_whole_file(const std::string& path) {
  const bool is_stdin = path == "-";
  const int file = is_stdin ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno_failure(errno, fmt::format("cannot open {}", path));
  std::string text;
  std::array<char, 16384> buffer;
  int error = 0;
  for (;;) {
    const ssize_t n = ::read(file, buffer.data(), buffer.size());
    if (n > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      error = n == 0 ? 0 : errno;
      break;
    }
  }
  if (!is_stdin) ::close(file);
  if (error != 0) return errno_failure(error, fmt::format("cannot read {}", path));
  return text;
}

}  // namespace dirigent::cli
