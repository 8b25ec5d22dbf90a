// SPDX-License-Identifier: MIT
//
// Makes tar archives and images for tests, well-formed or not.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness.h"

namespace dirigent::sandbox::test {

class TarWriter {
 public:
  TarWriter& add(char type, const std::string& name, const std::string& data = "", const std::string& target = "",
                 unsigned mode = 0644);
  // Writes the archive with its end mark; returns its path.
  std::string write(const TemporaryDirectory& directory, const std::string& name = "image.tar") const;
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] std::string ended() const { return bytes_ + std::string(1024, '\0'); }

 private:
  std::string bytes_;
};

std::string gzip(const std::string& bytes);
std::string zstd(const std::string& bytes);
std::string file_content(const std::string& path);

enum class Packing { plain, gzip, zstd };

struct TestImage {
  std::vector<std::string> layers;         // tar bytes, the lowest first
  std::vector<std::string> entrypoint;
  std::vector<std::string> command;
  std::vector<std::string> environment;
  std::string working_directory;
  std::string user;
  Packing packing = Packing::gzip;

  // The blobs by digest, with the digest of the manifest first.
  struct Blobs {
    std::string manifest;
    std::string manifest_digest;
    std::string config;
    std::string config_digest;
    std::vector<std::pair<std::string, std::string>> layers;  // digest, bytes
  };
  [[nodiscard]] Blobs blobs() const;
  [[nodiscard]] TarWriter oci_archive() const;
  [[nodiscard]] TarWriter docker_archive() const;
};

// An image whose only program is the probe, at /probe.
TestImage probe_test_image();

}  // namespace dirigent::sandbox::test
