// SPDX-License-Identifier: MIT
//
// An image in one tar file: an OCI layout, what `docker save` writes, or the files of a root themselves.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/io/file_descriptor.h"
#include "sandbox/images/byte_source.h"
#include "sandbox/images/manifest.h"

namespace dirigent::sandbox {

// One layer, still packed.
struct PackedLayer {
  std::string name;     // for errors
  std::string diff_id;  // digest of its bytes when decompressed; "" = not known
  std::string digest;   // of its bytes as they are; "" = not known
  std::function<Result<std::unique_ptr<ByteSource>>()> open;  // valid as long as the archive
};

struct PackedImage {
  ImageConfig config;
  std::vector<PackedLayer> layers;  // the lowest first
};

class Archive {
 public:
  // Opens the file and reads the list of what is in it. not_found, permission_denied, corrupt, unsupported.
  static Result<Archive> open(const std::string& file);

  // Device, inode, size and change time: a rewritten file is another image. Takes one look at the file.
  static Result<std::string> identity(const std::string& file);

  Result<PackedImage> image() const;

 private:
  struct Part {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
  };
  explicit Archive(std::string file) : file_(std::move(file)) {}
  Result<std::string> text(const std::string& path) const;
  [[nodiscard]] Result<Part> part(const std::string& path) const;
  PackedLayer layer(const Part& part, std::string name) const;
  Result<PackedImage> oci_image() const;
  Result<PackedImage> docker_image() const;
  Result<std::string> blob_text(const std::string& digest) const;

  std::string file_;
  std::shared_ptr<io::FileDescriptor> fd_;
  std::uint64_t size_ = 0;
  std::map<std::string, Part> parts_;
  bool is_image_ = false;
};

}  // namespace dirigent::sandbox
