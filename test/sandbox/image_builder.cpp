// SPDX-License-Identifier: MIT
#include "image_builder.h"

#include <zlib.h>
#if DIRIGENT_ZSTD
#include <zstd.h>
#endif

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "sandbox/images/sha256.h"

namespace dirigent::sandbox::test {

namespace {

using Json = nlohmann::json;

#if defined(__x86_64__)
constexpr const char* kArchitecture = "amd64";
#else
constexpr const char* kArchitecture = "arm64";
#endif

std::string blob_path(const std::string& digest) { return "blobs/sha256/" + digest.substr(7); }

}  // namespace

TarWriter& TarWriter::add(char type, const std::string& name, const std::string& data, const std::string& target,
                          unsigned mode) {
  char header[512] = {};
  std::strncpy(header, name.c_str(), 100);
  std::snprintf(header + 100, 8, "%07o", mode);
  std::snprintf(header + 108, 8, "%07o", 0);
  std::snprintf(header + 116, 8, "%07o", 0);
  std::snprintf(header + 124, 12, "%011zo", data.size());
  std::snprintf(header + 136, 12, "%011o", 0);
  header[156] = type;
  std::strncpy(header + 157, target.c_str(), 100);
  std::memcpy(header + 257, "ustar\0" "00", 8);
  unsigned sum = 8 * ' ';
  for (const char c : header) sum += static_cast<unsigned char>(c);
  std::snprintf(header + 148, 8, "%06o", sum);
  header[155] = ' ';
  bytes_.append(header, sizeof header);
  bytes_ += data;
  bytes_.resize((bytes_.size() + 511) / 512 * 512);
  return *this;
}

std::string TarWriter::write(const TemporaryDirectory& directory, const std::string& name) const {
  const std::string path = directory.path + "/" + name;
  std::ofstream(path, std::ios::binary) << ended();
  return path;
}

std::string gzip(const std::string& bytes) {
  z_stream stream{};
  ::deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(::deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  ::deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& bytes) {
#if DIRIGENT_ZSTD
  std::string out(::ZSTD_compressBound(bytes.size()), '\0');
  out.resize(::ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
#else
  return bytes;
#endif
}

std::string file_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TestImage::Blobs TestImage::blobs() const {
  Blobs blobs;
  Json manifest_layers = Json::array();
  Json diff_ids = Json::array();
  for (const auto& layer : layers) {
    const std::string bytes = packing == Packing::gzip ? gzip(layer) : packing == Packing::zstd ? zstd(layer) : layer;
    blobs.layers.emplace_back(sha256_of(bytes), bytes);
    diff_ids.push_back(sha256_of(layer));
    const char* type = packing == Packing::gzip   ? "application/vnd.oci.image.layer.v1.tar+gzip"
                       : packing == Packing::zstd ? "application/vnd.oci.image.layer.v1.tar+zstd"
                                                  : "application/vnd.oci.image.layer.v1.tar";
    manifest_layers.push_back({{"mediaType", type}, {"digest", sha256_of(bytes)}, {"size", bytes.size()}});
  }
  Json inner = {{"Entrypoint", entrypoint}, {"Cmd", command}, {"Env", environment}, {"WorkingDir", working_directory}, {"User", user}};
  blobs.config = Json{{"architecture", kArchitecture}, {"os", "linux"}, {"config", inner},
                      {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}}}.dump();
  blobs.config_digest = sha256_of(blobs.config);
  blobs.manifest = Json{{"schemaVersion", 2},
                        {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                        {"config", {{"mediaType", "application/vnd.oci.image.config.v1+json"},
                                    {"digest", blobs.config_digest}, {"size", blobs.config.size()}}},
                        {"layers", manifest_layers}}.dump();
  blobs.manifest_digest = sha256_of(blobs.manifest);
  return blobs;
}

TarWriter TestImage::oci_archive() const {
  const Blobs all = blobs();
  const Json index = {{"schemaVersion", 2},
                      {"manifests", {{{"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                                      {"digest", all.manifest_digest}, {"size", all.manifest.size()},
                                      {"platform", {{"os", "linux"}, {"architecture", kArchitecture}}}}}}};
  TarWriter tar;
  tar.add('0', "oci-layout", R"({"imageLayoutVersion":"1.0.0"})").add('0', "index.json", index.dump());
  tar.add('0', blob_path(all.manifest_digest), all.manifest).add('0', blob_path(all.config_digest), all.config);
  for (const auto& [digest, bytes] : all.layers) tar.add('0', blob_path(digest), bytes);
  return tar;
}

TarWriter TestImage::docker_archive() const {
  const Blobs all = blobs();
  TarWriter tar;
  Json paths = Json::array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string path = std::to_string(i) + "/layer.tar";
    tar.add('0', path, all.layers[i].second);
    paths.push_back(path);
  }
  tar.add('0', "config.json", all.config);
  tar.add('0', "manifest.json", Json::array({{{"Config", "config.json"}, {"RepoTags", {"a:1"}}, {"Layers", paths}}}).dump());
  return tar;
}

TestImage probe_test_image() {
  TestImage image;
  image.layers.push_back(TarWriter()
                             .add('5', "etc/", "", "", 0755)
                             .add('0', "etc/passwd", "root:x:0:0::/:/bin/false\n")
                             .add('0', "probe", file_content(probe_path()), "", 0755)
                             .ended());
  image.entrypoint = {"/probe"};
  image.command = {"report"};
  return image;
}

}  // namespace dirigent::sandbox::test
