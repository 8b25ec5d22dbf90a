// SPDX-License-Identifier: MIT
//
// Reads plain tar files (ustar, GNU long names, pax paths and sizes) into a directory, trusting nothing in them.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "sandbox/process/images.h"

namespace dirigent::sandbox {

namespace {

constexpr std::uint64_t kBytesMax = std::uint64_t{4} << 30;
constexpr std::uint64_t kEntriesMax = 100'000;
constexpr std::size_t kBlock = 512;
constexpr std::size_t kNameBytesMax = 4096;

struct Fd {
  int value = -1;
  explicit Fd(int fd) : value(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (value >= 0) ::close(value);
  }
};

struct Entry {
  std::string path;
  std::string target;
  char type = '0';
  unsigned mode = 0644;
  std::uint64_t size = 0;
};

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

class Extractor {
 public:
  Extractor(std::string file, int archive, int root) : file_(std::move(file)), archive_(archive), root_(root) {}
  Status run();

 private:
  Result<bool> read_block(std::array<char, kBlock>& block);
  Result<std::string> read_data(std::uint64_t size, std::size_t size_max);
  Status check_sum(const std::array<char, kBlock>& block) const;
  Status apply_pax(const std::string& records);
  Status extract(const Entry& entry);
  Status write_file(int parent, const std::string& name, const Entry& entry);
  Result<std::string> clean(const std::string& path) const;
  // The directory of `path` (made when missing) below the root, and the last part of the path.
  Result<int> open_parent(const std::string& path, std::string& name, bool make);
  [[nodiscard]] int open_inside(const std::string& path, std::uint64_t flags) const;
  tl::unexpected<Error> corrupt(std::string_view what) const {
    return failure(ErrorCode::corrupt, "cannot unpack {}: {}", file_, what);
  }
  tl::unexpected<Error> refused(std::string_view what, const std::string& path) const {
    return failure(ErrorCode::invalid_argument, "cannot unpack {}: refused {} \"{}\"", file_, what, path);
  }

