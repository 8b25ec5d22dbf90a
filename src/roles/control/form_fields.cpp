// SPDX-License-Identifier: MIT
#include "roles/control/form_fields.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "dirigent/base/text.h"

namespace dirigent::roles {

namespace {

tl::unexpected<Error> refuse(std::string_view text) { return failure(ErrorCode::invalid_argument, "{}", text); }

// The original truncates to 32 bits; a number that does not fit is a mistake here.
std::optional<std::int32_t> integer32(std::string_view text) {
  const auto number = parse_integer(text);
  if (!number || *number < std::numeric_limits<std::int32_t>::min() ||
      *number > std::numeric_limits<std::int32_t>::max()) {
    return std::nullopt;
  }
  return static_cast<std::int32_t>(*number);
}

// The words of Go's strconv.ParseBool.
std::optional<bool> go_bool(std::string_view text) {
  for (const std::string_view word : {"1", "t", "T", "TRUE", "true", "True"}) {
    if (text == word) return true;
  }
  for (const std::string_view word : {"0", "f", "F", "FALSE", "false", "False"}) {
    if (text == word) return false;
  }
  return std::nullopt;
}

std::vector<std::string> all_values(const Form& form, std::string_view name) {
  std::vector<std::string> values;
  for (const auto& [key, value] : form) {
    if (key == name) values.push_back(value);
  }
  return values;
}

// A number that may be absent or empty. The error is `text`.
Result<std::optional<std::int32_t>> number_at_least(const Form& form, std::string_view name, std::int32_t least,
                                                    std::string_view text) {
  const std::string* value = first_value(form, name);
  if (value == nullptr || value->empty()) return std::optional<std::int32_t>();
  const auto number = integer32(*value);
  if (!number || *number < least) return refuse(text);
  return std::optional<std::int32_t>(*number);
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80                   ? 1
                               : lead >= 0xc2 && lead < 0xe0 ? 2
                               : lead >= 0xe0 && lead < 0xf0 ? 3
                               : lead >= 0xf0 && lead < 0xf5 ? 4
                                                             : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (std::size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

std::string mapped_image(const std::string& image, const FormApiOptions& options) {
  for (const auto& [pattern, target] : options.image_map) {
    const bool open = pattern.ends_with('*');
    const std::string_view fixed = std::string_view(pattern).substr(0, pattern.size() - (open ? 1 : 0));
    if (open ? image.starts_with(fixed) : image == fixed) return target;
  }
  return image;
}

Status read_port_forwarding(const Form& form, RevisionSpec& spec) {
  const auto values = all_values(form, "port_forwarding");
  if (values.empty())
    return refuse("No port forwarding specified. Function cannot communicate with the outside world.");
  const auto port = integer32(values[0]);
  if (!port || *port < 1 || *port > 65535) return refuse("Invalid guest port specified.");
  // The original indexes past the end when the protocol is missing.
  if (values.size() < 2 || (values[1] != "tcp" && values[1] != "udp"))
    return refuse("Invalid port forwarding protocol.");
  spec.port = static_cast<std::uint16_t>(*port);
  return {};
}

// The original reserves these amounts and enforces neither; here memory is a limit, below which no process starts.
constexpr Bytes kFormMemoryMin = 16_MiB;

Status read_resources(const Form& form, RevisionSpec& spec) {
  auto cpu = number_at_least(form, "requested_cpu", 0, "Invalid CPU value");
  if (!cpu) return failure(cpu.error());
  auto memory = number_at_least(form, "requested_memory", 0, "Invalid memory value");
  if (!memory) return failure(memory.error());
  if (auto gpu = number_at_least(form, "requested_gpu", 0, "Invalid GPU value"); !gpu) return failure(gpu.error());
  if (*cpu && **cpu > 1'000'000) return refuse("Invalid CPU value");
  if (*cpu) spec.resources.cpu = Millicpu{**cpu};
  if (*memory) spec.resources.memory = std::max(kFormMemoryMin, Bytes{std::int64_t{**memory} << 20});
  return {};
}

Status read_bounds(const Form& form, RevisionSpec& spec) {
  auto upper = number_at_least(form, "scaling_upper_bound", 1, "Invalid scaling upper bound.");
  if (!upper) return failure(upper.error());
  auto lower = number_at_least(form, "scaling_lower_bound", 0, "Invalid scaling lower bound.");
  if (!lower) return failure(lower.error());
  constexpr std::int32_t kUnbounded = std::numeric_limits<std::int32_t>::max();
  if (*upper) spec.scaling.max_scale = **upper == kUnbounded ? 0 : static_cast<std::uint32_t>(**upper);
  if (*lower) spec.scaling.min_scale = static_cast<std::uint32_t>(**lower);
  if (spec.scaling.max_scale != 0 && spec.scaling.min_scale > spec.scaling.max_scale) {
    return refuse("Scaling upper bound cannot be lower than the scaling lower bound.");
  }
  return {};
}

Status read_program(const Form& form, RevisionSpec& spec, bool is_mapped) {
  struct Numbered {
    std::string_view field;
    std::string_view variable;  // of the function's environment; "" = checked only
    std::int32_t absent;
    std::string_view text;
  };
  static constexpr Numbered numbers[] = {
      {"iteration_multiplier", "ITERATIONS_MULTIPLIER", 102, "Invalid iteration multiplier."},
      {"cold_start_busy_loop_ms", "COLD_START_BUSY_LOOP_MS", 0, "Invalid cold start busy loop duration."},
      {"num_args", "", 0, "Invalid number of function arguments."},
      {"num_rets", "", 0, "Invalid number of function returns."},
  };
  for (const auto& [field, variable, absent, text] : numbers) {
    auto number = number_at_least(form, field, 0, text);
    if (!number) return failure(number.error());
    if (!variable.empty()) spec.environment[std::string(variable)] = fmt::format("{}", number->value_or(absent));
  }
  for (const auto& entry : all_values(form, "env_vars")) {
    const auto at = entry.find('=');
    if (at == std::string::npos || at == 0 || !is_utf8(entry)) return refuse("Invalid environment variable.");
    spec.environment[entry.substr(0, at)] = entry.substr(at + 1);
  }
  // The arguments of a published image mean nothing to the builtin that stands in for it.
  if (!is_mapped) spec.arguments = all_values(form, "program_args");
  for (const auto& argument : spec.arguments) {
    if (!is_utf8(argument)) return refuse("Invalid program argument.");
  }
  return {};
}

}  // namespace

const std::string* first_value(const Form& form, std::string_view name) {
  const auto found = std::find_if(form.begin(), form.end(), [&](const auto& pair) { return pair.first == name; });
  return found == form.end() ? nullptr : &found->second;
}

Result<DeployRequest> read_registration(const Form& form, const ScalingProfile& profile,
                                        const FormApiOptions& options) {
  DeployRequest request;
  request.create_only = true;
  // A loader registers hundreds of functions at once and expects each answer within seconds: no test start.
  request.verify = false;
  RevisionSpec& spec = request.spec;
  spec.scaling = profile.scaling;
  spec.concurrency_limit = profile.concurrency_limit;

  const std::string* name = first_value(form, "name");
  if (name == nullptr || name->empty()) return refuse("Invalid function name.");
  auto function = parse_function_name(*name);
  if (!function) return refuse(fmt::format("Invalid function name. {}.", function.error().message));
  request.name = std::move(*function);

  const std::string* image = first_value(form, "image");
  if (image == nullptr || image->empty() || !is_utf8(*image)) return refuse("Invalid function image.");
  spec.image = mapped_image(*image, options);
  const bool is_mapped = spec.image != *image;
  if (auto parsed = parse_image(spec.image); !parsed)
    return refuse(fmt::format("Invalid function image. {}.", parsed.error().message));

  if (auto status = read_port_forwarding(form, spec); !status) return failure(status.error());
  // A builtin listens where it is told; the low ports of the published images would need a capability.
  if (is_mapped) spec.port = RevisionSpec{}.port;
  if (auto status = read_resources(form, spec); !status) return failure(status.error());

  bool sweep = false;
  if (const std::string* value = first_value(form, "cold_start_sweep"); value != nullptr && !value->empty()) {
    const auto parsed = go_bool(*value);
    if (!parsed) return refuse("Invalid cold start sweep value");
    sweep = *parsed;
  }
  if (auto status = read_bounds(form, spec); !status) return failure(status.error());
  if (auto status = read_program(form, spec, is_mapped); !status) return failure(status.error());
  if (sweep) {
    // One sandbox that is gone before the next call of the sweep: windows of 6 s and 2 s.
    spec.scaling.max_scale = 1;
    spec.scaling.min_scale = 0;
    spec.scaling.stable_window = 6s;
    spec.scaling.panic_window_percent = 100.0 / 3;
    spec.scaling.scale_to_zero_grace = 0s;
    spec.scaling.scale_down_delay = 0s;
  }
  if (auto status = validate(spec); !status)
    return refuse(fmt::format("Invalid function. {}.", status.error().message));
  return request;
}

namespace {

struct PatchField {
  std::string_view name;
  double least;
  bool above;  // the value must be above `least`, not just reach it
  void (*apply)(RevisionSpec&, double);
};

const std::vector<PatchField>& patch_fields() {
  const auto count = [](double value) { return static_cast<std::uint32_t>(std::min(value, 4294967295.0)); };
  static const auto to_count = count;
  static const std::vector<PatchField> table{
      {"panic_threshold_percentage", 0, false,
       [](RevisionSpec& s, double v) { s.scaling.panic_threshold_percent = v; }},
      {"max_scale_up_rate", 0, true, [](RevisionSpec& s, double v) { s.scaling.scale_up_rate_max = v; }},
      {"max_scale_down_rate", 0, true, [](RevisionSpec& s, double v) { s.scaling.scale_down_rate_max = v; }},
      {"container_concurrency", 0, false, [](RevisionSpec& s, double v) { s.concurrency_limit = to_count(v); }},
      {"container_concurrency_target_percentage", 0, true,
       [](RevisionSpec& s, double v) { s.scaling.utilization_percent = v; }},
      {"stable_window_width", 0, true, [](RevisionSpec& s, double v) { s.scaling.stable_window = from_seconds(v); }},
      // Kept as a part of the stable window, which the field before may have changed.
      {"panic_window_width", 0, true,
       [](RevisionSpec& s, double v) {
         s.scaling.panic_window_percent = 100 * v / to_seconds(s.scaling.stable_window);
       }},
      {"scaling_period", 0, true, [](RevisionSpec& s, double v) { s.scaling.look_interval = from_seconds(v); }},
      {"target_burst_capacity", 0, false, [](RevisionSpec& s, double v) { s.scaling.target_burst_capacity = v; }},
      {"initial_scale", 0, false, [](RevisionSpec& s, double v) { s.scaling.initial_scale = to_count(v); }},
      {"total_value", 0, false,
       [](RevisionSpec& s, double v) {
         if (v > 0) s.scaling.target = v;
       }},
      {"scale_down_delay", 0, false, [](RevisionSpec& s, double v) { s.scaling.scale_down_delay = from_seconds(v); }},
  };
  return table;
}

}  // namespace

Status apply_form_patch(const Form& form, RevisionSpec& spec) {
  if (auto status = read_bounds(form, spec); !status) return status;
  for (const PatchField& field : patch_fields()) {
    const std::string* text = first_value(form, field.name);
    if (text == nullptr || text->empty()) continue;
    const auto number = parse_number(*text);
    if (!number || *number < field.least || (field.above && *number == field.least)) {
      return refuse(fmt::format("Invalid {} - \"{}\" is not a number {} {}.", field.name, *text,
                                field.above ? "above" : "of at least", field.least));
    }
    field.apply(spec, *number);
  }
  if (const std::string* method = first_value(form, "scaling_method"); method != nullptr && !method->empty()) {
    if (*method != "arithmetic" && *method != "exponential") return refuse("Unsupported scaling_method");
    spec.scaling.aggregation = *method == "exponential" ? Aggregation::weighted_exponential : Aggregation::linear;
  }
  if (auto status = validate(spec); !status) return refuse(fmt::format("Invalid value - {}.", status.error().message));
  return {};
}

}  // namespace dirigent::roles
