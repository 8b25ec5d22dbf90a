// SPDX-License-Identifier: MIT
//
// What the worker knows about one container, from the order to the last trace of it.
#pragma once

#include <asio/posix/stream_descriptor.hpp>

#include <memory>
#include <optional>
#include <string>

#include "sandbox/helpers.h"
#include "sandbox/log_ring.h"
#include "sandbox/network/namespaces.h"
#include "sandbox/oci/engine.h"
#include "sandbox/process/adoption.h"

namespace dirigent::sandbox {

//  starting -> running -> ended; `gone` is set when nothing of it is left.
enum class ContainerState { starting, running, ended };

struct Container {
  using Descriptor = asio::posix::basic_stream_descriptor<asio::io_context::executor_type>;

  explicit Container(io::Loop& loop)
      : pidfd(loop.context().get_executor()),
        output{Descriptor(loop.context().get_executor()), Descriptor(loop.context().get_executor())},
        gone(loop) {}

  SandboxId id{};
  std::uint32_t key = 0;        // by which the guard keeps it
  std::string name;
  std::string function;
  ContainerState state = ContainerState::starting;
  std::uint32_t pid = 0;
  Descriptor pidfd;
  Descriptor output[2];
  NetworkPlace place;
  ImageLease image;
  std::string direct;
  std::uint16_t published_port = 0;
  bool launched = false;        // launch() or take_adopted() has returned it, so its end is told
  std::optional<SandboxRecord> record;  // as the guard keeps it for another worker
  bool stop_requested = false;
  bool abandoned = false;       // whoever wanted it does not wait any more
  std::optional<SandboxEnd> end;
  Signal gone;
  std::shared_ptr<LogRing> logs = std::make_shared<LogRing>();
};

}  // namespace dirigent::sandbox
