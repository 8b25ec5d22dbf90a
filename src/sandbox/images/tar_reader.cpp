// SPDX-License-Identifier: MIT
#include "sandbox/images/tar_reader.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dirigent/base/text.h"

namespace dirigent::sandbox {

namespace {

constexpr std::uint64_t kEntryBytesMax = std::uint64_t{1} << 40;
constexpr std::size_t kHeaderDataMax = 64 * 1024;

std::uint64_t octal(const char* text, std::size_t size) {
  std::uint64_t value = 0;
  // GNU's form for numbers that do not fit: the first bit set, then big-endian bytes.
  if ((static_cast<unsigned char>(text[0]) & 0x80) != 0) {
    for (std::size_t i = 1; i < size; ++i) value = (value << 8) | static_cast<unsigned char>(text[i]);
    return value;
  }
  for (std::size_t i = 0; i < size && text[i] != '\0'; ++i) {
    if (text[i] >= '0' && text[i] <= '7') value = value * 8 + static_cast<std::uint64_t>(text[i] - '0');
  }
  return value;
}

std::string field(const char* text, std::size_t size) { return std::string(text, ::strnlen(text, size)); }

}  // namespace

tl::unexpected<Error> TarReader::corrupt(std::string_view what) const {
  return failure(ErrorCode::corrupt, "cannot unpack {}: {}", name_, what);
}

tl::unexpected<Error> TarReader::named(Error error) const {
  return failure(error.code, "cannot unpack {}: {}", name_, error.message);
}

Result<bool> TarReader::read_block(std::array<char, kBlock>& block) {
  std::size_t got = 0;
  while (got < kBlock) {
    auto size = source_.read(block.data() + got, kBlock - got);
    if (!size) return named(size.error());
    if (*size == 0) break;
    got += *size;
  }
  position_ += got;
  if (got == 0) return false;
  if (got < kBlock) return corrupt("it ends in the middle of a block");
  return true;
}

Result<std::string> TarReader::read_data(std::uint64_t size) {
  if (size > kHeaderDataMax) return corrupt("a name or header in it is too long");
  std::string data;
  std::array<char, kBlock> block{};
  while (data.size() < size) {
    auto there = read_block(block);
    if (!there) return failure(there.error());
    if (!*there) return corrupt("it ends too early");
    data.append(block.data(), std::min<std::uint64_t>(kBlock, size - data.size()));
  }
  return data;
}

Status TarReader::check_sum(const std::array<char, kBlock>& block) const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>(block[i]);
  if (sum != octal(block.data() + 148, 8))
    return corrupt("a header's checksum is wrong (it is no tar file, or compressed with something else than gzip or zstd)");
  return {};
}

// "LENGTH KEY=VALUE\n", repeated.
Status TarReader::apply_pax(const std::string& records) {
  std::string_view rest = records;
  while (!rest.empty()) {
    const std::size_t blank = rest.find(' ');
    const auto length = blank == std::string_view::npos ? std::nullopt : parse_integer(rest.substr(0, blank));
    if (!length || *length <= static_cast<std::int64_t>(blank) + 1 || *length > static_cast<std::int64_t>(rest.size()))
      return corrupt("a pax header in it is malformed");
    const std::string_view record = rest.substr(blank + 1, static_cast<std::size_t>(*length) - blank - 2);
    rest.remove_prefix(static_cast<std::size_t>(*length));
    const std::size_t equals = record.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view key = record.substr(0, equals);
    const std::string_view value = record.substr(equals + 1);
    if (key == "path") next_path_ = value;
    if (key == "linkpath") next_target_ = value;
    if (key == "size") {
      const auto size = parse_integer(value);
      if (!size || *size < 0) return corrupt("a pax size in it is malformed");
      next_size_ = static_cast<std::uint64_t>(*size);
    }
    if (key.starts_with("GNU.sparse")) return corrupt("it has sparse files, which are not read");
  }
  return {};
}

Status TarReader::pass_over_rest() {
  const std::uint64_t rest = data_left_ + padding_;
  if (rest == 0) return {};
  data_left_ = 0;
  padding_ = 0;
  position_ += rest;
  if (Status skipped = source_.skip(rest); !skipped) return named(skipped.error());
  return {};
}

Result<std::optional<TarEntry>> TarReader::next() {
  if (Status passed = pass_over_rest(); !passed) return failure(passed.error());
  for (;;) {
    std::array<char, kBlock> block{};
    auto there = read_block(block);
    if (!there) return failure(there.error());
    if (!*there || std::all_of(block.begin(), block.end(), [](char c) { return c == '\0'; })) return std::nullopt;
    if (Status status = check_sum(block); !status) return failure(status.error());
    const char* header = block.data();
    TarEntry entry;
    entry.path = field(header, 100);
    entry.mode = static_cast<unsigned>(octal(header + 100, 8));
    entry.size = octal(header + 124, 12);
    entry.type = header[156] == '\0' ? '0' : header[156];
    entry.target = field(header + 157, 100);
    if (std::memcmp(header + 257, "ustar", 6) == 0) {
      if (const std::string prefix = field(header + 345, 155); !prefix.empty()) entry.path = prefix + "/" + entry.path;
    }
    if (entry.type == 'L' || entry.type == 'K' || entry.type == 'x' || entry.type == 'g') {
      auto data = read_data(entry.size);
      if (!data) return failure(data.error());
      if (entry.type == 'L') next_path_ = data->c_str();
      if (entry.type == 'K') next_target_ = data->c_str();
      if (entry.type == 'x') {
        if (Status status = apply_pax(*data); !status) return failure(status.error());
      }
      continue;
    }
    if (!next_path_.empty()) entry.path = std::exchange(next_path_, {});
    if (!next_target_.empty()) entry.target = std::exchange(next_target_, {});
    if (next_size_) entry.size = *std::exchange(next_size_, std::nullopt);
    // Links and directories have no data, whatever their header says.
    const bool has_data = entry.type != '1' && entry.type != '2' && entry.type != '5';
    if (!has_data) entry.size = 0;
    if (entry.size > kEntryBytesMax) return corrupt("an entry in it claims an impossible size");
    entry.offset = position_;
    data_left_ = entry.size;
    padding_ = (kBlock - entry.size % kBlock) % kBlock;
    return entry;
  }
}

Result<std::size_t> TarReader::read(char* buffer, std::size_t size) {
  const std::size_t wanted = std::min<std::uint64_t>(size, data_left_);
  if (wanted == 0) return 0;
  auto got = source_.read(buffer, wanted);
  if (!got) return named(got.error());
  if (*got == 0) return corrupt("it ends too early");
  data_left_ -= *got;
  position_ += *got;
  return *got;
}

Status TarReader::drain() {
  std::vector<char> buffer(64 * 1024);
  for (;;) {
    auto got = source_.read(buffer.data(), buffer.size());
    if (!got) return named(got.error());
    if (*got == 0) return {};
  }
}

}  // namespace dirigent::sandbox
