// SPDX-License-Identifier: MIT
#include "roles/data/poller.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <utility>

#include "dirigent/base/assert.h"

namespace dirigent::roles {

void Output::add(const char* data, std::size_t size) {
  if (size == 0) return;
  if (first_ == count_) first_ = count_ = 0;
  ASSERT(count_ < kPiecesMax);
  pieces_[count_++] = iovec{const_cast<char*>(data), size};  // sendmsg does not write through it
}

std::size_t Output::size() const {
  std::size_t total = 0;
  for (std::size_t i = first_; i < count_; ++i) total += pieces_[i].iov_len;
  return total;
}

PolledSocket::Transfer PolledSocket::receive(char* to, std::size_t capacity) {
  for (;;) {
    const ssize_t received = ::recv(fd_, to, capacity, 0);
    if (received > 0) {
      const auto bytes = static_cast<std::size_t>(received);
      // A short read has emptied the socket: the next byte brings a new edge. An end that was announced before does not.
      if (bytes < capacity && !peer_closed_) readable_ = false;
      return {Io::done, bytes, 0};
    }
    if (received == 0) {
      readable_ = false;
      peer_closed_ = true;
      return {Io::ended, 0, 0};
    }
    if (errno == EINTR) continue;
    readable_ = false;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {Io::blocked, 0, 0};
    return {Io::failed, 0, errno};
  }
}

PolledSocket::Transfer PolledSocket::send(Output& output) {
  Transfer transfer;
  while (output.pending()) {
    const iovec* pieces = output.pieces_ + output.first_;
    const std::size_t count = output.count_ - output.first_;
    ssize_t sent;
    if (count == 1) {
      sent = ::send(fd_, pieces->iov_base, pieces->iov_len, MSG_NOSIGNAL);
    } else {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(pieces);
      message.msg_iovlen = count;
      sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
    }
    if (sent < 0) {
      if (errno == EINTR) continue;
      transfer.io = errno == EAGAIN || errno == EWOULDBLOCK ? Io::blocked : Io::failed;
      transfer.error = errno;
      return transfer;
    }
    output.is_partly_sent_ = sent > 0;
    auto left = static_cast<std::size_t>(sent);
    transfer.bytes += left;
    while (left > 0) {
      iovec& piece = output.pieces_[output.first_];
      const std::size_t part = left < piece.iov_len ? left : piece.iov_len;
      piece.iov_base = static_cast<char*>(piece.iov_base) + part;
      piece.iov_len -= part;
      left -= part;
      if (piece.iov_len == 0) ++output.first_;
    }
  }
  output.clear();
  return transfer;
}

struct Poller::State {
  State(io::Loop& loop, int fd) : descriptor(loop.context(), fd) {}
  asio::posix::basic_stream_descriptor<asio::io_context::executor_type> descriptor;
  Poller* poller = nullptr;
};

Result<std::unique_ptr<Poller>> Poller::open(io::Loop& loop, std::function<void()> after_batch) {
  const int fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) return errno_failure(errno, "cannot create an epoll instance");
  std::unique_ptr<Poller> poller(new Poller(loop, fd, std::move(after_batch)));
  poller->wait();
  return poller;
}

Poller::Poller(io::Loop& loop, int epoll_fd, std::function<void()> after_batch)
    : state_(std::make_shared<State>(loop, epoll_fd)), epoll_fd_(epoll_fd), after_batch_(std::move(after_batch)) {
  state_->poller = this;
}

Poller::~Poller() {
  state_->poller = nullptr;
  std::error_code ignored;
  state_->descriptor.close(ignored);
}

void Poller::wait() {
  state_->descriptor.async_wait(asio::posix::descriptor_base::wait_read, [state = state_](std::error_code error) {
    if (error || state->poller == nullptr) return;
    state->poller->run_batches();
    if (state->poller != nullptr) state->poller->wait();
  });
}

void Poller::run_batches() {
  constexpr int kBatch = 256;
  constexpr int kBatchesMax = 4;  // then the loop's other work (timers, messages of other shards) gets its turn
  std::array<epoll_event, kBatch> events;
  for (int batch = 0; batch < kBatchesMax; ++batch) {
    const int ready = ::epoll_wait(epoll_fd_, events.data(), kBatch, 0);
    in_batch_ = true;
    // First what is known of every socket, then the telling: whoever is told takes no kept connection that has just said
    // something unasked or ended.
    for (int i = 0; i < ready; ++i) {
      auto* socket = static_cast<PolledSocket*>(events[static_cast<std::size_t>(i)].data.ptr);
      const std::uint32_t flags = events[static_cast<std::size_t>(i)].events;
      if ((flags & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket->readable_ = true;
      if ((flags & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket->peer_closed_ = true;
      if ((flags & (EPOLLHUP | EPOLLERR)) != 0) socket->broken_ = true;
    }
    for (int i = 0; i < ready; ++i) {
      auto* socket = static_cast<PolledSocket*>(events[static_cast<std::size_t>(i)].data.ptr);
      if (socket->fd_ >= 0) socket->on_ready();
    }
    in_batch_ = false;
    if (ready > 0) after_batch_();
    if (ready < kBatch) return;
  }
}

Status Poller::add(PolledSocket& socket, int fd) {
  ASSERT(socket.fd_ < 0);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &socket;
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
    const int error = errno;
    ::close(fd);
    return errno_failure(error, "cannot watch a connection");
  }
  socket.fd_ = fd;
  socket.readable_ = false;
  socket.peer_closed_ = false;
  socket.broken_ = false;
  return {};
}

Status Poller::move(PolledSocket& from, PolledSocket& to) {
  ASSERT(from.fd_ >= 0 && to.fd_ < 0);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &to;
  // Whatever is ready now is an edge again.
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, from.fd_, &event) != 0) return errno_failure(errno, "cannot watch a connection");
  to.fd_ = std::exchange(from.fd_, -1);
  to.readable_ = std::exchange(from.readable_, false);
  to.peer_closed_ = from.peer_closed_;
  to.broken_ = from.broken_;
  return {};
}

void Poller::close(PolledSocket& socket) {
  ASSERT(socket.fd_ >= 0);
  ::close(socket.fd_);  // takes it out of the epoll set: no descriptor is ever duplicated
  socket.fd_ = -1;
  socket.readable_ = false;
}

void Poller::reset(PolledSocket& socket) {
  const linger abort{1, 0};
  ::setsockopt(socket.fd_, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  close(socket);
}

}  // namespace dirigent::roles
