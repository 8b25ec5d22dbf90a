// SPDX-License-Identifier: MIT
#include "sandbox/images/users.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "dirigent/base/text.h"
#include "dirigent/io/file_descriptor.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kFileBytesMax = 1 << 20;
constexpr std::uint32_t kIdMax = 0x7fffffff;
constexpr std::size_t kGroupsMax = 64;

int open_in(int root, const char* path, std::uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how));
}

bool hides_what_is_below(int layer, const char* path) {
  const io::FileDescriptor file(open_in(layer, path, O_PATH | O_NOFOLLOW));
  struct stat status {};
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) return false;
  if (!S_ISDIR(status.st_mode)) return true;
  const std::string name = "/proc/self/fd/" + std::to_string(file.get());
  char value = 0;
  return ::getxattr(name.c_str(), "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

// A file of /etc as overlay would show it; "" when there is none.
std::string read_file(const StoredImage& image, const char* path) {
  for (const auto& directory : image.layers) {
    const io::FileDescriptor layer(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!layer.is_open()) continue;
    const io::FileDescriptor file(open_in(layer.get(), path, O_RDONLY | O_NONBLOCK));
    struct stat status {};
    if (file.is_open() && ::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode)) {
      std::string text(std::min<std::size_t>(static_cast<std::size_t>(status.st_size), kFileBytesMax), '\0');
      const ssize_t size = ::pread(file.get(), text.data(), text.size(), 0);
      text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
      return text;
    }
    if (hides_what_is_below(layer.get(), path) || hides_what_is_below(layer.get(), "etc")) return "";
  }
  return "";
}

std::optional<std::uint32_t> number_of(std::string_view text) {
  const auto number = parse_integer(text);
  if (text.empty() || !number || *number < 0 || *number > kIdMax || text[0] == '+') return std::nullopt;
  return static_cast<std::uint32_t>(*number);
}

// The fields of the first line whose name is `word`, else of the first whose third field, the id, is.
std::vector<std::string> find_line(const std::string& file, std::string_view word, std::size_t fields_min) {
  const auto number = number_of(word);
  std::vector<std::string> by_number;
  for (const auto line : split(file, '\n')) {
    const auto fields = split(line, ':');
    if (fields.size() < fields_min) continue;
    if (fields[0] == word) return {fields.begin(), fields.end()};
    if (number && by_number.empty() && number_of(fields[2]) == number) by_number.assign(fields.begin(), fields.end());
  }
  return by_number;
}

}  // namespace

Result<ImageUser> resolve_user(const StoredImage& image, const std::string& user) {
  const std::size_t colon = user.find(':');
  const std::string name = colon == 0 || user.empty() ? "0" : user.substr(0, colon);
  const std::string group = colon == std::string::npos ? "" : user.substr(colon + 1);
  const std::string groups = read_file(image, "etc/group");
  ImageUser found;
  const auto line = find_line(read_file(image, "etc/passwd"), name, 6);
  if (!line.empty()) {
    const auto uid = number_of(line[2]);
    const auto gid = number_of(line[3]);
    if (!uid || !gid)
      return failure(ErrorCode::corrupt, "the image's /etc/passwd has no numbers for the user \"{}\": give UID:GID", name);
    found = {*uid, *gid, {}, line[5]};
  } else if (const auto uid = number_of(name)) {
    found.uid = *uid;
  } else {
    return failure(ErrorCode::not_found, "the image has no user \"{}\" in its /etc/passwd: give one that it has, or a number", name);
  }
  if (!group.empty()) {
    const auto of_group = find_line(groups, group, 3);
    const auto gid = of_group.empty() ? number_of(group) : number_of(of_group[2]);
    if (!gid)
      return failure(ErrorCode::not_found, "the image has no group \"{}\" in its /etc/group: give one that it has, or a number", group);
    found.gid = *gid;
    return found;
  }
  if (line.empty()) return found;
  for (const auto text : split(groups, '\n')) {
    const auto fields = split(text, ':');
    if (fields.size() < 4 || found.groups.size() >= kGroupsMax) continue;
    const auto members = split(fields[3], ',');
    const auto gid = number_of(fields[2]);
    if (gid && *gid != found.gid && std::find(members.begin(), members.end(), line[0]) != members.end()) found.groups.push_back(*gid);
  }
  return found;
}

}  // namespace dirigent::sandbox
