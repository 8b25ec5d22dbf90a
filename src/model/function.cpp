// SPDX-License-Identifier: MIT
#include "dirigent/model/function.h"

#include <algorithm>

#include "dirigent/base/text.h"

namespace dirigent {

const Revision* Function::find(RevisionNumber number) const {
  const auto found = std::find_if(revisions.begin(), revisions.end(), [&](const Revision& r) { return r.number == number; });
  return found == revisions.end() ? nullptr : &*found;
}

const std::vector<std::string>& builtin_names() {
  static const std::vector<std::string> names{"hello", "echo", "sleep", "stream", "fail", "trace"};
  return names;
}

Result<Image> parse_image(std::string_view text) {
  if (text.empty()) return failure(ErrorCode::invalid_argument, "image is empty: write builtin:hello, exec:/path, dir:/rootfs, tar:FILE or a reference");
  if (std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; })) {
    return failure(ErrorCode::invalid_argument, "image contains control characters");
  }
  const auto after = [&](std::string_view prefix) { return trim(text.substr(prefix.size())); };
  if (text.starts_with("builtin:")) {
    const std::string name(after("builtin:"));
    const auto& names = builtin_names();
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return failure(ErrorCode::invalid_argument, "there is no builtin image \"{}\"{}: choose one of hello, echo, sleep, stream, fail, trace",
                     name, did_you_mean_suffix(name, names));
    }
    return Image{ImageKind::builtin, name, {}};
  }
  const auto path_image = [&](std::string_view prefix, ImageKind kind) -> Result<Image> {
    std::vector<std::string> words;
    for (const auto word : split(after(prefix), ' ')) {
      if (!word.empty()) words.emplace_back(word);
    }
    if (words.empty() || !words.front().starts_with('/')) {
      return failure(ErrorCode::invalid_argument, "image \"{}\": {} needs an absolute path", text, prefix);
    }
    if (kind != ImageKind::exec && words.size() > 1) {
      return failure(ErrorCode::invalid_argument, "image \"{}\": {} takes one path without blanks (give arguments separately)", text, prefix);
    }
    return Image{kind, words.front(), std::vector<std::string>(words.begin() + 1, words.end())};
  };
  if (text.starts_with("exec:")) return path_image("exec:", ImageKind::exec);
  if (text.starts_with("dir:")) return path_image("dir:", ImageKind::directory);
  if (text.starts_with("tar:")) return path_image("tar:", ImageKind::tar);
  if (text.find(' ') != std::string_view::npos) return failure(ErrorCode::invalid_argument, "image \"{}\" contains a blank", text);
  return Image{ImageKind::reference, std::string(text), {}};
}

namespace {

Status positive(std::string_view field, Duration value, Duration most) {
  if (value > Duration::zero() && value <= most) return {};
  return failure(ErrorCode::invalid_argument, "{} is {}, it must be above 0 and at most {}", field, format_duration(value), format_duration(most));
}
Status not_negative(std::string_view field, Duration value, Duration most) {
  if (value >= Duration::zero() && value <= most) return {};
  return failure(ErrorCode::invalid_argument, "{} is {}, it must be in 0..{}", field, format_duration(value), format_duration(most));
}
Status no_zero_byte(std::string_view field, std::string_view value) {
  if (value.find('\0') == std::string_view::npos) return {};
  return failure(ErrorCode::invalid_argument, "{} contains a zero byte", field);
}
// Their contents are in no message.
Status validate_secrets(const std::map<std::string, std::string>& secrets) {
  constexpr std::size_t kSecretsMax = 64;
  constexpr std::size_t kBytesMax = 64 * 1024;
  std::size_t bytes = 0;
  for (const auto& [name, text] : secrets) {
    const bool fine = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    });
    if (!fine || name.empty() || name.size() > 64 || name.starts_with('.'))
      return failure(ErrorCode::invalid_argument, "secret \"{}\" is no file name of 1..64 of [A-Za-z0-9._-] that begins without a dot", name);
    if (!decode_base64(text)) return failure(ErrorCode::invalid_argument, "secret \"{}\" is not base64", name);
    bytes += text.size();
  }
  if (secrets.size() > kSecretsMax || bytes > kBytesMax)
    return failure(ErrorCode::invalid_argument, "{} secrets with {} bytes in base64 are too much: at most {} with {} bytes are possible",
                   secrets.size(), bytes, kSecretsMax, kBytesMax);
  return {};
}

}  // namespace

