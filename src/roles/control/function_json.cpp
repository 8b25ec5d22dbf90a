// SPDX-License-Identifier: MIT
#include "roles/control/function_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "dirigent/base/text.h"
#include "roles/control/function_writer.h"
#include "roles/control/json_text.h"

namespace dirigent::roles {

namespace {

// --- values ---------------------------------------------------------------------------------------------------------

tl::unexpected<Error> mistyped(std::string_view name, const Json& value, std::string_view expected) {
  return failure(ErrorCode::invalid_argument, "field \"{}\" is {}, expected {}", name, kind_of(value), expected);
}

Status read(const Json& value, std::string_view name, std::string& out) {
  if (!value.is_string()) return mistyped(name, value, "a string");
  out = value.get<std::string>();
  return {};
}
Status read(const Json& value, std::string_view name, bool& out) {
  if (!value.is_boolean()) return mistyped(name, value, "true or false");
  out = value.get<bool>();
  return {};
}
Status read_integer(const Json& value, std::string_view name, std::int64_t low, std::int64_t high, std::int64_t& out) {
  const auto expected = [&] { return fmt::format("a whole number in {}..{}", low, high); };
  if (!value.is_number()) return mistyped(name, value, expected());
  if (value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)) {
    out = value.get<std::int64_t>();
  } else if (value.is_number_integer() && !value.is_number_unsigned()) {
    out = value.get<std::int64_t>();
  } else {
    return failure(ErrorCode::invalid_argument, "field \"{}\" is {}, expected {}", name, value.dump(), expected());
  }
  if (out >= low && out <= high) return {};
  return failure(ErrorCode::invalid_argument, "field \"{}\" is {}, expected {}", name, out, expected());
}
template <class Integer>
  requires(std::is_same_v<Integer, std::uint32_t> || std::is_same_v<Integer, std::uint16_t>)
Status read(const Json& value, std::string_view name, Integer& out) {
  std::int64_t wide = 0;
  if (auto status = read_integer(value, name, 0, std::numeric_limits<Integer>::max(), wide); !status) return status;
  out = static_cast<Integer>(wide);
  return {};
}
Status read(const Json& value, std::string_view name, double& out) {
  if (!value.is_number()) return mistyped(name, value, "a number");
  out = value.get<double>();
  if (std::isfinite(out)) return {};
  return failure(ErrorCode::invalid_argument, "field \"{}\" is out of range", name);
}
Status read(const Json& value, std::string_view name, std::optional<double>& out) {
  if (value.is_null()) {
    out.reset();
    return {};
  }
  double number = 0;
  if (auto status = read(value, name, number); !status) return status;
  out = number;
  return {};
}
Status read(const Json& value, std::string_view name, std::vector<std::string>& out) {
  if (!value.is_array()) return mistyped(name, value, "an array of strings");
  out.clear();
  for (const auto& element : value) {
    if (!element.is_string()) return mistyped(fmt::format("{}[{}]", name, out.size()), element, "a string");
    out.push_back(element.get<std::string>());
  }
  return {};
}
Status read(const Json& value, std::string_view name, std::map<std::string, std::string>& out) {
  if (!value.is_object()) return mistyped(name, value, "an object of strings");
  out.clear();
  for (const auto& [key, element] : value.items()) {
    if (!element.is_string()) return mistyped(fmt::format("{}.{}", name, key), element, "a string");
    out.emplace(key, element.get<std::string>());
  }
  return {};
}

// Milliseconds with a fraction when the value has one; exact for every duration below 100 days.
void write_milliseconds(JsonWriter& json, Duration duration) {
  if (duration % 1ms == Duration::zero()) {
    json.value(duration / 1ms);
  } else {
    json.value(to_milliseconds(duration));
  }
}
Status read_milliseconds(const Json& value, std::string_view name, Duration& out) {
  if (!value.is_number()) return mistyped(name, value, "a number of milliseconds");
  const double number = value.get<double>();
  if (!(number >= 0 && number <= 8.64e9)) {
    return failure(ErrorCode::invalid_argument, "field \"{}\" is {}, expected milliseconds in 0..8640000000", name,
                   value.dump());
  }
  out = Duration(std::llround(number * 1e6));
  return {};
}
template <class T>
Status read_human(const Json& value, std::string_view name, T& out, Result<T> (*parse)(std::string_view),
                  std::string_view expected) {
  if (!value.is_string()) return mistyped(name, value, expected);
  auto parsed = parse(value.get_ref<const std::string&>());
  if (!parsed) return failure(parsed.error().within(fmt::format("field \"{}\"", name)));
  out = *parsed;
  return {};
}

std::string_view to_string(HttpProtocol protocol) { return protocol == HttpProtocol::http1 ? "http1" : "h2c"; }
Result<HttpProtocol> parse_protocol(std::string_view text) {
  static const std::vector<std::string> names{"http1", "h2c"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == text) return static_cast<HttpProtocol>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown protocol \"{}\": use http1 or h2c{}", text,
                 did_you_mean_suffix(text, names));
}

