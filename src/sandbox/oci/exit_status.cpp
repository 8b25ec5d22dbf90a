// SPDX-License-Identifier: MIT
#include "sandbox/oci/exit_status.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <thread>

#include "dirigent/base/text.h"

namespace dirigent::sandbox {

namespace {

// Of <linux/pidfd.h>, which Debian 12 has without them.
struct PidfdInfo {
  std::uint64_t mask;
  std::uint64_t cgroup;
  std::uint32_t ids[11];
  std::int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr std::uint64_t kInfoExit = 1u << 3;
constexpr unsigned long kGetInfo = _IOWR(0xff, 11, PidfdInfo);

// The last field of a zombie's line, which only root may read.
std::optional<int> status_of_zombie(std::uint32_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const std::size_t end = line.rfind(')');
  if (end == std::string::npos || line.compare(end, 3, ") Z") != 0) return std::nullopt;
  const std::string last = line.substr(line.rfind(' ') + 1);
  const auto status = parse_integer(last);
  return status ? std::optional<int>(static_cast<int>(*status)) : std::nullopt;
}

}  // namespace

ExitStatus exit_status_from(int status) {
  ExitStatus exit;
  if (WIFSIGNALED(status)) {
    exit.signal = WTERMSIG(status);
    exit.code = 128 + exit.signal;
  } else {
    exit.code = WEXITSTATUS(status);
  }
  return exit;
}

std::optional<ExitStatus> exit_status_of(int pidfd, std::uint32_t pid) {
  for (int attempt = 0; attempt < 250; ++attempt) {
    PidfdInfo info{};
    info.mask = kInfoExit;
    const bool is_known = ::ioctl(pidfd, kGetInfo, &info) == 0;
    if (is_known && (info.mask & kInfoExit) != 0) return exit_status_from(info.exit_code);
    // ESRCH: it was waited for, and the kernel does not keep how it ended. Else it has not been waited for, or is not
    // asked so.
    const bool is_gone = !is_known && errno == ESRCH;
    const auto status = is_gone ? std::nullopt : status_of_zombie(pid);
    // While it can be signalled nobody has waited for it, and the number that was read is still its own.
    if (status && ::syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) == 0) return exit_status_from(*status);
    if (is_gone || !is_known) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return std::nullopt;
}

}  // namespace dirigent::sandbox
