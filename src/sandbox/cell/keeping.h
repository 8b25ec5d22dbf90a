// SPDX-License-Identifier: MIT
//
// What the spawner holds for a worker that is killed and starts again: of each sandbox a record, which only workers can
// read, and the descriptors without which it could not go on (its control socket, its output, the locks of its image).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sandbox/cell/wire.h"

namespace dirigent::sandbox::cell {

class Keeping {
 public:
  struct Kept {
    std::uint32_t key = 0;
    std::uint32_t fds_wanted = 0;
    std::uint32_t pipes = 0;  // of the descriptors, the first: a function's output
    std::string record;
    std::vector<int> fds;
  };

  // The messages of their names. `fds` are kept from here on.
  void keep(wire::Reader& in, const std::vector<int>& fds);
  void keep_fds(wire::Reader& in, const std::vector<int>& fds);
  void note(wire::Reader& in);
  void forget(std::uint32_t key);

  [[nodiscard]] bool has(std::uint32_t key) const;
  [[nodiscard]] bool empty() const { return kept_.empty(); }
  // What lacks descriptors cannot go on without its worker.
  void drop_incomplete();
  // A function whose output nobody reads would wait for room in its pipe: the older half of a full one is thrown away.
  void drain_output() const;
  // Tells everything on `socket`; 0 or an errno. `pid_of` gives the process of a cell, 0 when it is none.
  template <class PidOf>
  int tell(int socket, PidOf pid_of) const {
    for (const auto& one : kept_) {
      if (const int error = tell_one(socket, one, pid_of(one.key))) return error;
    }
    return 0;
  }

 private:
  [[nodiscard]] Kept* find(std::uint32_t key);
  static int tell_one(int socket, const Kept& one, std::uint32_t pid);

  std::vector<Kept> kept_;
};

// Listens on an abstract unix socket for a worker that wants to take over; -1 when the name cannot be had.
int listen_for_successor(const std::string& node);
// The identity of whoever has just connected, and the connection; -1 when it is not of this user or does not say.
int accept_successor(int listener, std::string& identity);

}  // namespace dirigent::sandbox::cell