// --- the table ------------------------------------------------------------------------------------------------------

using Write = void (*)(JsonWriter&, const RevisionSpec&);
using Read = Status (*)(const Json&, std::string_view name, RevisionSpec&);
struct Field {
  std::string_view name;
  Write write;
  Read read;
  void (*copy)(const RevisionSpec& from, RevisionSpec& to);
  std::string_view human_name{};  // the form for people, without the unit in its name
  Read read_human = nullptr;
  Read merge = nullptr;           // of maps: changes the keys that are named, null takes one away
};

// In a change of a map only the keys that it names change.
Status merge_map(const Json& value, std::string_view name, std::map<std::string, std::string>& out) {
  for (const auto& [key, element] : value.items()) {
    if (element.is_null()) {
      out.erase(key);
    } else if (element.is_string()) {
      out[key] = element.get<std::string>();
    } else {
      return mistyped(fmt::format("{}.{}", name, key), element, "a string");
    }
  }
  return {};
}

template <auto Get>
void copy_field(const RevisionSpec& from, RevisionSpec& to) {
  Get(to) = Get(from);
}
template <auto Get>
Field plain(std::string_view name) {
  return {name, [](JsonWriter& json, const RevisionSpec& spec) { json.value(Get(spec)); },
          [](const Json& value, std::string_view field, RevisionSpec& spec) { return read(value, field, Get(spec)); },
          copy_field<Get>};
}
template <auto Get>
Field text_map(std::string_view name) {
  Field field = plain<Get>(name);
  field.merge = [](const Json& value, std::string_view key, RevisionSpec& spec) {
    return merge_map(value, key, Get(spec));
  };
  return field;
}
template <auto Get>
Field duration(std::string_view name, std::string_view human_name) {
  return {name, [](JsonWriter& json, const RevisionSpec& spec) { write_milliseconds(json, Get(spec)); },
          [](const Json& value, std::string_view field, RevisionSpec& spec) {
            return read_milliseconds(value, field, Get(spec));
          },
          copy_field<Get>, human_name,
          [](const Json& value, std::string_view field, RevisionSpec& spec) {
            return read_human<Duration>(value, field, Get(spec), parse_duration, "a string like \"30s\"");
          }};
}
// Bytes and Millicpu.
template <auto Get, auto Parse>
Field amount(std::string_view name, std::string_view human_name) {
  return {name, [](JsonWriter& json, const RevisionSpec& spec) { json.value(Get(spec).value); },
          [](const Json& value, std::string_view field, RevisionSpec& spec) {
            return read_integer(value, field, 0, std::int64_t{1} << 50, Get(spec).value);
          },
          copy_field<Get>, human_name,
          [](const Json& value, std::string_view field, RevisionSpec& spec) {
            using T = std::remove_reference_t<decltype(Get(spec))>;
            return read_human<T>(value, field, Get(spec), Parse, "a string like \"0.5\" (CPUs) or \"128MiB\"");
          }};
}
template <auto Get, auto Parse>
Field word(std::string_view name) {
  return {name, [](JsonWriter& json, const RevisionSpec& spec) { json.value(to_string(Get(spec))); },
          [](const Json& value, std::string_view field, RevisionSpec& spec) {
            using T = std::remove_reference_t<decltype(Get(spec))>;
            return read_human<T>(value, field, Get(spec), Parse, "a string");
          },
          copy_field<Get>};
}

