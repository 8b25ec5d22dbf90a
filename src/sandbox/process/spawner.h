// SPDX-License-Identifier: MIT
//
// The worker's end of its spawner: starts the embedded cell program from a sealed memory file and talks to it.
#pragma once

#include <sys/types.h>

#include <string>

#include "dirigent/base/result.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox {

class Spawner {
 public:
  Spawner() = default;
  Spawner(Spawner&& other) noexcept : socket_(std::exchange(other.socket_, -1)), pid_(std::exchange(other.pid_, -1)) {}
  Spawner& operator=(Spawner&& other) noexcept;
  ~Spawner() { stop(); }

  static Result<Spawner> start();

  Status send(const wire::Writer& message, const std::vector<int>& fds = {}) const;
  [[nodiscard]] int socket() const { return socket_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Closes the socket, at which the spawner removes everything and ends, and waits for that. Blocks.
  void stop();

 private:
  int socket_ = -1;
  pid_t pid_ = -1;
};

}  // namespace dirigent::sandbox
