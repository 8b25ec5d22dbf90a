// SPDX-License-Identifier: MIT
//
// The worker's end of its spawner: starts the embedded cell program from a sealed memory file and talks to it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/cell/wire.h"

namespace dirigent::sandbox {

class Spawner {
 public:
  Spawner() = default;
  Spawner(Spawner&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), pid_(std::exchange(other.pid_, -1)), process_(std::move(other.process_)) {}
  Spawner& operator=(Spawner&& other) noexcept;
  // One that was started is stopped; one that was taken over is left to wait for the next worker.
  ~Spawner();

  static Result<Spawner> start();
  // Of a worker that was killed: `socket` is connected to it, and is this object's from here on.
  static Result<Spawner> take_over(int socket);

  Status send(const wire::Writer& message, const std::vector<int>& fds = {}) const;
  [[nodiscard]] int socket() const { return socket_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Says farewell, at which the spawner removes everything and ends, and waits for that. Blocks.
  void stop();

  // What waits for another worker when this one is killed: a record, and descriptors of which the first `pipes` are a
  // function's output. They stay the caller's.
  Status keep(std::uint32_t key, const std::string& record, const std::vector<int>& fds, std::uint32_t pipes) const;
  Status note(std::uint32_t key, const std::string& record) const;
  Status forget(std::uint32_t key) const;

 private:
  int socket_ = -1;
  pid_t pid_ = -1;               // of one that was started: a child
  io::FileDescriptor process_;   // of one that was taken over
};

// Differs between builds whose cell programs differ.
std::string cell_program_fingerprint();

}  // namespace dirigent::sandbox
