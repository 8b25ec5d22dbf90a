// SPDX-License-Identifier: MIT
#include "sandbox/images/unpack.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/images/tar_reader.h"

namespace dirigent::sandbox {

namespace {

using io::FileDescriptor;

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";

bool is_whiteout(const struct stat& status) { return S_ISCHR(status.st_mode) && status.st_rdev == 0; }

class Extractor {
 public:
  Extractor(ByteSource& source, std::string name, int root, const UnpackLimits& limits)
      : file_(std::move(name)), tar_(source, file_), root_(root), limits_(limits), buffer_(64 * 1024) {}
  Result<Unpacked> run();

 private:
  // Where an entry goes: the descriptor of its directory and its own name there.
  struct Place {
    FileDescriptor directory;
    std::string name;
    std::string path;
    bool exists = false;
    struct stat status {};
  };

  Status extract(const TarEntry& entry);
  Status make_directory(Place& place, const TarEntry& entry);
  Status make_hard_link(Place& place, const TarEntry& entry);
  Status write_file(Place& place, const TarEntry& entry);
  Status white_out(Place& place);
  Status make_opaque(const Place& place);
  Result<std::string> clean(const std::string& path) const;
  // The directory of `path` below the root (made when missing).
  Result<Place> find(const std::string& path, bool make);
  Result<FileDescriptor> open_directory(const std::string& path, bool make, std::size_t depth);
  [[nodiscard]] int open_inside(const std::string& path, std::uint64_t flags) const;
  tl::unexpected<Error> refused(std::string_view what, const std::string& path) const {
    return failure(ErrorCode::invalid_argument, "cannot unpack {}: refused {} \"{}\"", file_, what, path);
  }
  tl::unexpected<Error> failed(std::string_view what, const std::string& path) const {
    return errno_failure(errno, fmt::format("cannot unpack {}: cannot {} \"{}\"", file_, what, path));
  }

