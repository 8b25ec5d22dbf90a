// SPDX-License-Identifier: MIT
#include "sandbox/images/registry.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dirigent/base/text.h"
#include "sandbox/images/fetch.h"
#include "sandbox/images/sha256.h"

namespace dirigent::sandbox {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kDocumentBytesMax = 4 << 20;
constexpr const char* kManifestTypes =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

bool is_loopback(const std::string& registry) {
  const std::string host = registry.substr(0, registry.rfind(':'));
  return host == "localhost" || host.starts_with("127.") || host == "[::1]";
}

// 'Bearer realm="...",service="..."' -> its parts.
std::map<std::string, std::string> challenge_parts(std::string_view text) {
  std::map<std::string, std::string> parts;
  while (!text.empty()) {
    const auto equals = text.find("=\"");
    if (equals == text.npos) break;
    const auto end = text.find('"', equals + 2);
    if (end == text.npos) break;
    std::string_view name = text.substr(0, equals);
    while (!name.empty() && (name.front() == ',' || name.front() == ' ')) name.remove_prefix(1);
    parts[to_lower(name)] = std::string(text.substr(equals + 2, end - equals - 2));
    text.remove_prefix(end + 1);
  }
  return parts;
}

std::string for_query(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
    if (plain) out += c;
    else out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace

Registry::Registry(const ImageOptions& options, ImageReference reference)
    : options_(options), reference_(std::move(reference)) {
  const std::string& name = reference_.registry;
  const auto& insecure = options_.insecure_registries;
  const bool plain = is_loopback(name) || std::find(insecure.begin(), insecure.end(), name) != insecure.end();
  // Docker's registry has another host than its name.
  base_ = (plain ? "http://" : "https://") + (name == "docker.io" ? std::string("registry-1.docker.io") : name);
}

// What `docker login` keeps: "auths": {"registry": {"auth": base64 of user:password}}.
Result<std::string> Registry::credentials() const {
  std::ifstream file(options_.auth_file);
  if (!file) return std::string();
  std::ostringstream text;
  text << file.rdbuf();
  try {
    const Json auths = Json::parse(text.str()).value("auths", Json::object());
    std::vector<std::string> names{reference_.registry, "https://" + reference_.registry, "http://" + reference_.registry};
    if (reference_.registry == "docker.io") names.insert(names.end(), {"https://index.docker.io/v1/", "index.docker.io"});
    for (const auto& name : names) {
      if (auths.contains(name)) return auths.at(name).value("auth", std::string());
    }
  } catch (const Json::exception& error) {
    return failure(ErrorCode::corrupt, "cannot read the credentials in {}: {}", options_.auth_file, error.what());
  }
  return std::string();
}

Status Registry::authenticate(const std::string& challenge) {
  auto basic = credentials();
  if (!basic) return failure(basic.error());
  const auto denied = [&] {
    return failure(ErrorCode::permission_denied, "the registry {} {} (put its credentials into {})", reference_.registry,
                   basic->empty() ? "wants credentials" : "does not accept the credentials", options_.auth_file);
  };
  if (to_lower(challenge).starts_with("basic")) {
    if (basic->empty() || !authorization_.empty()) return denied();
    authorization_ = "Authorization: Basic " + *basic;
    return {};
  }
  if (!to_lower(challenge).starts_with("bearer") || !authorization_.empty()) return denied();
  auto parts = challenge_parts(std::string_view(challenge).substr(6));
  if (parts["realm"].empty()) return failure(ErrorCode::corrupt, "the registry {} names no place to get a token from", reference_.registry);
  const std::string scope = parts["scope"].empty() ? "repository:" + reference_.repository + ":pull" : parts["scope"];
  FetchRequest request;
  request.url = parts["realm"] + (parts["realm"].find('?') == std::string::npos ? "?" : "&") + "service=" +
                for_query(parts["service"]) + "&scope=" + for_query(scope);
  if (!basic->empty()) request.headers.push_back("Authorization: Basic " + *basic);
  std::string body;
  request.body = [&](std::string_view bytes) { return body.append(bytes).size() <= kDocumentBytesMax; };
  auto response = fetch(request);
  if (!response) return failure(response.error());
  if (response->status / 100 != 2) return denied();
  try {
    const Json document = Json::parse(body);
    const std::string token = document.value("token", document.value("access_token", std::string()));
    if (token.empty()) return denied();
    authorization_ = "Authorization: Bearer " + token;
  } catch (const Json::exception&) {
    return failure(ErrorCode::corrupt, "the registry {} gave a token that cannot be read", reference_.registry);
  }
  return {};
}

Status Registry::get(const std::string& path, const std::string& accept, const std::function<bool(std::string_view)>& out) {
  for (;;) {
    FetchRequest request;
    request.url = base_ + "/v2/" + reference_.repository + path;
    if (!accept.empty()) request.headers.push_back(accept);
    if (!authorization_.empty()) request.headers.push_back(authorization_);
    request.body = out;
    auto response = fetch(request);
    if (!response) return failure(response.error());
    if (response->status / 100 == 2) return {};
    if (response->status == 401) {
      if (Status let_in = authenticate(response->headers["www-authenticate"]); !let_in) return let_in;
      continue;
    }
    const std::string what = fmt::format("the registry answered {} for {}", response->status, request.url);
    if (response->status == 404) return failure(ErrorCode::not_found, "{}: there is no such image", what);
    if (response->status == 403) return failure(ErrorCode::permission_denied, "{}", what);
    return failure(ErrorCode::unavailable, "{}: {}", what, response->error_body.substr(0, 200));
  }
}

Result<Registry::Document> Registry::manifest(const std::string& tag_or_digest) {
  Document document;
  Status got = get("/manifests/" + tag_or_digest, kManifestTypes,
                   [&](std::string_view bytes) { return document.text.append(bytes).size() <= kDocumentBytesMax; });
  if (!got) return failure(got.error());
  document.digest = sha256_of(document.text);
  if (is_digest(tag_or_digest) && document.digest != tag_or_digest)
    return failure(ErrorCode::corrupt, "the registry {} sent something else than {}", reference_.registry, tag_or_digest);
  return document;
}

Status Registry::blob(const std::string& digest, const std::function<bool(std::string_view)>& out) {
  return get("/blobs/" + digest, "", out);
}

}  // namespace dirigent::sandbox
