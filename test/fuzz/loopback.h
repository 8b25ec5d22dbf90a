// SPDX-License-Identifier: MIT
//
// A data plane, its client and its sandbox on one thread: nobody waits, everybody is given a turn until nothing moves
// any more. Loopback delivers at once, so what has not arrived by then will not.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/io/loop.h"
#include "roles/data/data_plane.h"

namespace dirigent::fuzz {

// A non-blocking TCP connection with what came in and what still has to go out.
class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer();

  void send(std::string_view piece) { pieces_.emplace_back(piece); }
  enum class End { none, half, close, reset };
  void end_after_sending(End end) { end_ = end; }
  // Writes the next piece and reads what is there. True when anything moved.
  bool turn();
  void close(bool with_reset);
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] bool has_sent_all() const { return pieces_.empty(); }
  [[nodiscard]] bool saw_end() const { return saw_end_; }
  [[nodiscard]] bool saw_reset() const { return saw_reset_; }  // an end that says: this was not all

  std::string received;

 private:
  bool write_next();
  bool read_some();
  int fd_;
  std::vector<std::string> pieces_;
  End end_ = End::none;
  bool saw_end_ = false;
  bool saw_reset_ = false;
};

class Loopback {
 public:
  Loopback();
  ~Loopback();
  std::unique_ptr<Peer> connect_client();  // nullptr: ports have run out
  std::unique_ptr<Peer> accept_sandbox();  // nullptr: nobody connects
  void turn() { loop_.poll(); }
  roles::DataPlane& plane() { return *plane_; }
  // True once after a sandbox was suspected; the function has a new one then.
  bool healed();

 private:
  void route();
  io::Loop loop_;
  std::unique_ptr<roles::DataPlane> plane_;
  int listener_ = -1;
  std::string sandbox_address_;
  std::uint64_t sandboxes_ = 0;
  bool suspected_ = false;
};

}  // namespace dirigent::fuzz