  std::string file_;
  TarReader tar_;
  int root_;
  UnpackLimits limits_;
  std::vector<char> buffer_;
  Unpacked done_;
  std::uint64_t left_out_ = 0;
};

Result<Unpacked> Extractor::run() {
  for (;;) {
    auto entry = tar_.next();
    if (!entry) return failure(entry.error());
    if (!*entry) break;
    if (++done_.entries > limits_.entries_max)
      return failure(ErrorCode::exhausted, "cannot unpack {}: it has more than {} entries", file_, limits_.entries_max);
    done_.bytes += (*entry)->size;
    if ((*entry)->size > limits_.bytes_max || done_.bytes > limits_.bytes_max)
      return failure(ErrorCode::exhausted, "cannot unpack {}: it is larger than {}", file_,
                     format_bytes(Bytes{static_cast<std::int64_t>(limits_.bytes_max)}));
    if (Status status = extract(**entry); !status) return failure(status.error());
  }
  if (left_out_ > 0) log_warn("sandbox", "{}: {} device nodes or named pipes were left out", file_, left_out_);
  if (Status drained = tar_.drain(); !drained) return failure(drained.error());
  return done_;
}

Result<std::string> Extractor::clean(const std::string& path) const {
  if (path.size() > TarReader::kNameBytesMax) return refused("the long name", path.substr(0, 80) + "...");
  if (path.starts_with("/")) return refused("the absolute path", path);
  if (path.find('\0') != std::string::npos) return refused("the zero byte in", path);
  std::string result;
  std::size_t depth = 0;
  for (const auto part : split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return refused("the path with ..", path);
    if (++depth > limits_.depth_max) return refused("the deep path", path);
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

Result<FileDescriptor> Extractor::open_directory(const std::string& path, bool make, std::size_t depth) {
  FileDescriptor fd(open_inside(path, O_PATH | O_DIRECTORY));
  if (fd.is_open()) return fd;
  if (errno != ENOENT || !make || path.empty() || depth > limits_.depth_max) return failed("open directory", path);
  const std::size_t slash = path.rfind('/');
  auto parent = open_directory(slash == std::string::npos ? "" : path.substr(0, slash), true, depth + 1);
  if (!parent) return parent;
  const std::string last = slash == std::string::npos ? path : path.substr(slash + 1);
  if (::mkdirat(parent->get(), last.c_str(), 0755) != 0 && errno != EEXIST) return failed("make directory", path);
  fd = FileDescriptor(open_inside(path, O_PATH | O_DIRECTORY));
  if (!fd.is_open()) return failed("open directory", path);
  return fd;
}

Result<Extractor::Place> Extractor::find(const std::string& path, bool make) {
  const std::size_t slash = path.rfind('/');
  auto directory = open_directory(slash == std::string::npos ? "" : path.substr(0, slash), make, 0);
  if (!directory) return failure(directory.error());
  Place place;
  place.directory = std::move(*directory);
  place.name = slash == std::string::npos ? path : path.substr(slash + 1);
  place.path = path;
  place.exists = ::fstatat(place.directory.get(), place.name.c_str(), &place.status, AT_SYMLINK_NOFOLLOW) == 0;
  return place;
}

Status Extractor::extract(const TarEntry& entry) {
  auto path = clean(entry.path);
  if (!path) return failure(path.error());
  if (entry.type == '3' || entry.type == '4' || entry.type == '6') {
    ++left_out_;
    return {};
  }
  if (path->empty()) return entry.type == '5' ? Status{} : Status(refused("the name", entry.path));
  auto place = find(*path, true);
  if (!place) return failure(place.error());
  if (place->name.starts_with(kWhiteout)) return white_out(*place);
  if (entry.type == '5') return make_directory(*place, entry);
  // A later entry replaces an earlier one of the same name, as tar does; it never writes through it.
  if (place->exists &&
      ::unlinkat(place->directory.get(), place->name.c_str(), S_ISDIR(place->status.st_mode) ? AT_REMOVEDIR : 0) != 0)
    return failed("replace", *path);
  if (entry.type == '0' || entry.type == '7') return write_file(*place, entry);
  if (entry.type == '1') return make_hard_link(*place, entry);
  if (entry.type == '2') {
    if (entry.target.empty() || entry.target.size() > TarReader::kNameBytesMax)
      return refused("the link without a usable target", entry.path);
    if (::symlinkat(entry.target.c_str(), place->directory.get(), place->name.c_str()) != 0)
      return failed("make link", *path);
    return {};
  }
  return refused(fmt::format("the entry of unknown type {:#x}", static_cast<unsigned char>(entry.type)), entry.path);
}

Status Extractor::make_directory(Place& place, const TarEntry& entry) {
  const int parent = place.directory.get();
  const bool was_whiteout = place.exists && is_whiteout(place.status);
  if (!place.exists || !S_ISDIR(place.status.st_mode)) {
    if (place.exists && ::unlinkat(parent, place.name.c_str(), 0) != 0) return failed("replace", place.path);
    if (::mkdirat(parent, place.name.c_str(), 0755) != 0) return failed("make directory", place.path);
  }
  if (::fchmodat(parent, place.name.c_str(), entry.mode & 01777, 0) != 0) return failed("set the mode of", place.path);
  return was_whiteout ? make_opaque(place) : Status{};
}

Status Extractor::make_hard_link(Place& place, const TarEntry& entry) {
  auto target_path = clean(entry.target);
  if (!target_path) return failure(target_path.error());
  auto target = find(*target_path, false);
  if (!target) return failure(target.error());
  if (!target->exists) {
    errno = ENOENT;
    return failed("find the target of the hard link", place.path);
  }
  if (!S_ISREG(target->status.st_mode)) return refused("the hard link to something that is not a file", entry.path);
  if (::linkat(target->directory.get(), target->name.c_str(), place.directory.get(), place.name.c_str(), 0) != 0)
    return failed("make hard link", place.path);
  return {};
}

Status Extractor::write_file(Place& place, const TarEntry& entry) {
  // No set-user-id, set-group-id or sticky bits, and no extended attributes: none can give a function more rights.
  const FileDescriptor file(::openat(place.directory.get(), place.name.c_str(),
                                     O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.is_open()) return failed("create", place.path);
  for (;;) {
    auto got = tar_.read(buffer_.data(), buffer_.size());
    if (!got) return failure(got.error());
    if (*got == 0) break;
    for (std::size_t done = 0; done < *got;) {
      const ssize_t size = ::write(file.get(), buffer_.data() + done, *got - done);
      if (size <= 0) return failed("write", place.path);
      done += static_cast<std::size_t>(size);
    }
  }
  if (::fchmod(file.get(), entry.mode & 0777) != 0) return failed("set the mode of", place.path);
  return {};
}

// ".wh.NAME" hides NAME of the layers below, the opaque mark hides everything that they have in its directory. Overlay
// knows a character device 0/0 for the one and an attribute for the other. What this layer itself has stays.
Status Extractor::white_out(Place& place) {
  if (place.name == kOpaque) {
    const std::size_t slash = place.path.rfind('/');
    if (slash == std::string::npos) return {};  // of the root: no layer below it is left to hide that way
    auto directory = find(place.path.substr(0, slash), false);
    return directory ? make_opaque(*directory) : Status(failure(directory.error()));
  }
  if (place.name.starts_with(".wh..wh.")) return {};  // other marks of the same family hide nothing
  place.name.erase(0, kWhiteout.size());
  if (place.name.empty() || place.name == "." || place.name == "..") return refused("the whiteout", place.path);
  if (::fstatat(place.directory.get(), place.name.c_str(), &place.status, AT_SYMLINK_NOFOLLOW) == 0)
    return S_ISDIR(place.status.st_mode) ? make_opaque(place) : Status{};
  if (::mknodat(place.directory.get(), place.name.c_str(), S_IFCHR | 0000, ::makedev(0, 0)) != 0)
    return failed("make whiteout", place.path);
  return {};
}

Status Extractor::make_opaque(const Place& place) {
  const FileDescriptor directory(::openat(place.directory.get(), place.name.c_str(),
                                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.is_open()) return failed("open directory", place.path);
  // Which of the two names overlay looks at depends on how it is mounted; a worker without root may set one only.
  const bool trusted = ::fsetxattr(directory.get(), "trusted.overlay.opaque", "y", 1, 0) == 0;
  const bool user = ::fsetxattr(directory.get(), "user.overlay.opaque", "y", 1, 0) == 0;
  if (!trusted && !user) return failed("hide what lies below", place.path);
  return {};
}

}  // namespace

Result<Unpacked> unpack_layer(ByteSource& source, const std::string& name, int root, const UnpackLimits& limits) {
  return Extractor(source, name, root, limits).run();
}

}  // namespace dirigent::sandbox
