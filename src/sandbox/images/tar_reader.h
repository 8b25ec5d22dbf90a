// SPDX-License-Identifier: MIT
//
// Reads tar streams entry by entry (ustar, GNU long names, pax paths and sizes), trusting nothing in them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "sandbox/images/byte_source.h"

namespace dirigent::sandbox {

struct TarEntry {
  std::string path;
  std::string target;
  char type = '0';
  unsigned mode = 0644;
  std::uint64_t size = 0;
  std::uint64_t offset = 0;  // of its data in the stream
};

class TarReader {
 public:
  static constexpr std::size_t kNameBytesMax = 4096;

  // `name` is the archive's, for errors. The source is borrowed.
  TarReader(ByteSource& source, std::string name) : source_(source), name_(std::move(name)) {}

  // The next entry, with what is left of the one before passed over; nullopt at the end. A corrupt archive says so.
  Result<std::optional<TarEntry>> next();
  // Data of the entry last returned; 0 at its end.
  Result<std::size_t> read(char* buffer, std::size_t size);
  // Reads what stands behind the end mark, so that a digest covers the whole stream.
  Status drain();

 private:
  static constexpr std::size_t kBlock = 512;

  Result<bool> read_block(std::array<char, kBlock>& block);
  Result<std::string> read_data(std::uint64_t size);
  Status check_sum(const std::array<char, kBlock>& block) const;
  Status apply_pax(const std::string& records);
  Status pass_over_rest();
  tl::unexpected<Error> corrupt(std::string_view what) const;
  tl::unexpected<Error> named(Error error) const;

  ByteSource& source_;
  std::string name_;
  std::string next_path_;
  std::string next_target_;
  std::optional<std::uint64_t> next_size_;
  std::uint64_t position_ = 0;
  std::uint64_t data_left_ = 0;
  std::uint64_t padding_ = 0;
};

}  // namespace dirigent::sandbox
