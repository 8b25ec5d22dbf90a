// SPDX-License-Identifier: MIT
#include "dirigent/model/ids.h"

#include <algorithm>
#include <charconv>

namespace dirigent {

std::string revision_name(const FunctionName& function, RevisionNumber revision) {
  return fmt::format("{}-{:05}", function.value, revision.value);
}

std::string to_string(SandboxId id) { return fmt::format("{:016x}", id.value); }

Result<SandboxId> parse_sandbox_id(std::string_view text) {
  SandboxId id;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id.value, 16);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty() || text.size() > 16) {
    return failure(ErrorCode::invalid_argument, "\"{}\" is not a sandbox id: 16 hexadecimal digits are expected", text);
  }
  return id;
}

namespace {
// One label of DNS, so that a function's name can be a host name.
Status check_label(std::string_view label, std::string_view what, std::string_view whole) {
  if (label.empty()) return failure(ErrorCode::invalid_argument, "{} of \"{}\" is empty", what, whole);
  if (label.size() > 63) {
    return failure(ErrorCode::invalid_argument, "{} of \"{}\" has {} characters, at most 63 are allowed", what, whole, label.size());
  }
  for (std::size_t i = 0; i < label.size(); ++i) {
    const char c = label[i];
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) {
      return failure(ErrorCode::invalid_argument, "{} \"{}\" has {} at position {}: only a-z, 0-9 and - are allowed", what, label,
                     c > 0x20 && c < 0x7f ? fmt::format("'{}'", c) : fmt::format("byte 0x{:02x}", static_cast<unsigned char>(c)), i + 1);
    }
  }
  if (label.front() == '-' || label.back() == '-') {
    return failure(ErrorCode::invalid_argument, "{} \"{}\" starts or ends with -", what, label);
  }
  return {};
}
}  // namespace

Result<FunctionName> parse_function_name(std::string_view text) {
  const std::size_t dot = text.find('.');
  if (auto status = check_label(text.substr(0, dot), "the name", text); !status) return failure(status.error());
  if (dot == std::string_view::npos) return FunctionName{std::string(text)};
  const std::string_view space = text.substr(dot + 1);
  if (auto status = check_label(space, "the namespace", text); !status) return failure(status.error());
  return FunctionName{std::string(space == "default" ? text.substr(0, dot) : text)};
}

Result<NodeId> parse_node_id(std::string_view text) {
  const bool ok = !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
  if (!ok) {
    return failure(ErrorCode::invalid_argument,
                   "\"{}\" is not a node name: 1 to 64 characters of A-Z a-z 0-9 . _ - are allowed", text);
  }
  return NodeId{std::string(text)};
}

}  // namespace dirigent
