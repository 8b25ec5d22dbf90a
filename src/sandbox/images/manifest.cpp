// SPDX-License-Identifier: MIT
#include "sandbox/images/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "sandbox/images/sha256.h"

namespace dirigent::sandbox {

namespace {

using Json = nlohmann::json;

#if defined(__x86_64__)
constexpr std::string_view kArchitecture = "amd64";
#else
constexpr std::string_view kArchitecture = "arm64";
#endif
constexpr std::size_t kDocumentBytesMax = 4 << 20;
constexpr std::size_t kLayersMax = 127;

// nlohmann throws where a document is not what it must be; here that is an error like any other.
template <class Parse>
auto checked(std::string_view what, std::string_view json, Parse parse) -> decltype(parse(Json{})) {
  if (json.size() > kDocumentBytesMax)
    return failure(ErrorCode::exhausted, "the {} has {} bytes, at most {} are read", what, json.size(), kDocumentBytesMax);
  try {
    return parse(Json::parse(json));
  } catch (const Json::exception& error) {
    return failure(ErrorCode::corrupt, "the {} cannot be read: {}", what, error.what());
  }
}

std::vector<std::string> texts(const Json& object, const char* key) {
  if (!object.contains(key) || object.at(key).is_null()) return {};
  return object.at(key).get<std::vector<std::string>>();
}

std::string text(const Json& object, const char* key) {
  if (!object.contains(key) || object.at(key).is_null()) return {};
  return object.at(key).get<std::string>();
}

Result<BlobReference> blob(const Json& descriptor) {
  BlobReference reference{descriptor.at("digest").get<std::string>(), descriptor.value("size", std::uint64_t{0})};
  if (!is_digest(reference.digest))
    return failure(ErrorCode::unsupported, "\"{}\" is not a sha256 digest, the only kind that is known here",
                   reference.digest.substr(0, 100));
  return reference;
}

Result<Manifest> choose(const Json& index) {
  const Json* chosen = nullptr;
  for (const auto& entry : index.at("manifests")) {
    const Json platform = entry.value("platform", Json::object());
    const std::string system = platform.value("os", "linux");
    const std::string machine = platform.value("architecture", std::string(kArchitecture));
    if (system == "linux" && machine == kArchitecture && chosen == nullptr) chosen = &entry;
  }
  if (chosen == nullptr)
    return failure(ErrorCode::unsupported, "the image has nothing for linux/{}", kArchitecture);
  auto reference = blob(*chosen);
  if (!reference) return failure(reference.error());
  return Manifest{reference->digest, {}, {}};
}

}  // namespace

Result<ImageConfig> parse_image_config(std::string_view json) {
  return checked("image configuration", json, [](const Json& document) -> Result<ImageConfig> {
    ImageConfig config;
    if (document.contains("config") && document.at("config").is_object()) {
      const Json& inner = document.at("config");
      config.entrypoint = texts(inner, "Entrypoint");
      config.command = texts(inner, "Cmd");
      config.environment = texts(inner, "Env");
      config.working_directory = text(inner, "WorkingDir");
      config.user = text(inner, "User");
    }
    const std::string machine = document.value("architecture", std::string(kArchitecture));
    if (machine != kArchitecture)
      return failure(ErrorCode::unsupported, "the image is for {}, this machine is {}", machine, kArchitecture);
    config.diff_ids = texts(document.at("rootfs"), "diff_ids");
    for (const auto& digest : config.diff_ids) {
      if (!is_digest(digest)) return failure(ErrorCode::corrupt, "the image configuration names a layer without a sha256 digest");
    }
    return config;
  });
}

Result<Manifest> parse_manifest(std::string_view json) {
  return checked("image manifest", json, [](const Json& document) -> Result<Manifest> {
    if (document.contains("manifests")) return choose(document);
    Manifest manifest;
    auto config = blob(document.at("config"));
    if (!config) return failure(config.error());
    manifest.config = *config;
    for (const auto& layer : document.at("layers")) {
      auto reference = blob(layer);
      if (!reference) return failure(reference.error());
      manifest.layers.push_back(*reference);
    }
    if (manifest.layers.size() > kLayersMax)
      return failure(ErrorCode::exhausted, "the image has {} layers, at most {} can be stacked", manifest.layers.size(), kLayersMax);
    return manifest;
  });
}

Result<DockerArchive> parse_docker_archive(std::string_view json) {
  return checked("manifest.json", json, [](const Json& document) -> Result<DockerArchive> {
    const Json& first = document.at(0);
    DockerArchive archive{first.at("Config").get<std::string>(), first.at("Layers").get<std::vector<std::string>>()};
    if (archive.layers.size() > kLayersMax)
      return failure(ErrorCode::exhausted, "the image has {} layers, at most {} can be stacked", archive.layers.size(), kLayersMax);
    return archive;
  });
}

}  // namespace dirigent::sandbox
