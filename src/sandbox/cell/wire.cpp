// SPDX-License-Identifier: MIT
#include "sandbox/cell/wire.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace dirigent::sandbox::wire {

int send_message(int socket, const std::string& bytes, const int* fds, int fd_count) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsMax)] = {};
  if (fd_count > 0) {
    if (fd_count > kFdsMax) return EINVAL;
    const auto size = sizeof(int) * static_cast<std::size_t>(fd_count);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(header), fds, size);
  }
  for (;;) {
    if (::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

long receive_message(int socket, std::string& bytes, std::vector<int>* fds, bool wait) {
  thread_local std::string buffer(kMessageBytesMax + 1024, '\0');
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsMax)];
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size = 0;
  do {
    size = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
  } while (size < 0 && errno == EINTR);
  if (size < 0) return errno == EWOULDBLOCK ? -EAGAIN : -errno;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (fds != nullptr) fds->push_back(fd);
      else ::close(fd);
    }
  }
  bytes.assign(buffer.data(), static_cast<std::size_t>(size));
  return size;
}

}  // namespace dirigent::sandbox::wire