#define MEMBER(path) [](auto& spec) -> auto& { return spec.path; }

const std::vector<Field>& fields() {
  static const std::vector<Field> table{
      plain<MEMBER(image)>("image"),
      plain<MEMBER(arguments)>("arguments"),
      text_map<MEMBER(environment)>("environment"),
      plain<MEMBER(working_directory)>("working_directory"),
      plain<MEMBER(port)>("port"),
      word<MEMBER(protocol), parse_protocol>("protocol"),
      plain<MEMBER(ready_path)>("ready_path"),
      amount<MEMBER(resources.cpu), parse_cpu>("cpu_milli", "cpu"),
      amount<MEMBER(resources.memory), parse_bytes>("memory_bytes", "memory"),
      amount<MEMBER(cpu_limit), parse_cpu>("cpu_limit_milli", "cpu_limit"),
      plain<MEMBER(pids_max)>("pids_max"),
      plain<MEMBER(concurrency_limit)>("concurrency_limit"),
      duration<MEMBER(limits.timeout)>("timeout_ms", "timeout"),
      duration<MEMBER(limits.first_byte_timeout)>("first_byte_timeout_ms", "first_byte_timeout"),
      duration<MEMBER(limits.idle_timeout)>("idle_timeout_ms", "idle_timeout"),
      duration<MEMBER(limits.queue_timeout)>("queue_timeout_ms", "queue_timeout"),
      plain<MEMBER(limits.queue_depth)>("queue_depth"),
      amount<MEMBER(limits.body_max), parse_bytes>("body_max_bytes", "body_max"),
      duration<MEMBER(limits.start_timeout)>("start_timeout_ms", "start_timeout"),
      duration<MEMBER(limits.drain_timeout)>("drain_timeout_ms", "drain_timeout"),
      plain<MEMBER(scaling.min_scale)>("scale_min"),
      plain<MEMBER(scaling.max_scale)>("scale_max"),
      plain<MEMBER(scaling.initial_scale)>("scale_initial"),
      plain<MEMBER(scaling.activation_scale)>("scale_activation"),
      plain<MEMBER(scaling.warm)>("warm"),
      word<MEMBER(scaling.metric), parse_scaling_metric>("scale_metric"),
      word<MEMBER(scaling.aggregation), parse_aggregation>("scale_aggregation"),
      plain<MEMBER(scaling.target)>("scale_target"),
      plain<MEMBER(scaling.utilization_percent)>("scale_utilization_percent"),
      duration<MEMBER(scaling.stable_window)>("scale_window_ms", "scale_window"),
      plain<MEMBER(scaling.panic_window_percent)>("panic_window_percent"),
      plain<MEMBER(scaling.panic_threshold_percent)>("panic_threshold_percent"),
      plain<MEMBER(scaling.target_burst_capacity)>("target_burst_capacity"),
      plain<MEMBER(scaling.scale_up_rate_max)>("scale_up_rate_max"),
      plain<MEMBER(scaling.scale_down_rate_max)>("scale_down_rate_max"),
      duration<MEMBER(scaling.scale_down_delay)>("scale_down_delay_ms", "scale_down_delay"),
      duration<MEMBER(scaling.last_sandbox_retention)>("last_sandbox_retention_ms", "last_sandbox_retention"),
      duration<MEMBER(scaling.scale_to_zero_grace)>("scale_to_zero_grace_ms", "scale_to_zero_grace"),
      plain<MEMBER(scaling.scale_to_zero)>("scale_to_zero"),
      duration<MEMBER(scaling.look_interval)>("look_interval_ms", "look_interval"),
      word<MEMBER(scaling.reaction), parse_reaction>("scale_reaction"),
      text_map<MEMBER(labels)>("labels"),
      plain<MEMBER(constraints)>("constraints"),
      plain<MEMBER(runtime)>("runtime"),
      plain<MEMBER(user)>("user"),
      text_map<MEMBER(secrets)>("secrets"),
  };
  return table;
}
#undef MEMBER

