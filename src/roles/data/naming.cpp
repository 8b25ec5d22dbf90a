// SPDX-License-Identifier: MIT
#include "roles/data/naming.h"

#include <algorithm>

#include "dirigent/model/call_id.h"

namespace dirigent::roles {

namespace {

bool begins_with(std::string_view target, std::string_view prefix) { return target.starts_with(prefix); }

bool is_path(std::string_view target, std::string_view path) {
  return begins_with(target, path) && (target.size() == path.size() || target[path.size()] == '?');
}

// A function may be called "result" like any other; only reading with an id behind it means a result.
NamedPath name_async(std::string_view method, std::string_view rest) {
  constexpr std::string_view kResult = "result/";
  NamedPath named;
  if ((method == "GET" || method == "HEAD") && begins_with(rest, kResult)) {
    named.kind = PathKind::async_result;
    named.name = rest.substr(kResult.size());
    named.name = named.name.substr(0, named.name.find('?'));
    return named;
  }
  const std::size_t end = rest.find_first_of("/?");
  named.name = rest.substr(0, end);
  named.rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end);
  const bool is_id = method == "DELETE" && named.rest.empty() && parse_call_id(named.name).has_value();
  named.kind = is_id ? PathKind::async_cancel : PathKind::async_call;
  return named;
}

}  // namespace

NamedPath name_by_path(std::string_view target, std::string_view method) {
  constexpr std::string_view kFunction = "/function/";
  constexpr std::string_view kAsync = "/async-function/";
  NamedPath named;
  if (begins_with(target, kAsync)) return name_async(method, target.substr(kAsync.size()));
  if (begins_with(target, kFunction)) {
    const std::size_t end = target.find_first_of("/?", kFunction.size());
    named.kind = PathKind::by_path;
    named.name = target.substr(kFunction.size(), end == std::string_view::npos ? end : end - kFunction.size());
    named.rest = end == std::string_view::npos ? std::string_view{} : target.substr(end);
    return named;
  }
  if (is_path(target, "/healthz")) {
    named.kind = PathKind::health;
    return named;
  }
  for (const std::string_view prefix : {"/system/", "/ui/", "/v1/"}) {
    if (begins_with(target, prefix)) named.kind = PathKind::reserved;
  }
  if (is_path(target, "/readyz") || is_path(target, "/metrics")) named.kind = PathKind::reserved;
  return named;
}

std::string_view tagged_name(std::string_view tag, std::string_view name, std::array<char, 256>& to) {
  const std::size_t size = tag.size() + kTagSeparator.size() + name.size();
  if (size > to.size()) return {};
  char* at = std::copy(tag.begin(), tag.end(), to.begin());
  at = std::copy(kTagSeparator.begin(), kTagSeparator.end(), at);
  std::copy(name.begin(), name.end(), at);
  return {to.data(), size};
}

std::string_view canonical_name(std::string_view name) {
  constexpr std::string_view kDefault = ".default";
  if (name.size() > kDefault.size() && name.ends_with(kDefault)) name.remove_suffix(kDefault.size());
  return name;
}

HostNames::HostNames(std::string_view host) {
  if (host.empty() || host.front() == '[') return;
  host = host.substr(0, host.find(':'));
  while (!host.empty() && host.back() == '.') host.remove_suffix(1);
  if (host.empty() || host.size() > text_.size()) return;
  bool only_digits = true;
  for (std::size_t i = 0; i < host.size(); ++i) {
    const char c = host[i];
    text_[i] = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
    only_digits = only_digits && ((c >= '0' && c <= '9') || c == '.');
  }
  const std::string_view lowered(text_.data(), host.size());
  if (only_digits && lowered.find('.') != std::string_view::npos) return;  // an IPv4 address
  add(lowered);
  const std::size_t first = lowered.find('.');
  if (first == std::string_view::npos) return;
  const std::size_t second = lowered.find('.', first + 1);
  if (second != std::string_view::npos) add(lowered.substr(0, second));
  add(lowered.substr(0, first));
}

void HostNames::add(std::string_view name) {
  name = canonical_name(name);
  if (name.empty() || (count_ > 0 && names_[count_ - 1] == name)) return;
  names_[count_++] = name;
}

bool is_call_id(std::string_view text) {
  if (text.empty() || text.size() > kCallIdMax) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

void write_ulid(char* to, WallTime now, Rng& rng) {
  static constexpr char kDigits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  auto milliseconds = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count());
  for (std::size_t i = 10; i-- > 0; milliseconds >>= 5) to[i] = kDigits[milliseconds & 31];
  std::uint64_t high = rng();
  std::uint64_t low = rng();
  for (std::size_t i = 10; i < 18; ++i, high >>= 5) to[i] = kDigits[high & 31];
  for (std::size_t i = 18; i < kUlidSize; ++i, low >>= 5) to[i] = kDigits[low & 31];
}

}  // namespace dirigent::roles
