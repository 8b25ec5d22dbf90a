// SPDX-License-Identifier: MIT
#include "sandbox/images/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"

namespace dirigent::sandbox {

namespace {

namespace fs = std::filesystem;
constexpr std::size_t kRememberedMax = 256;

// A locked descriptor of a directory that still bears its name; not open when it is not there.
io::FileDescriptor lock_directory(const std::string& path, int how) {
  io::FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.is_open() || ::flock(fd.get(), how) != 0) return {};
  // It may have been removed between the opening and the lock.
  struct stat mine {};
  struct stat named {};
  if (::fstat(fd.get(), &mine) != 0 || ::stat(path.c_str(), &named) != 0 || mine.st_ino != named.st_ino) return {};
  return fd;
}

// Gives the directory another name first, so that nobody finds it half removed.
void remove_layer(const std::string& path) {
  const std::string trash = fs::path(path).parent_path() / fmt::format("partial-{:016x}", entropy_seed());
  std::error_code error;
  fs::rename(path, trash, error);
  fs::remove_all(error ? fs::path(path) : fs::path(trash), error);
  fs::remove(path + ".size", error);
  if (error) log_warn("sandbox", "cannot remove the unpacked layer {}: {}", path, error.message());
}

std::uint64_t read_size(const std::string& path) {
  std::ifstream file(path + ".size");
  std::uint64_t size = 0;
  file >> size;
  return size;
}

std::string file_name_of(const std::string& key) {
  std::string name = key;
  std::replace(name.begin(), name.end(), ':', '-');
  return name;
}

}  // namespace

ImageStore::ImageStore(ImageOptions options) : options_(std::move(options)) {}

Status ImageStore::prepare() {
  const std::lock_guard lock(mutex_);
  if (prepared_) return {};
  std::error_code error;
  for (const char* name : {"layers", "references", "configs"}) {
    fs::create_directories(options_.directory + "/" + name, error);
    if (error)
      return failure(ErrorCode::unavailable, "cannot make the image store {}: {} (set image_dir)", options_.directory,
                     error.message());
  }
  for (const auto& entry : fs::directory_iterator(options_.directory + "/layers", error)) {
    if (!entry.path().filename().string().starts_with("partial-")) continue;
    // Another worker that is at work on it holds the lock.
    if (const auto held = lock_directory(entry.path(), LOCK_EX | LOCK_NB); held.is_open() || !entry.is_directory(error))
      fs::remove_all(entry.path(), error);
  }
  prepared_ = true;
  return {};
}

std::shared_ptr<std::mutex> ImageStore::lock_of(const std::string& key) {
  const std::lock_guard lock(mutex_);
  auto& slot = in_work_[key];
  auto mutex = slot.lock();
  if (!mutex) slot = mutex = std::make_shared<std::mutex>();
  std::erase_if(in_work_, [](const auto& one) { return one.second.expired(); });
  return mutex;
}

void ImageStore::remember(const std::string& key, const ImageLease& lease) {
  const std::lock_guard lock(mutex_);
  // What is remembered keeps its layers; what nobody uses goes first when there is too much.
  if (images_.size() >= kRememberedMax) std::erase_if(images_, [](const auto& one) { return one.second.use_count() == 1; });
  images_[key] = lease;
}

ImageLease ImageStore::find(const std::string& image, const std::string& digest) {
  std::string key = image;
  if (image.starts_with("/")) {
    auto identity = Archive::identity(image);
    if (!identity) return nullptr;
    key += " " + *identity;
  } else if (options_.pull == PullPolicy::always) {
    return nullptr;
  }
  const std::lock_guard lock(mutex_);
  const auto found = images_.find(key);
  if (found == images_.end() || (!digest.empty() && found->second->digest != digest)) return nullptr;
  return found->second;
}

Result<ImageLease> ImageStore::tar(const std::string& file) {
  auto identity = Archive::identity(file);
  if (!identity) return failure(identity.error());
  if (Status prepared = prepare(); !prepared) return failure(prepared.error());
  const auto turn = lock_of(file);
  const std::lock_guard lock(*turn);
  if (auto lease = find(file)) return lease;
  auto archive = Archive::open(file);
  if (!archive) return failure(archive.error());
  auto packed = archive->image();
  if (!packed) return failure(packed.error());
  auto lease = unpack(*packed, *identity);
  if (lease) remember(file + " " + *identity, *lease);
  return lease;
}