void write_spec(JsonWriter& json, const RevisionSpec& spec, Secrets secrets) {
  json.begin_object();
  for (const Field& field : fields()) {
    json.key(field.name);
    if (secrets == Secrets::hidden && field.name == "secrets") {
      json.begin_object();
      for (const auto& [name, content] : spec.secrets) {
        json.foreign_key(name);
        json.null();
      }
      json.end_object();
    } else {
      field.write(json, spec);
    }
  }
  json.end_object();
}

// --- reading requests -----------------------------------------------------------------------------------------------

// Where absent and null fields come from.
struct Defaults {
  RevisionSpec spec;
  explicit Defaults(const ScalingProfile& profile) {
    spec.scaling = profile.scaling;
    spec.concurrency_limit = profile.concurrency_limit;
  }
};

// The `profile` field is applied before all others, wherever it stands in the text.
Status apply_profile(const Json& body, RevisionSpec& spec) {
  const auto found = body.find("profile");
  if (found == body.end()) return {};
  std::string name;
  if (auto status = read(*found, "profile", name); !status) return status;
  auto profile = scaling_profile(name);
  if (!profile) return failure(profile.error().within("field \"profile\""));
  spec.scaling = profile->scaling;
  spec.concurrency_limit = profile->concurrency_limit;
  return {};
}

enum class Mode { whole, patch };

Status apply_field(const Field& field, std::string_view key, const Json& value, Mode mode, const RevisionSpec& defaults,
                   RevisionSpec& spec) {
  if (mode == Mode::patch && value.is_null()) {
    field.copy(defaults, spec);
    return {};
  }
  if (key == field.human_name) return field.read_human(value, key, spec);
  const bool is_merged = mode == Mode::patch && field.merge != nullptr && value.is_object();
  return (is_merged ? field.merge : field.read)(value, key, spec);
}

Status apply_body(const Json& body, Mode mode, const RevisionSpec& defaults, RevisionSpec& spec) {
  std::set<std::string_view> seen;
  for (const auto& [key, value] : body.items()) {
    if (key == "name" || key == "profile") continue;
    const auto& table = fields();
    const auto field = std::find_if(table.begin(), table.end(), [&](const Field& f) {
      return f.name == key || (!f.human_name.empty() && f.human_name == key);
    });
    if (field == table.end()) {
      return failure(ErrorCode::invalid_argument, "unknown field \"{}\"{}", key,
                     did_you_mean_suffix(key, spec_field_names()));
    }
    if (!seen.insert(field->name).second) {
      return failure(ErrorCode::invalid_argument, "fields \"{}\" and \"{}\" say the same: give one of them",
                     field->name, field->human_name);
    }
    if (auto status = apply_field(*field, key, value, mode, defaults, spec); !status) return status;
  }
  return validate(spec);
}

Result<Json> parse_object(std::string_view text) {
  auto json = parse_json(text);
  if (json && !json->is_object())
    return failure(ErrorCode::invalid_argument, "the body is {}, a JSON object is expected", kind_of(*json));
  return json;
}

Result<FunctionName> name_of(const Json& body, const std::optional<FunctionName>& from_path) {
  const auto found = body.find("name");
  if (found == body.end()) {
    if (from_path) return *from_path;
    return failure(ErrorCode::invalid_argument, "field \"name\" is missing");
  }
  std::string text;
  if (auto status = read(*found, "name", text); !status) return failure(status.error());
  auto name = parse_function_name(text);
  if (!name) return failure(name.error().within("field \"name\""));
  if (from_path && *name != *from_path) {
    return failure(ErrorCode::invalid_argument, "field \"name\" is \"{}\" but the path names \"{}\"", *name,
                   *from_path);
  }
  return name;
}

