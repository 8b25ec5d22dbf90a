// SPDX-License-Identifier: MIT
//
// What the worker knows about one cell, from its parking to the last trace of it.
#pragma once

#include <asio/posix/stream_descriptor.hpp>

#include <memory>
#include <optional>
#include <string>

#include "sandbox/cell/wire.h"
#include "sandbox/helpers.h"
#include "sandbox/images/store.h"
#include "sandbox/log_ring.h"
#include "sandbox/process/adoption.h"
#include "sandbox/process/lodging.h"

namespace dirigent::sandbox {

//  parking -> parked -> ordered -> running -> ended
//     any state may go to ended; `gone` is set when nothing of the cell is left.
enum class CellState { parking, parked, ordered, running, ended };

struct Cell {
  using Descriptor = asio::posix::basic_stream_descriptor<asio::io_context::executor_type>;

  explicit Cell(io::Loop& loop)
      : control(loop.context().get_executor()),
        output{Descriptor(loop.context().get_executor()), Descriptor(loop.context().get_executor())},
        forked(loop), changed(std::make_shared<Signal>(loop)), gone(loop) {}

  std::uint32_t serial = 0;
  LodgingPtr lodging = std::make_shared<Lodging>();  // its network, cgroups and number
  CellState state = CellState::parking;
  std::uint32_t pid = 0;         // of its first process; 0 = not forked yet
  bool is_forked = false;        // the spawner has to report its exit
  Descriptor control;
  Descriptor output[2];          // stdout, stderr
  Signal forked;
  std::shared_ptr<Signal> changed;  // parked, or failed while parking; replaced by a new one for starting
  Signal gone;
  Error error;                   // why it never ran
  bool has_failed = false;
  std::uint32_t root_us = 0;
  std::uint32_t start_us = 0;
  Instant ordered_at{};

  // Once it is a sandbox.
  SandboxId id{};
  std::string function;
  std::optional<SandboxRecord> record;  // as the spawner keeps it for another worker
  bool launched = false;         // launch() or take_adopted() has returned it, so its end is told
  bool stop_requested = false;
  std::optional<SandboxEnd> end; // once ended
  std::optional<int> exit_code;  // as its init told
  int signal = 0;
  std::string direct;
  std::uint16_t published_port = 0;
  ImageLease image;              // its layers stay as long as it may use them
  std::shared_ptr<LogRing> logs = std::make_shared<LogRing>();
};

}  // namespace dirigent::sandbox
