// SPDX-License-Identifier: MIT
//
// Bytes that are read once from front to end: a part of a file, what a gzip or zstd stream unpacks to, or either with
// its digest taken on the way. One thread at a time. A source that wraps another one borrows it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dirigent/base/result.h"
#include "sandbox/images/sha256.h"

namespace dirigent::sandbox {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills up to `size` bytes; 0 = the end. Errors: corrupt, or what reading a file gives.
  virtual Result<std::size_t> read(char* buffer, std::size_t size) = 0;
  // Passes over exactly `size` bytes; corrupt when there are fewer.
  virtual Status skip(std::uint64_t size);
};

// `size` bytes of a file from `offset` on. The descriptor is borrowed.
class FileSource final : public ByteSource {
 public:
  FileSource(int fd, std::uint64_t offset, std::uint64_t size) : fd_(fd), offset_(offset), left_(size) {}
  Result<std::size_t> read(char* buffer, std::size_t size) override;
  Status skip(std::uint64_t size) override;

 private:
  int fd_;
  std::uint64_t offset_;
  std::uint64_t left_;
};

class HashingSource final : public ByteSource {
 public:
  explicit HashingSource(ByteSource& inner) : inner_(inner) {}
  Result<std::size_t> read(char* buffer, std::size_t size) override;
  [[nodiscard]] std::string digest() { return sum_.digest(); }

 private:
  ByteSource& inner_;
  Sha256 sum_;
};

// A bomb of a few kilobytes must not fill the disk: beyond 256 MiB a stream may unpack to at most this many times its size.
inline constexpr std::uint64_t kRatioMax = 200;

// What `inner` unpacks to, by its first bytes: gzip, zstd (unsupported in a build without it), or as it is.
Result<std::unique_ptr<ByteSource>> decompress(ByteSource& inner);

}  // namespace dirigent::sandbox
