// SPDX-License-Identifier: MIT
//
// Readiness for the forwarding path: one edge-triggered epoll of our own per shard, nested in the loop's reactor.
//
// Why not the loop's sockets: the forwarding path wants to know whether an edge is still unused (so that it never issues
// a recv that can only say EAGAIN), whether the peer has closed while its bytes are unread, and to pay no epoll_ctl per
// wait. A turn of the loop costs one more epoll_wait and one epoll_ctl for all sockets together.
//
// One thread: the loop's. A PolledSocket is told at most once per batch; it must stay alive, though it may be closed,
// until `after_batch` runs, because later events of the same batch may still name it.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <functional>
#include <memory>

#include "dirigent/base/result.h"
#include "dirigent/io/loop.h"

namespace dirigent::roles {

class Poller;

// Bytes waiting to be written, as pieces in order. The memory belongs to others and must stay until all is written.
class Output {
 public:
  static constexpr std::size_t kPiecesMax = 8;  // a head, a framed chunk (3) and the end of a chunked body (3)
  void add(const char* data, std::size_t size);
  void clear() {
    first_ = count_ = 0;
    is_partly_sent_ = false;
  }
  [[nodiscard]] bool pending() const { return first_ != count_; }
  [[nodiscard]] std::size_t size() const;
  // Some bytes have left since it was empty, and others are pending.
  [[nodiscard]] bool is_partly_sent() const { return is_partly_sent_; }

 private:
  friend class PolledSocket;
  iovec pieces_[kPiecesMax] = {};
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  bool is_partly_sent_ = false;
};

class PolledSocket {
 public:
  PolledSocket() = default;
  PolledSocket(const PolledSocket&) = delete;
  PolledSocket& operator=(const PolledSocket&) = delete;
  virtual ~PolledSocket() = default;

  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] int fd() const { return fd_; }
  // An unused edge: a recv may find something.
  [[nodiscard]] bool readable() const { return readable_; }
  // The peer will send nothing more (it closed, or shut down its half), though bytes may still be unread.
  [[nodiscard]] bool peer_closed() const { return peer_closed_; }
  // Both directions are dead.
  [[nodiscard]] bool broken() const { return broken_; }

  enum class Io { done, blocked, ended, failed };
  struct Transfer {
    Io io = Io::done;
    std::size_t bytes = 0;
    int error = 0;  // errno of `failed`
  };
  // One recv. `done`: bytes > 0; `ended`: the peer sent its last byte.
  Transfer receive(char* to, std::size_t capacity);
  // Writes as much of `output` as the socket takes. `done`: nothing is pending any more. `bytes` counts in every case.
  Transfer send(Output& output);

 protected:
  // Flags have changed. Only while open.
  virtual void on_ready() = 0;

 private:
  friend class Poller;
  int fd_ = -1;
  bool readable_ = false;
  bool peer_closed_ = false;
  bool broken_ = false;
};

class Poller {
 public:
  // `after_batch` runs after each batch of events.
  static Result<std::unique_ptr<Poller>> open(io::Loop& loop, std::function<void()> after_batch);
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;
  ~Poller();

  // Takes over `fd` (non-blocking), also on failure. What is there already is told as an event.
  Status add(PolledSocket& socket, int fd);
  // Hands the descriptor of one socket to another, which is told at once what there is. `from` is closed afterwards.
  Status move(PolledSocket& from, PolledSocket& to);
  // Closes the socket's descriptor. REQUIRES: it is open.
  void close(PolledSocket& socket);
  // Closes it so that the peer sees a reset, not an orderly end.
  void reset(PolledSocket& socket);
  // True while events are being told.
  [[nodiscard]] bool in_batch() const { return in_batch_; }

 private:
  struct State;
  Poller(io::Loop& loop, int epoll_fd, std::function<void()> after_batch);
  void wait();
  void run_batches();

  std::shared_ptr<State> state_;  // outlives the Poller while the loop still holds a handler
  int epoll_fd_;
  std::function<void()> after_batch_;
  bool in_batch_ = false;
};

}  // namespace dirigent::roles