Status validate(const RevisionSpec& spec) {
  if (auto image = parse_image(spec.image); !image) return failure(image.error());
  if (spec.port == 0) return failure(ErrorCode::invalid_argument, "port is 0, it must be in 1..65535");
  if (spec.resources.cpu.value < 0 || spec.resources.cpu.value > 1'000'000) {
    return failure(ErrorCode::invalid_argument, "cpu is {}m, it must be in 0..1000000m", spec.resources.cpu.value);
  }
  if (spec.resources.memory < 1_MiB || spec.resources.memory > Bytes{std::int64_t{1} << 44}) {
    return failure(ErrorCode::invalid_argument, "memory is {}, it must be in 1 MiB..16 TiB", format_bytes(spec.resources.memory));
  }
  if (spec.cpu_limit.value < 0 || spec.cpu_limit.value > 1'000'000) {
    return failure(ErrorCode::invalid_argument, "cpu_limit is {}m, it must be in 0..1000000m", spec.cpu_limit.value);
  }
  if (spec.pids_max == 0 || spec.pids_max > 1'000'000) {
    return failure(ErrorCode::invalid_argument, "pids_max is {}, it must be in 1..1000000", spec.pids_max);
  }
  if (!spec.ready_path.empty() && !spec.ready_path.starts_with('/')) {
    return failure(ErrorCode::invalid_argument, "ready_path \"{}\" must start with /", spec.ready_path);
  }
  if (std::any_of(spec.ready_path.begin(), spec.ready_path.end(), [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; })) {
    return failure(ErrorCode::invalid_argument, "ready_path contains blanks or control characters");
  }
  for (const auto& [name, value] : spec.environment) {
    if (name.empty() || name.find('=') != std::string::npos) {
      return failure(ErrorCode::invalid_argument, "environment variable \"{}\" has an empty name or a = in it", name);
    }
    if (auto status = no_zero_byte("environment variable " + name, name + value); !status) return status;
  }
  if (Status status = validate_secrets(spec.secrets); !status) return status;
  if (spec.user.size() > 256 || std::any_of(spec.user.begin(), spec.user.end(), [](char c) { return static_cast<unsigned char>(c) <= 0x20; }))
    return failure(ErrorCode::invalid_argument, "user is not UID[:GID] or NAME[:GROUP] with at most 256 characters");
  for (const auto& argument : spec.arguments) {
    if (auto status = no_zero_byte("an argument", argument); !status) return status;
  }
  for (const auto& constraint : spec.constraints) {
    const auto at = constraint.find('=');
    if (at == std::string::npos || at == 0 || constraint.starts_with("!")) {
      return failure(ErrorCode::invalid_argument, "constraint \"{}\" is not of the form key=value or key!=value", constraint);
    }
  }
  const RequestLimits& limits = spec.limits;
  constexpr Duration kMost = 24h;
  const Status checks[] = {
      positive("timeout", limits.timeout, kMost),
      not_negative("first_byte_timeout", limits.first_byte_timeout, kMost),
      not_negative("idle_timeout", limits.idle_timeout, kMost),
      positive("queue_timeout", limits.queue_timeout, kMost),
      positive("start_timeout", limits.start_timeout, kMost),
      not_negative("drain_timeout", limits.drain_timeout, kMost),
      validate(spec.scaling),
  };
  for (const auto& status : checks) {
    if (!status) return status;
  }
  if (spec.concurrency_limit > 100'000) {
    return failure(ErrorCode::invalid_argument, "concurrency_limit is {}, it must be in 0..100000", spec.concurrency_limit);
  }
  return {};
}

}  // namespace dirigent