// --- the state log --------------------------------------------------------------------------------------------------

std::int64_t microseconds(WallTime time) { return time.time_since_epoch().count(); }

Status read_time(const Json& json, std::string_view name, WallTime& out) {
  const auto found = json.find(name);
  if (found == json.end()) return failure(ErrorCode::invalid_argument, "field \"{}\" is missing", name);
  std::int64_t value = 0;
  const auto most = std::numeric_limits<std::int64_t>::max();
  if (auto status = read_integer(*found, name, -most, most, value); !status) return status;
  out = WallTime(std::chrono::microseconds(value));
  return {};
}
Result<std::optional<std::uint32_t>> read_optional(const Json& json, std::string_view name) {
  const auto found = json.find(name);
  if (found == json.end() || found->is_null()) return std::optional<std::uint32_t>();
  std::uint32_t value = 0;
  if (auto status = read(*found, name, value); !status) return failure(status.error());
  return std::optional<std::uint32_t>(value);
}

Result<Revision> read_revision(const Json& json) {
  if (!json.is_object()) return mistyped("revisions[]", json, "an object");
  Revision revision;
  const auto number = json.find("revision");
  if (number == json.end()) return failure(ErrorCode::invalid_argument, "field \"revision\" is missing");
  if (auto status = read(*number, "revision", revision.number.value); !status) return failure(status.error());
  if (auto status = read_time(json, "created_at_us", revision.created_at); !status) return failure(status.error());
  const auto spec = json.find("spec");
  if (spec == json.end() || !spec->is_object())
    return failure(ErrorCode::invalid_argument, "field \"spec\" is missing or not an object");
  for (const Field& field : fields()) {
    const auto value = spec->find(field.name);
    if (value == spec->end()) continue;
    if (auto status = field.read(*value, field.name, revision.spec); !status) return failure(status.error());
  }
  if (auto status = validate(revision.spec); !status) return failure(status.error());
  return revision;
}

Result<Function> read_function(const Json& json) {
  Function function;
  auto name = name_of(json, std::nullopt);
  if (!name) return failure(name.error());
  function.name = *name;
  if (auto status = read_time(json, "created_at_us", function.created_at); !status) return failure(status.error());
  const auto revisions = json.find("revisions");
  if (revisions == json.end() || !revisions->is_array()) {
    return failure(ErrorCode::invalid_argument, "field \"revisions\" is missing or not an array");
  }
  for (const auto& element : *revisions) {
    auto revision = read_revision(element);
    if (!revision) return failure(revision.error());
    if (!function.revisions.empty() && revision->number <= function.revisions.back().number) {
      return failure(ErrorCode::invalid_argument, "revision {} is out of order", revision->number);
    }
    function.revisions.push_back(std::move(*revision));
  }
  for (auto [field, target] : {std::pair{"serving", &function.serving}, {"candidate", &function.candidate}}) {
    auto number = read_optional(json, field);
    if (!number) return failure(number.error());
    if (!*number) continue;
    *target = RevisionNumber{**number};
    if (function.find(**target) == nullptr) {
      return failure(ErrorCode::invalid_argument, "field \"{}\" names revision {}, which is not there", field,
                     **number);
    }
  }
  auto scale = read_optional(json, "manual_scale");
  if (!scale) return failure(scale.error());
  function.manual_scale = *scale;
  return function;
}

}  // namespace

void write_function(JsonWriter& json, const Function& function, Secrets secrets) {
  json.member("name", function.name.value);
  json.member("created_at_us", microseconds(function.created_at));
  json.member("serving", function.serving);
  json.member("candidate", function.candidate);
  json.member("manual_scale", function.manual_scale);
  json.key("revisions");
  json.begin_array();
  for (const Revision& revision : function.revisions) {
    json.begin_object();
    json.member("revision", revision.number);
    json.member("created_at_us", microseconds(revision.created_at));
    json.key("spec");
    write_spec(json, revision.spec, secrets);
    json.end_object();
  }
  json.end_array();
}

