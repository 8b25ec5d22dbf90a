// SPDX-License-Identifier: MIT
//
// Where roots of containers are mounted: a mount namespace that only the worker's threads are in, with one tmpfs. What
// is mounted and written there ends with the worker, however it ends; the host never sees it.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "dirigent/base/result.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/images/store.h"
#include "sandbox/oci/spec.h"

namespace dirigent::sandbox {

class RootSpace {
 public:
  // Makes the namespace with the tmpfs at `directory`, which is made when missing. The calling thread stays in it, so
  // it must be a helper's. Blocks.
  static Result<std::unique_ptr<RootSpace>> make(const std::string& directory);

  // Brings the calling thread into the namespace, once; a helper's thread, which stays there.
  Status enter() const;

  // A root of the image's layers at DIRECTORY/name/root; of the builtin functions without an image. With `writable_bytes`
  // above 0 there is a private layer of that size on top, else the root cannot be written. The thread has entered.
  Result<std::string> mount_root(const std::string& name, const StoredImage* image, std::uint64_t writable_bytes);
  // Removes DIRECTORY/name with what is mounted in it.
  void remove(const std::string& name) const;

  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  explicit RootSpace(std::string directory) : directory_(std::move(directory)) {}
  Status fill();
  Result<std::string> short_name(const std::string& layer);

  std::string directory_;
  io::FileDescriptor namespace_;
  std::mutex mutex_;
  std::map<std::string, std::string> short_names_;  // of layers: mount(2) takes one page of options
};

// A root with nothing but what mounts need: /proc, /dev, /tmp, /etc/hosts. The lowest layer of every image.
Status make_skeleton(const std::string& directory);
// The spec's secrets as files of the function's user in a new directory, which lies on a tmpfs.
Status write_secrets(const std::string& directory, const ContainerSpec& spec);
// A root with the cell program at /cell.
Status make_builtin_root(const std::string& directory);

}  // namespace dirigent::sandbox