Result<ImageLease> ImageStore::unpack(const PackedImage& packed, const std::string& digest) {
  auto image = std::make_shared<StoredImage>();
  image->config = packed.config;
  image->digest = digest;
  for (auto layer_of = packed.layers.rbegin(); layer_of != packed.layers.rend(); ++layer_of) {
    // A layer is named by what it is, so that images share it. A bare archive has no digest but the file's identity.
    const std::string name = file_name_of(layer_of->diff_id.empty() ? "file-" + digest : layer_of->diff_id);
    const std::string path = options_.directory + "/layers/" + name;
    if (std::find(image->layers.begin(), image->layers.end(), path) != image->layers.end()) continue;
    auto held = layer(*layer_of, name);
    if (!held) return failure(held.error());
    image->layers.push_back(path);
    image->locks.push_back(std::move(*held));
  }
  return ImageLease(std::move(image));
}

Result<io::FileDescriptor> ImageStore::layer(const PackedLayer& packed, const std::string& name) {
  const std::string path = options_.directory + "/layers/" + name;
  const auto turn = lock_of(path);
  const std::lock_guard lock(*turn);
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (auto held = lock_directory(path, LOCK_SH); held.is_open()) {
      // The times of a layer's directory say when it was last used.
      ::futimens(held.get(), nullptr);
      return held;
    }
    if (Status unpacked = unpack_into(packed, path); !unpacked) return failure(unpacked.error());
    if (attempt == 0) collect(options_.bytes_max);
  }
  return failure(ErrorCode::unavailable, "cannot keep the unpacked layer {}: it is removed as soon as it is there", path);
}

Status ImageStore::unpack_into(const PackedLayer& packed, const std::string& directory) {
  const std::string partial = fmt::format("{}/layers/partial-{:016x}", options_.directory, entropy_seed());
  if (::mkdir(partial.c_str(), 0755) != 0) return errno_failure(errno, fmt::format("cannot make {}", partial));
  const auto drop = [&](Status why) {
    std::error_code ignored;
    fs::remove_all(partial, ignored);
    return why;
  };
  const io::FileDescriptor root = lock_directory(partial, LOCK_EX | LOCK_NB);
  if (!root.is_open()) return drop(failure(ErrorCode::unavailable, "cannot lock {}", partial));
  auto raw = packed.open();
  if (!raw) return drop(failure(raw.error()));
  HashingSource as_packed(**raw);
  auto plain = decompress(as_packed);
  if (!plain) return drop(failure(plain.error().within("cannot unpack " + packed.name)));
  HashingSource as_plain(**plain);
  UnpackLimits limits;
  limits.bytes_max = static_cast<std::uint64_t>(options_.image_bytes_max.value);
  auto unpacked = unpack_layer(as_plain, packed.name, root.get(), limits);
  if (!unpacked) return drop(failure(unpacked.error()));
  if (!packed.diff_id.empty() && as_plain.digest() != packed.diff_id)
    return drop(failure(ErrorCode::corrupt, "cannot unpack {}: its content has another digest than the image says", packed.name));
  if (!packed.digest.empty() && as_packed.digest() != packed.digest)
    return drop(failure(ErrorCode::corrupt, "cannot unpack {}: it has another digest than the image says", packed.name));
  std::ofstream(directory + ".size") << unpacked->bytes << std::flush;
  // Whoever is first gives the layer its name; a slower twin in another process throws its copy away.
  if (::rename(partial.c_str(), directory.c_str()) == 0) return {};
  const int error = errno;
  if (error == EEXIST || error == ENOTEMPTY) return drop({});
  return drop(errno_failure(error, fmt::format("cannot name the unpacked layer {}", directory)));
}

Bytes ImageStore::collect(Bytes bytes_max) {
  struct Found {
    std::string path;
    std::uint64_t bytes;
    fs::file_time_type used;
  };
  std::vector<Found> found;
  std::uint64_t total = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(options_.directory + "/layers", error)) {
    const std::string path = entry.path();
    if (!entry.is_directory(error) || entry.path().filename().string().starts_with("partial-")) continue;
    found.push_back({path, read_size(path), entry.last_write_time(error)});
    total += found.back().bytes;
  }
  const auto limit = static_cast<std::uint64_t>(bytes_max.value);
  if (total <= limit) return Bytes{0};
  {
    // What is only remembered is not in use.
    const std::lock_guard lock(mutex_);
    std::erase_if(images_, [](const auto& one) { return one.second.use_count() == 1; });
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.used < b.used; });
  std::uint64_t removed = 0;
  for (const auto& one : found) {
    if (total - removed <= limit) break;
    if (const auto held = lock_directory(one.path, LOCK_EX | LOCK_NB); held.is_open()) {
      remove_layer(one.path);
      removed += one.bytes;
    }
  }
  if (removed > 0)
    log_info("sandbox", "removed {} of unused layers from {}", format_bytes(Bytes{static_cast<std::int64_t>(removed)}),
             options_.directory);
  return Bytes{static_cast<std::int64_t>(removed)};
}

}  // namespace dirigent::sandbox
