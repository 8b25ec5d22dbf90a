// SPDX-License-Identifier: MIT
//
// Pulling: from a reference to unpacked layers. What a tag stood for, manifests and configurations are kept as small
// files, so that a worker that starts again needs no registry for what it has.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "sandbox/images/registry.h"
#include "sandbox/images/sha256.h"
#include "sandbox/images/store.h"

namespace dirigent::sandbox {

namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return file ? text.str() : "";
}

// Whole or not at all: a killed worker must not leave half a document under a digest's name.
Status write_file(const std::string& path, const std::string& text) {
  const std::string partial = fmt::format("{}.{:016x}", path, entropy_seed());
  {
    std::ofstream file(partial, std::ios::binary);
    file << text << std::flush;
    if (!file) return failure(ErrorCode::unavailable, "cannot write {}", partial);
  }
  if (::rename(partial.c_str(), path.c_str()) != 0) return errno_failure(errno, fmt::format("cannot write {}", path));
  return {};
}

// The blob in a file without a name, whose disk space goes with its last descriptor.
Result<std::shared_ptr<io::FileDescriptor>> download(Registry& registry, const std::string& digest, const std::string& directory,
                                                     std::uint64_t bytes_max, const std::atomic<bool>& stopping,
                                                     std::uint64_t& size) {
  auto file = std::make_shared<io::FileDescriptor>(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file->is_open()) return errno_failure(errno, fmt::format("cannot make a file in {}", directory));
  int error = 0;
  size = 0;
  Status got = registry.blob(digest, [&](std::string_view bytes) {
    size += bytes.size();
    while (!bytes.empty() && error == 0) {
      const ssize_t written = ::write(file->get(), bytes.data(), bytes.size());
      if (written <= 0) error = written < 0 ? errno : EIO;
      else bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return error == 0 && size <= bytes_max && !stopping;
  });
  if (stopping) return failure(ErrorCode::cancelled, "the worker is stopping");
  if (error != 0) return errno_failure(error, fmt::format("cannot keep the blob {} in {}", digest, directory));
  if (!got) return failure(got.error());
  return file;
}

}  // namespace

// Whether everything of a pulled image is in the store: its documents, and a directory for each layer.
bool ImageStore::is_whole(const std::string& digest) const {
  const auto document = [&](const std::string& of) { return read_file(options_.directory + "/configs/" + of.substr(7)); };
  std::string next = digest;
  for (int depth = 0; depth < 4 && is_digest(next); ++depth) {
    const auto manifest = parse_manifest(document(next));
    if (!manifest) return false;
    if (!manifest->next.empty()) {
      next = manifest->next;
      continue;
    }
    const auto config = parse_image_config(document(manifest->config.digest));
    if (!config) return false;
    return std::all_of(config->diff_ids.begin(), config->diff_ids.end(), [&](std::string layer) {
      std::replace(layer.begin(), layer.end(), ':', '-');
      return ::access((options_.directory + "/layers/" + layer).c_str(), F_OK) == 0;
    });
  }
  return false;
}

std::vector<std::string> ImageStore::names() {
  constexpr std::size_t kNamesMax = 256;
  std::set<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(options_.directory + "/references", error)) {
    std::istringstream lines(read_file(entry.path()));
    std::string digest;
    std::string name;
    std::getline(lines, digest);
    std::getline(lines, name);
    if (!name.empty() && found.size() < kNamesMax && is_whole(digest)) found.insert(name);
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [key, lease] : images_) {
    // "/file identity": what is remembered keeps its layers.
    if (key.starts_with("/") && found.size() < kNamesMax) found.insert("tar:" + key.substr(0, key.rfind(' ')));
  }
  return {found.begin(), found.end()};
}

