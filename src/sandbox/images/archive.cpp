// SPDX-License-Identifier: MIT
#include "sandbox/images/archive.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "sandbox/images/sha256.h"
#include "sandbox/images/tar_reader.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kPartsMax = 10'000;
constexpr std::size_t kEntriesLookedAt = 64;
constexpr std::uint64_t kDocumentBytesMax = 4 << 20;

tl::unexpected<Error> within(const std::string& file, const Error& error) {
  return failure(error.code, "cannot use the image {}: {}", file, error.message);
}

std::string plain(std::string path) {
  while (path.starts_with("./")) path.erase(0, 2);
  return path;
}

bool marks_an_image(const std::string& path) { return path == "oci-layout" || path == "manifest.json" || path == "index.json"; }

Status look_at(const std::string& file, struct stat& status) {
  if (::stat(file.c_str(), &status) != 0) {
    return failure(errno == EACCES ? ErrorCode::permission_denied : ErrorCode::not_found,
                   "cannot open {}: {} (tar: names a file on the worker's host)", file,
                   std::generic_category().message(errno));
  }
  if (!S_ISREG(status.st_mode)) return failure(ErrorCode::not_found, "cannot unpack {}: it is not a file", file);
  return {};
}

}  // namespace

Result<std::string> Archive::identity(const std::string& file) {
  struct stat status {};
  if (Status looked = look_at(file, status); !looked) return failure(looked.error());
  return fmt::format("{:x}-{:x}-{:x}-{:x}-{:x}", status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec);
}

Result<Archive> Archive::open(const std::string& file) {
  struct stat status {};
  if (Status looked = look_at(file, status); !looked) return failure(looked.error());
  Archive archive(file);
  archive.fd_ = std::make_shared<io::FileDescriptor>(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!archive.fd_->is_open()) return errno_failure(errno, fmt::format("cannot open {}", file));
  archive.size_ = static_cast<std::uint64_t>(status.st_size);
  FileSource whole(archive.fd_->get(), 0, archive.size_);
  auto plain_bytes = decompress(whole);
  if (!plain_bytes) return within(file, plain_bytes.error());
  std::string magic(4, '\0');
  FileSource start(archive.fd_->get(), 0, 4);
  static_cast<void>(start.read(magic.data(), 4));
  const bool packed = magic.starts_with("\x1f\x8b") || magic == "\x28\xb5\x2f\xfd";
  // A list with places is made of plain archives only; of packed ones the first entries tell what they are.
  FileSource again(archive.fd_->get(), 0, archive.size_);
  TarReader tar(packed ? **plain_bytes : static_cast<ByteSource&>(again), file);
  std::size_t seen = 0;
  for (;;) {
    auto entry = tar.next();
    if (!entry) return failure(entry.error());
    if (!*entry) break;
    const std::string path = plain((*entry)->path);
    archive.is_image_ = archive.is_image_ || marks_an_image(path);
    ++seen;
    if (packed && (archive.is_image_ || seen > kEntriesLookedAt)) break;
    // A whole root file system has many entries and none of these marks: its list is not needed.
    if (!packed && archive.parts_.size() < kPartsMax && ((*entry)->type == '0' || (*entry)->type == '7'))
      archive.parts_[path] = {(*entry)->offset, (*entry)->size};
  }
  if (seen == 0) return failure(ErrorCode::corrupt, "cannot unpack {}: it has no entries", file);
  if (packed && archive.is_image_)
    return failure(ErrorCode::unsupported,
                   "cannot use the image {}: an image archive must not be compressed as a whole (decompress it first)", file);
  return archive;
}

Result<Archive::Part> Archive::part(const std::string& path) const {
  const auto found = parts_.find(plain(path));
  if (found == parts_.end()) return failure(ErrorCode::corrupt, "there is no {} in it", path);
  return found->second;
}

