// SPDX-License-Identifier: MIT
//
// The images of a worker, unpacked: one directory per layer, shared by every image that has the layer and by every
// worker that has the same store. All runtimes use it.
//
//   DIRECTORY/layers/<digest or file identity>   an unpacked layer, whole and checked
//   DIRECTORY/layers/partial-*                   being unpacked; what a killed worker left is removed
//   DIRECTORY/references/<name>                  what a registry's tag stood for when it was last asked
//   DIRECTORY/configs/<digest>                   manifests and configurations of pulled images
//
// A lease holds a shared lock (flock) on each layer of its image; clean-up removes only what it can lock alone. So neither
// another worker nor the kernel's ending of this one can pull a layer from under a sandbox.
//
// Any thread; calls may block for as long as unpacking or pulling takes.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/units.h"
#include "dirigent/io/file_descriptor.h"
#include "dirigent/sandbox/image_options.h"
#include "sandbox/images/archive.h"
#include "sandbox/images/unpack.h"

namespace dirigent::sandbox {

struct StoredImage {
  ImageConfig config;
  std::string digest;               // of the configuration or the file's identity; names the image in logs
  std::vector<std::string> layers;  // directories, the topmost first, as overlay wants them
  std::vector<io::FileDescriptor> locks;
};
using ImageLease = std::shared_ptr<const StoredImage>;

class ImageStore {
 public:
  explicit ImageStore(ImageOptions options);

  // The image of an archive. Unpacks what is not there.
  Result<ImageLease> tar(const std::string& file);
  // The image behind a reference, from the store or from its registry, as the pull policy says.
  // `digest`: what the reference has to stand for, whatever the store or the registry says; "" = not given. It is not looked
  // at when the policy is to ask always.
  Result<ImageLease> pull(const std::string& reference, const std::string& digest = "");
  // For both: the lease when nothing has to be unpacked or asked for, else nullptr. Takes a system call or two.
  ImageLease find(const std::string& image, const std::string& digest = "");
  // What is there whole, by the names that were used: "tar:/file", references. At most 256. Reads files.
  [[nodiscard]] std::vector<std::string> names();

  // Removes layers that nobody uses, the longest unused first, until at most `bytes_max` are there. Called after each
  // unpacking; returns what was removed.
  Bytes collect(Bytes bytes_max);
  // Ends downloads that are on their way, and all to come, as cancelled: the worker is stopping. Any thread.
  void stop() { stopping_ = true; }
  [[nodiscard]] const ImageOptions& options() const { return options_; }

 private:
  Status prepare();
  Result<ImageLease> unpack(const PackedImage& packed, const std::string& digest);
  Result<io::FileDescriptor> layer(const PackedLayer& packed, const std::string& name);
  Status unpack_into(const PackedLayer& packed, const std::string& directory);
  [[nodiscard]] bool is_whole(const std::string& digest) const;
  void remember(const std::string& key, const ImageLease& lease);
  std::shared_ptr<std::mutex> lock_of(const std::string& key);

  ImageOptions options_;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;  // of everything below
  bool prepared_ = false;
  std::map<std::string, ImageLease> images_;  // by file and identity, or reference
  std::map<std::string, std::weak_ptr<std::mutex>> in_work_;
};

}  // namespace dirigent::sandbox