Result<ImageLease> ImageStore::pull(const std::string& text, const std::string& wanted) {
  auto reference = parse_reference(text);
  if (!reference) return failure(reference.error());
  if (Status prepared = prepare(); !prepared) return failure(prepared.error());
  const std::string full = reference->full();
  const auto turn = lock_of(full);
  const std::lock_guard lock(*turn);
  if (auto lease = find(text, wanted)) return lease;
  Registry registry(options_, *reference);
  const std::string tag_file = options_.directory + "/references/" + sha256_of(full).substr(7);
  const auto document = [&](const std::string& digest) { return options_.directory + "/configs/" + digest.substr(7); };
  const auto of_digest = [&](const std::string& digest) -> Result<std::string> {
    std::string kept = read_file(document(digest));
    if (!kept.empty() && sha256_of(kept) == digest) return kept;
    if (options_.pull == PullPolicy::never)
      return failure(ErrorCode::not_found, "the image {} is not in the store {} and must not be pulled (see --pull)", full, options_.directory);
    auto fetched = registry.manifest(digest);
    if (!fetched) return failure(fetched.error());
    static_cast<void>(write_file(document(digest), fetched->text));
    return fetched->text;
  };

  // What the reference stands for: a digest, the one that is known already, or what the registry says now.
  std::string digest = reference->digest;
  if (digest.empty() && options_.pull != PullPolicy::always) digest = wanted;
  if (digest.empty() && options_.pull != PullPolicy::always) {
    const std::string told = read_file(tag_file);
    digest = told.substr(0, told.find('\n'));
  }
  if (!is_digest(digest)) {
    if (options_.pull == PullPolicy::never)
      return failure(ErrorCode::not_found, "the image {} is not in the store {} and must not be pulled (see --pull)", full, options_.directory);
    auto fetched = registry.manifest(reference->tag);
    if (!fetched) return failure(fetched.error().within("cannot pull " + full));
    digest = fetched->digest;
    if (Status kept = write_file(document(digest), fetched->text); !kept) return failure(kept.error());
  }
  std::string manifest_digest = digest;
  Result<Manifest> manifest;
  for (int depth = 0; depth < 4; ++depth) {
    auto bytes = of_digest(manifest_digest);
    if (!bytes) return failure(bytes.error().within("cannot pull " + full));
    manifest = parse_manifest(*bytes);
    if (!manifest || manifest->next.empty()) break;
    manifest_digest = manifest->next;
  }
  if (!manifest) return failure(manifest.error().within("cannot pull " + full));
  if (!manifest->next.empty()) return failure(ErrorCode::corrupt, "cannot pull {}: its index leads nowhere", full);
  std::string config_text = read_file(document(manifest->config.digest));
  if (sha256_of(config_text) != manifest->config.digest) {
    if (options_.pull == PullPolicy::never)
      return failure(ErrorCode::not_found, "the image {} is not whole in the store {} and must not be pulled (see --pull)", full, options_.directory);
    config_text.clear();
    Status got = registry.blob(manifest->config.digest,
                               [&](std::string_view bytes) { return config_text.append(bytes).size() <= (4u << 20); });
    if (!got) return failure(got.error().within("cannot pull " + full));
    if (sha256_of(config_text) != manifest->config.digest)
      return failure(ErrorCode::corrupt, "cannot pull {}: the registry sent another configuration than was asked for", full);
    static_cast<void>(write_file(document(manifest->config.digest), config_text));
  }
  PackedImage packed;
  auto config = parse_image_config(config_text);
  if (!config) return failure(config.error().within("cannot pull " + full));
  packed.config = std::move(*config);
  if (packed.config.diff_ids.size() != manifest->layers.size())
    return failure(ErrorCode::corrupt, "cannot pull {}: its manifest has {} layers, its configuration {}", full,
                   manifest->layers.size(), packed.config.diff_ids.size());
  for (std::size_t i = 0; i < manifest->layers.size(); ++i) {
    PackedLayer layer;
    layer.digest = manifest->layers[i].digest;
    layer.diff_id = packed.config.diff_ids[i];
    layer.name = fmt::format("{} (layer {})", full, layer.digest);
    layer.open = [&registry, this, digest = layer.digest]() -> Result<std::unique_ptr<ByteSource>> {
      struct Downloaded final : ByteSource {
        Downloaded(std::shared_ptr<io::FileDescriptor> f, std::uint64_t size) : file(std::move(f)), bytes(file->get(), 0, size) {}
        Result<std::size_t> read(char* buffer, std::size_t size) override { return bytes.read(buffer, size); }
        std::shared_ptr<io::FileDescriptor> file;
        FileSource bytes;
      };
      if (options_.pull == PullPolicy::never)
        return failure(ErrorCode::not_found, "layer {} is not in the store and must not be pulled (see --pull)", digest);
      std::uint64_t size = 0;
      auto file = download(registry, digest, options_.directory, static_cast<std::uint64_t>(options_.image_bytes_max.value), stopping_, size);
      if (!file) return failure(file.error());
      return std::make_unique<Downloaded>(std::move(*file), size);
    };
    packed.layers.push_back(std::move(layer));
  }
  auto lease = unpack(packed, digest);
  if (!lease) return failure(lease.error().within("cannot pull " + full));
  // With the name that was used, which is what functions and nodes call it.
  const std::string line = digest + "\n" + text + "\n";
  if (read_file(tag_file) != line) {
    if (Status kept = write_file(tag_file, line); !kept) return failure(kept.error());
  }
  log_info("sandbox", "image {} is here: {}", full, digest);
  remember(text, *lease);
  return lease;
}

}  // namespace dirigent::sandbox