Result<std::string> Archive::text(const std::string& path) const {
  auto where = part(path);
  if (!where) return failure(where.error());
  if (where->size > kDocumentBytesMax) return failure(ErrorCode::exhausted, "its {} is larger than 4 MiB", path);
  std::string bytes(where->size, '\0');
  FileSource source(fd_->get(), where->offset, where->size);
  for (std::size_t done = 0; done < bytes.size();) {
    auto got = source.read(bytes.data() + done, bytes.size() - done);
    if (!got) return failure(got.error());
    if (*got == 0) return failure(ErrorCode::corrupt, "its {} ends too early", path);
    done += *got;
  }
  return bytes;
}

PackedLayer Archive::layer(const Part& part, std::string name) const {
  PackedLayer layer;
  layer.name = std::move(name);
  layer.open = [fd = fd_, part]() -> Result<std::unique_ptr<ByteSource>> {
    return std::make_unique<FileSource>(fd->get(), part.offset, part.size);
  };
  return layer;
}

Result<std::string> Archive::blob_text(const std::string& digest) const {
  auto bytes = text("blobs/sha256/" + digest.substr(7));
  if (bytes && sha256_of(*bytes) != digest)
    return failure(ErrorCode::corrupt, "the content of blob {} has another digest", digest);
  return bytes;
}

Result<PackedImage> Archive::oci_image() const {
  auto index = text("index.json");
  if (!index) return failure(index.error());
  auto manifest = parse_manifest(*index);
  // An index may name an index, but hardly more than once.
  for (int depth = 0; manifest && !manifest->next.empty(); ++depth) {
    if (depth > 3) return failure(ErrorCode::corrupt, "its index leads nowhere");
    auto bytes = blob_text(manifest->next);
    if (!bytes) return failure(bytes.error());
    manifest = parse_manifest(*bytes);
  }
  if (!manifest) return failure(manifest.error());
  auto config_text = blob_text(manifest->config.digest);
  if (!config_text) return failure(config_text.error());
  auto config = parse_image_config(*config_text);
  if (!config) return failure(config.error());
  PackedImage image;
  image.config = std::move(*config);
  if (image.config.diff_ids.size() != manifest->layers.size())
    return failure(ErrorCode::corrupt, "its manifest has {} layers, its configuration {}", manifest->layers.size(),
                   image.config.diff_ids.size());
  for (std::size_t i = 0; i < manifest->layers.size(); ++i) {
    const std::string& digest = manifest->layers[i].digest;
    auto where = part("blobs/sha256/" + digest.substr(7));
    if (!where) return failure(where.error());
    image.layers.push_back(layer(*where, fmt::format("{} (layer {})", file_, digest)));
    image.layers.back().digest = digest;
    image.layers.back().diff_id = image.config.diff_ids[i];
  }
  return image;
}

Result<PackedImage> Archive::docker_image() const {
  auto bytes = text("manifest.json");
  if (!bytes) return failure(bytes.error());
  auto archive = parse_docker_archive(*bytes);
  if (!archive) return failure(archive.error());
  auto config_text = text(archive->config);
  if (!config_text) return failure(config_text.error());
  auto config = parse_image_config(*config_text);
  if (!config) return failure(config.error());
  PackedImage image;
  image.config = std::move(*config);
  if (image.config.diff_ids.size() != archive->layers.size())
    return failure(ErrorCode::corrupt, "its manifest has {} layers, its configuration {}", archive->layers.size(),
                   image.config.diff_ids.size());
  for (std::size_t i = 0; i < archive->layers.size(); ++i) {
    auto where = part(archive->layers[i]);
    if (!where) return failure(where.error());
    image.layers.push_back(layer(*where, fmt::format("{} (layer {})", file_, archive->layers[i])));
    image.layers.back().diff_id = image.config.diff_ids[i];
  }
  return image;
}

Result<PackedImage> Archive::image() const {
  if (!is_image_) {
    PackedImage root;
    root.layers.push_back(layer({0, size_}, file_));
    return root;
  }
  // Newer versions of `docker save` write both; the layout has digests for everything.
  auto image = parts_.contains("oci-layout") && parts_.contains("index.json") ? oci_image() : docker_image();
  if (!image) return within(file_, image.error());
  if (image->layers.empty()) return failure(ErrorCode::corrupt, "cannot use the image {}: it has no layers", file_);
  return image;
}

}  // namespace dirigent::sandbox
