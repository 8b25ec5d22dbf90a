// SPDX-License-Identifier: MIT
#include "sandbox/images/reference.h"

#include <algorithm>

#include "sandbox/images/sha256.h"

namespace dirigent::sandbox {

namespace {

bool is_repository(std::string_view text) {
  if (text.empty() || text.size() > 255 || text.front() == '/' || text.back() == '/' || text.find("//") != text.npos)
    return false;
  if (text.find("..") != text.npos) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-' || c == '/';
  });
}

bool is_tag(std::string_view text) {
  const auto is_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  if (text.empty() || text.size() > 128 || !is_word(text.front())) return false;
  return std::all_of(text.begin(), text.end(), [&](char c) { return is_word(c) || c == '.' || c == '-'; });
}

bool is_registry(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == ':' ||
           c == '[' || c == ']';
  });
}

}  // namespace

std::string ImageReference::full() const {
  std::string text = registry + "/" + repository;
  if (!tag.empty()) text += ":" + tag;
  if (!digest.empty()) text += "@" + digest;
  return text;
}

Result<ImageReference> parse_reference(std::string_view text) {
  const auto wrong = [&](std::string_view what) {
    return failure(ErrorCode::invalid_argument, "image \"{}\": {} (a reference is [REGISTRY/]NAME[:TAG][@sha256:DIGEST])", text, what);
  };
  ImageReference reference;
  std::string_view rest = text;
  if (const auto at = rest.find('@'); at != rest.npos) {
    reference.digest = rest.substr(at + 1);
    if (!is_digest(reference.digest)) return wrong("what follows the @ is not a sha256 digest");
    rest = rest.substr(0, at);
  }
  // The first part is a registry when it could not be a name: with a dot, a port, or "localhost".
  const auto slash = rest.find('/');
  const std::string_view first = rest.substr(0, slash);
  if (slash != rest.npos && (first.find_first_of(".:") != first.npos || first == "localhost")) {
    reference.registry = first;
    if (!is_registry(first)) return wrong("the registry is not a host name and port");
    rest = rest.substr(slash + 1);
  } else {
    reference.registry = "docker.io";
  }
  if (const auto colon = rest.find(':'); colon != rest.npos) {
    reference.tag = rest.substr(colon + 1);
    if (!is_tag(reference.tag)) return wrong("the tag is malformed");
    rest = rest.substr(0, colon);
  }
  reference.repository = rest;
  if (!is_repository(rest)) return wrong("the name may have a-z, 0-9, ., _, - and / only");
  if (reference.registry == "docker.io" && rest.find('/') == rest.npos) reference.repository = "library/" + std::string(rest);
  if (reference.tag.empty() && reference.digest.empty()) reference.tag = "latest";
  return reference;
}

}  // namespace dirigent::sandbox
