// SPDX-License-Identifier: MIT
#include "sandbox/cell/steps.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace dirigent::sandbox::cell {

Failure failure_with(int error, std::string_view what, std::string_view path) {
  Failure failure;
  failure.text = "cannot ";
  failure.text += what;
  if (!path.empty()) (failure.text += ' ') += path;
  failure.text += ": ";
  failure.text += ::strerror(error);
  failure.text += " (errno " + std::to_string(error) + ")";
  return failure;
}

Failure errno_failure(std::string_view what, std::string_view path) { return failure_with(errno, what, path); }

Failure write_file(const std::string& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno_failure("open", path);
  const ssize_t written = ::write(fd, text.data(), text.size());
  const int error = errno;
  ::close(fd);
  if (written != static_cast<ssize_t>(text.size())) return failure_with(error, "write to", path);
  return {};
}

Failure make_directories(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0755) != 0 && errno != EEXIST) {
      // A read-only or foreign parent that already is a directory answers EROFS or EACCES: look before giving up.
      const int error = errno;
      struct stat status {};
      if (::stat(part.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
        return failure_with(error, "make directory", part);
    }
    if (end == std::string::npos) return {};
  }
}

Failure touch(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return errno_failure("create", path);
  ::close(fd);
  return {};
}

unsigned long long now_us() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<unsigned long long>(now.tv_sec) * 1'000'000 + static_cast<unsigned long long>(now.tv_nsec) / 1000;
}

}  // namespace dirigent::sandbox::cell