  std::string file_;
  int archive_;
  int root_;
  std::string next_path_;
  std::string next_target_;
  std::optional<std::uint64_t> next_size_;
  std::uint64_t bytes_ = 0;
  std::uint64_t entries_ = 0;
};

Result<bool> Extractor::read_block(std::array<char, kBlock>& block) {
  std::size_t got = 0;
  while (got < kBlock) {
    const ssize_t size = ::read(archive_, block.data() + got, kBlock - got);
    if (size < 0) return errno_failure(errno, fmt::format("cannot read {}", file_));
    if (size == 0) break;
    got += static_cast<std::size_t>(size);
  }
  if (got == 0) return false;
  if (got < kBlock) return corrupt("it ends in the middle of a block");
  return true;
}

Result<std::string> Extractor::read_data(std::uint64_t size, std::size_t size_max) {
  if (size > size_max) return corrupt("a name or header in it is too long");
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

Status Extractor::check_sum(const std::array<char, kBlock>& block) const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>(block[i]);
  if (sum != octal(block.data() + 148, 8))
    return corrupt("a header's checksum is wrong (only plain tar files are read: decompress it first)");
  return {};
}

// "LENGTH KEY=VALUE\n", repeated.
Status Extractor::apply_pax(const std::string& records) {
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

Status Extractor::run() {
  for (;;) {
    std::array<char, kBlock> block{};
    auto there = read_block(block);
    if (!there) return failure(there.error());
    if (!*there) break;
    if (std::all_of(block.begin(), block.end(), [](char c) { return c == '\0'; })) break;
    if (Status status = check_sum(block); !status) return status;
    const char* header = block.data();
    Entry entry;
    entry.path = field(header, 100);
    entry.mode = static_cast<unsigned>(octal(header + 100, 8));
    entry.size = octal(header + 124, 12);
    entry.type = header[156] == '\0' ? '0' : header[156];
    entry.target = field(header + 157, 100);
    if (std::memcmp(header + 257, "ustar", 6) == 0) {
      if (const std::string prefix = field(header + 345, 155); !prefix.empty()) entry.path = prefix + "/" + entry.path;
    }
    if (entry.type == 'L' || entry.type == 'K' || entry.type == 'x' || entry.type == 'g') {
      auto data = read_data(entry.size, 64 * 1024);
      if (!data) return failure(data.error());
      if (entry.type == 'L') next_path_ = data->c_str();
      if (entry.type == 'K') next_target_ = data->c_str();
      if (entry.type == 'x') {
        if (Status status = apply_pax(*data); !status) return status;
      }
      continue;
    }
    if (!next_path_.empty()) entry.path = std::exchange(next_path_, {});
    if (!next_target_.empty()) entry.target = std::exchange(next_target_, {});
    if (next_size_) entry.size = *std::exchange(next_size_, std::nullopt);
    if (++entries_ > kEntriesMax)
      return failure(ErrorCode::exhausted, "cannot unpack {}: it has more than {} entries", file_, kEntriesMax);
    bytes_ += entry.size;
    if (entry.size > kBytesMax || bytes_ > kBytesMax)
      return failure(ErrorCode::exhausted, "cannot unpack {}: it is larger than {}", file_,
                     format_bytes(Bytes{static_cast<std::int64_t>(kBytesMax)}));
    if (Status status = extract(entry); !status) return status;
  }
  if (entries_ == 0) return corrupt("it has no entries");
  return {};
}

Result<std::string> Extractor::clean(const std::string& path) const {
  if (path.size() > kNameBytesMax) return corrupt("a name in it is too long");
  if (path.starts_with("/")) return refused("the absolute path", path);
  if (path.find('\0') != std::string::npos) return refused("the zero byte in", path);
  std::string result;
  for (const auto part : split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return refused("the path with ..", path);
    if (!result.empty()) result += '/';
    result += part;
  }
  return result;
}

int Extractor::open_inside(const std::string& path, std::uint64_t flags) const {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  // Links are followed as they will be inside: against the root of the image, never out of it.
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(::syscall(SYS_openat2, root_, path.empty() ? "." : path.c_str(), &how, sizeof how));
}

Result<int> Extractor::open_parent(const std::string& path, std::string& name, bool make) {
  const std::size_t slash = path.rfind('/');
  name = slash == std::string::npos ? path : path.substr(slash + 1);
  const std::string directory = slash == std::string::npos ? "" : path.substr(0, slash);
  int fd = open_inside(directory, O_PATH | O_DIRECTORY);
  if (fd >= 0) return fd;
  if (errno != ENOENT || !make || directory.empty())
    return errno_failure(errno, fmt::format("cannot unpack {}: cannot open directory \"{}\"", file_, directory));
  std::string last;
  auto parent = open_parent(directory, last, true);
  if (!parent) return parent;
  const Fd holder(*parent);
  if (::mkdirat(holder.value, last.c_str(), 0755) != 0 && errno != EEXIST)
    return errno_failure(errno, fmt::format("cannot unpack {}: cannot make directory \"{}\"", file_, directory));
  fd = open_inside(directory, O_PATH | O_DIRECTORY);
  if (fd < 0)
    return errno_failure(errno, fmt::format("cannot unpack {}: cannot open directory \"{}\"", file_, directory));
  return fd;
}

Status Extractor::extract(const Entry& entry) {
  auto path = clean(entry.path);
  if (!path) return failure(path.error());
  if (entry.type == '3' || entry.type == '4') return refused("the device node", entry.path);
  if (entry.type == '6') return refused("the named pipe", entry.path);
  if (path->empty()) return entry.type == '5' ? Status{} : Status(refused("the name", entry.path));
  std::string name;
  auto parent = open_parent(*path, name, true);
  if (!parent) return failure(parent.error());
  const Fd holder(*parent);
  const auto failed = [&](std::string_view what) {
    return errno_failure(errno, fmt::format("cannot unpack {}: cannot {} \"{}\"", file_, what, *path));
  };
  struct stat status {};
  const bool exists = ::fstatat(holder.value, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  if (entry.type == '5') {
    if (exists && S_ISDIR(status.st_mode)) {
      if (::fchmodat(holder.value, name.c_str(), entry.mode & 01777, 0) != 0) return failed("set the mode of");
      return {};
    }
    if (exists && ::unlinkat(holder.value, name.c_str(), 0) != 0) return failed("replace");
    if (::mkdirat(holder.value, name.c_str(), 0755) != 0) return failed("make directory");
    if (::fchmodat(holder.value, name.c_str(), entry.mode & 01777, 0) != 0) return failed("set the mode of");
    return {};
  }
  // A later entry replaces an earlier one of the same name, as tar does; it never writes through it.
  if (exists && ::unlinkat(holder.value, name.c_str(), S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0) != 0)
    return failed("replace");
  if (entry.type == '0' || entry.type == '7') return write_file(holder.value, name, entry);
  if (entry.type == '2') {
    if (entry.target.empty() || entry.target.size() > kNameBytesMax)
      return refused("the link without a usable target", entry.path);
    if (::symlinkat(entry.target.c_str(), holder.value, name.c_str()) != 0) return failed("make link");
    return {};
  }
  if (entry.type == '1') {
    auto target = clean(entry.target);
    if (!target) return failure(target.error());
    std::string target_name;
    auto target_parent = open_parent(*target, target_name, false);
    if (!target_parent) return failure(target_parent.error());
    const Fd target_holder(*target_parent);
    if (::fstatat(target_holder.value, target_name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
      return failed("find the target of the hard link");
    if (!S_ISREG(status.st_mode)) return refused("the hard link to something that is not a file", entry.path);
    if (::linkat(target_holder.value, target_name.c_str(), holder.value, name.c_str(), 0) != 0)
      return failed("make hard link");
    return {};
  }
  return refused(fmt::format("the entry of unknown type {:#x}", static_cast<unsigned char>(entry.type)), entry.path);
}

Status Extractor::write_file(int parent, const std::string& name, const Entry& entry) {
  // No set-user-id, set-group-id or sticky bits, and no extended attributes: none can give a function more rights.
  const Fd file(::openat(parent, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  const auto failed = [&](std::string_view what) {
    return errno_failure(errno, fmt::format("cannot unpack {}: cannot {} \"{}\"", file_, what, entry.path));
  };
  if (file.value < 0) return failed("create");
  std::array<char, kBlock * 128> buffer{};
  std::uint64_t left = entry.size;
  while (left > 0) {
    const std::uint64_t padded = (left + kBlock - 1) / kBlock * kBlock;
    const std::size_t wanted = std::min<std::uint64_t>(buffer.size(), padded);
    std::size_t got = 0;
    while (got < wanted) {
      const ssize_t size = ::read(archive_, buffer.data() + got, wanted - got);
      if (size < 0) return errno_failure(errno, fmt::format("cannot read {}", file_));
      if (size == 0) return corrupt("it ends too early");
      got += static_cast<std::size_t>(size);
    }
    const std::size_t useful = std::min<std::uint64_t>(left, wanted);
    for (std::size_t done = 0; done < useful;) {
      const ssize_t size = ::write(file.value, buffer.data() + done, useful - done);
      if (size <= 0) return failed("write");
      done += static_cast<std::size_t>(size);
    }
    left -= useful;
  }
  if (::fchmod(file.value, entry.mode & 0777) != 0) return failed("set the mode of");
  return {};
}

}  // namespace

Result<std::string> unpack_tar(const std::string& file, const std::string& cache) {
  const Fd archive(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (archive.value < 0 || ::fstat(archive.value, &status) != 0) {
    return failure(errno == EACCES ? ErrorCode::permission_denied : ErrorCode::not_found,
                   "cannot open {}: {} (tar: names a file on the worker's host)", file,
                   std::generic_category().message(errno));
  }
  if (!S_ISREG(status.st_mode)) return failure(ErrorCode::not_found, "cannot unpack {}: it is not a file", file);
  // The file's identity and change time: a rewritten file is another image.
  const std::string name = fmt::format("{:x}-{:x}-{:x}-{:x}-{:x}", status.st_dev, status.st_ino, status.st_size,
                                       status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  const std::string directory = cache + "/" + name;
  if (::access(directory.c_str(), F_OK) == 0) return directory;
  std::error_code error;
  std::filesystem::create_directories(cache, error);
  if (error)
    return failure(ErrorCode::unavailable, "cannot make the image cache {}: {} (set image_cache)", cache,
                   error.message());
  const std::string partial = fmt::format("{}/partial-{:016x}", cache, entropy_seed());
  if (::mkdir(partial.c_str(), 0755) != 0) return errno_failure(errno, fmt::format("cannot make {}", partial));
  Status unpacked;
  {
    const Fd root(::open(partial.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    unpacked = Extractor(file, archive.value, root.value).run();
  }
  // Whoever is first gives the image its name; a slower twin throws its copy away.
  if (unpacked && ::rename(partial.c_str(), directory.c_str()) == 0) return directory;
  const int rename_error = errno;
  std::filesystem::remove_all(partial, error);
  if (!unpacked) return failure(unpacked.error());
  if (::access(directory.c_str(), F_OK) == 0) return directory;
  return errno_failure(rename_error, fmt::format("cannot name the unpacked image {}", directory));
}

}  // namespace dirigent::sandbox