std::string encode_function(const Function& function) {
  JsonWriter json;
  json.begin_object();
  write_function(json, function, Secrets::written);
  json.end_object();
  return json.take();
}

Result<Function> decode_function(std::string_view text) {
  auto json = parse_object(text);
  if (!json) return failure(ErrorCode::corrupt, "a function's record cannot be read: {}", json.error().message);
  auto function = read_function(*json);
  if (!function) return failure(ErrorCode::corrupt, "a function's record cannot be read: {}", function.error().message);
  return function;
}

Result<DeployRequest> decode_deploy(std::string_view body, const std::optional<FunctionName>& name,
                                    const ScalingProfile& profile) {
  auto json = parse_object(body);
  if (!json) return failure(json.error());
  DeployRequest request;
  auto function = name_of(*json, name);
  if (!function) return failure(function.error());
  request.name = *function;
  if (!json->contains("image")) {
    return failure(ErrorCode::invalid_argument,
                   "field \"image\" is missing: write builtin:hello, exec:/path, dir:/rootfs, tar:FILE or a reference");
  }
  const Defaults defaults(profile);
  request.spec = defaults.spec;
  if (auto status = apply_profile(*json, request.spec); !status) return failure(status.error());
  if (auto status = apply_body(*json, Mode::whole, defaults.spec, request.spec); !status)
    return failure(status.error());
  return request;
}

Result<RevisionSpec> decode_patch(std::string_view body, const RevisionSpec& base, const ScalingProfile& profile) {
  auto json = parse_object(body);
  if (!json) return failure(json.error());
  if (json->contains("name"))
    return failure(ErrorCode::invalid_argument, "field \"name\" cannot be changed: deploy under the new name instead");
  RevisionSpec spec = base;
  if (auto status = apply_profile(*json, spec); !status) return failure(status.error());
  const Defaults defaults(profile);
  if (auto status = apply_body(*json, Mode::patch, defaults.spec, spec); !status) return failure(status.error());
  return spec;
}

Result<std::optional<std::uint32_t>> decode_scale(std::string_view body) {
  auto json = parse_object(body);
  if (!json) return failure(json.error());
  for (const auto& [key, value] : json->items()) {
    if (key != "scale")
      return failure(ErrorCode::invalid_argument,
                     "unknown field \"{}\": the body is {{\"scale\": N}} or {{\"scale\": null}}", key);
  }
  if (!json->contains("scale"))
    return failure(ErrorCode::invalid_argument,
                   "field \"scale\" is missing: the body is {{\"scale\": N}} or {{\"scale\": null}}");
  return read_optional(*json, "scale");
}

Result<Prefetch> decode_prefetch(std::string_view body) {
  auto json = parse_object(body);
  if (!json) return failure(json.error());
  Prefetch wanted;
  for (const auto& [key, value] : json->items()) {
    std::string text;
    if (key != "image" && key != "node")
      return failure(ErrorCode::invalid_argument, "unknown field \"{}\": the body is {{\"image\": IMAGE, \"node\": NAME}}", key);
    if (key == "node" && value.is_null()) continue;
    if (auto status = read(value, key, text); !status) return failure(status.error());
    if (key == "image") {
      wanted.image = std::move(text);
      continue;
    }
    auto node = parse_node_id(text);
    if (!node) return failure(node.error().within("field \"node\""));
    wanted.node = std::move(*node);
  }
  auto image = parse_image(wanted.image);
  if (!image) return failure(image.error().within("field \"image\""));
  if (image->kind != ImageKind::tar && image->kind != ImageKind::reference)
    return failure(ErrorCode::invalid_argument, "the image \"{}\" is no tar: and no reference: there is nothing to get ahead of time",
                   wanted.image);
  return wanted;
}

const std::vector<std::string>& spec_field_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all{"name", "profile"};
    for (const Field& field : fields()) {
      all.emplace_back(field.name);
      if (!field.human_name.empty()) all.emplace_back(field.human_name);
    }
    return all;
  }();
  return names;
}

}  // namespace dirigent::roles
