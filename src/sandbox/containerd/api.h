// SPDX-License-Identifier: MIT
//
// The part of containerd's API that is used, as plain functions: one call each. Field numbers are those of the
// containers, tasks, namespaces and version services, version 1, which containerd keeps stable.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sandbox/containerd/grpc.h"

namespace dirigent::sandbox {

struct ContainerdMount {
  std::string type;
  std::string source;
  std::vector<std::string> options;
};

struct ContainerdContainer {
  std::string id;
  std::string node;     // label by which a worker knows its own
  std::string config;   // bytes of config.json
  std::string program;  // "" = containerd's default
};

struct ContainerdTask {
  std::string id;
  std::vector<ContainerdMount> root;
  std::string output;   // paths of named pipes
  std::string errors;
  std::string program;
};

class ContainerdApi {
 public:
  static constexpr const char* kNamespace = "dirigent";

  // `timeout` is for each call but wait().
  ContainerdApi(io::Loop& loop, const std::string& address, Duration timeout);

  io::Task<std::string> version();
  // Makes the namespace unless it is there.
  io::Task<void> make_namespace();
  io::Task<void> create_container(ContainerdContainer container);
  io::Task<void> delete_container(std::string id);
  // The ids of a node's containers.
  io::Task<std::vector<std::string>> list_containers(std::string node);
  // The id of the created, not yet started process.
  io::Task<std::uint32_t> create_task(ContainerdTask task);
  io::Task<void> start_task(std::string id);
  io::Task<void> kill_task(std::string id, std::uint32_t signal);
  // Ends when the process has: its exit status, 128 + the signal when one ended it.
  io::Task<std::uint32_t> wait_task(std::string id, Duration timeout);
  io::Task<std::uint32_t> delete_task(std::string id);

 private:
  Duration timeout_;
  GrpcClient client_;
};

}  // namespace dirigent::sandbox
