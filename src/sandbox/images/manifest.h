// SPDX-License-Identifier: MIT
//
// The JSON documents of images: OCI index, manifest and configuration, and their Docker twins. All of it comes from
// archives and registries, so every field is checked; the errors are corrupt or unsupported and name the document.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/result.h"

namespace dirigent::sandbox {

// What an image says about how it wants to be run.
struct ImageConfig {
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> environment;  // "NAME=value"
  std::string working_directory;
  std::string user;                      // UID[:GID] or NAME[:GROUP]; "" = root
  std::vector<std::string> diff_ids;     // digests of the unpacked layers, the lowest first
};

struct BlobReference {
  std::string digest;
  std::uint64_t size = 0;
};
// An index names manifests; a manifest a configuration and layers. Exactly one of the two is filled.
struct Manifest {
  std::string next;                   // of an index: digest of the manifest for this machine
  BlobReference config;
  std::vector<BlobReference> layers;  // the lowest first
};

// The manifest.json of `docker save`: paths inside the archive.
struct DockerArchive {
  std::string config;
  std::vector<std::string> layers;
};

Result<ImageConfig> parse_image_config(std::string_view json);
Result<Manifest> parse_manifest(std::string_view json);
Result<DockerArchive> parse_docker_archive(std::string_view json);

}  // namespace dirigent::sandbox
