// SPDX-License-Identifier: MIT
//
// Lodgings: what a cell lives in and what outlives it, because the kernel takes longer to make and unmake it than all
// the rest: a network namespace with its link, and the directories of the cgroups. A lodging is used by one cell after
// another; each gets an address (and a user id) that nobody had for as long as possible, so that whoever still sends to
// the last one reaches nobody.
//
// What a function could leave behind is looked for before the next one moves in: sockets that the kernel still closes,
// memory that is still charged, a process that was ended for want of memory. A function has no right with which it
// could change the rest.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "sandbox/cell/wire.h"
#include "sandbox/netlink.h"
#include "sandbox/process/cgroups.h"
#include "sandbox/network/network.h"

namespace dirigent::sandbox {

struct Lodging {
  Lodging() = default;
  Lodging(const Lodging&) = delete;
  Lodging& operator=(const Lodging&) = delete;
  ~Lodging();
  void close_cgroups();

  std::uint32_t number = 0;            // of its address and its user id, within the worker's range
  std::uint32_t left_number = 0;       // that it had before; to be given back once nobody is reached by it; 0 = none
  std::string cgroup;                  // name of its directories
  std::vector<int> cgroup_fds;         // by which a process joins; open while a cell moves in
  std::optional<CgroupLimits> limits;  // as last set
  int netns = -1;
  int link = 0;                        // index of the host's end
  wire::Network network;
  bool is_whole = false;               // a cell has settled in it, so that it may be used again

  std::mutex mutex;                    // of whoever works on it: see Lodgings
  bool is_demolished = false;
};
using LodgingPtr = std::shared_ptr<Lodging>;

// Everything here blocks, on any thread. Of one lodging one is done after the other: a cell may end, and its lodging be
// taken down, while another thread still builds it. What comes to a demolished lodging fails as cancelled and makes nothing.
class Lodgings {
 public:
  Lodgings() = default;
  Lodgings(const Lodgings&) = delete;
  Lodgings& operator=(const Lodgings&) = delete;
  ~Lodgings();

  // `network` may be nullptr (no network of their own: then nothing is used again); both must outlive this.
  Status open(const Cgroups& cgroups, Network* network);

  // The cgroups of a lodging; those that are there already are opened again. New ones get the limits that are usual, so
  // that the order need not set what is the same.
  Status build(Lodging& lodging, const CgroupLimits& usual) const;
  // Makes the link to the network namespace of process `pid`, and keeps the namespace.
  Status connect(Lodging& lodging, std::uint32_t serial, std::uint32_t pid);
  // Prepares it for the next cell, which gets the address of `number`.
  Status readdress(Lodging& lodging, std::uint32_t number, const CgroupLimits& usual);

  enum class State {
    clean,
    busy,     // the kernel still closes sockets: ask again a little later
    spoiled,  // not to be used again
  };
  [[nodiscard]] State inspect(Lodging& lodging) const;
  // The kernel takes the link and the namespace down behind this.
  void demolish(Lodging& lodging) const;

 private:
  Status build_held(Lodging& lodging, const CgroupLimits& usual) const;

  const Cgroups* cgroups_ = nullptr;
  Network* network_ = nullptr;
  int own_netns_ = -1;
  std::mutex mutex_;
  std::unique_ptr<netlink::RouteSocket> socket_;
};

}  // namespace dirigent::sandbox
