// SPDX-License-Identifier: MIT
//
// Containers through containerd's API. Their roots are the image store's layers, handed over as mounts: containerd's own
// content store and snapshots are not used, so there is one unpacker to trust and nothing to collect in its database.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dirigent/sandbox/containerd_runtime.h"
#include "sandbox/containerd/api.h"
#include "sandbox/containerd/own_mounts.h"
#include "sandbox/helpers.h"
#include "sandbox/oci/engine.h"

namespace dirigent::sandbox {

class ContainerdEngine final : public Engine {
 public:
  ContainerdEngine(io::Loop& loop, ContainerdRuntimeOptions options);

  [[nodiscard]] std::string_view name() const override { return "containerd"; }
  [[nodiscard]] std::string identity() const override;
  [[nodiscard]] std::vector<std::string> host_mounts() const override { return {own_mounts_.directory()}; }
  io::Task<void> open(const Cgroups& cgroups, std::vector<KeptContainer> kept) override;
  io::Task<RunningContainer> start(ContainerOrder order) override;
  io::Task<ExitStatus> finish(std::string name, std::uint32_t pid) override;
  io::Task<void> close() override;
  [[nodiscard]] std::vector<std::string> weaknesses() const override;

 private:
  io::Task<RunningContainer> start_it(ContainerOrder order);
  Result<std::vector<ContainerdMount>> mounts_of(const ContainerOrder& order) const;
  [[nodiscard]] std::string id_of(const std::string& name) const;
  [[nodiscard]] std::string pipe_path(const std::string& name, const char* stream) const;
  Error explain(const Error& error) const;
  // Removes what containerd has of a container; what is not there is fine.
  io::Task<void> remove_container(std::string id);
  void end_shim(const std::string& name);
  io::Task<void> remove_leftovers(const std::vector<KeptContainer>& kept);
  io::Task<void> tend_leftovers();

  io::Loop& loop_;
  ContainerdRuntimeOptions options_;
  std::string directory_;  // of this node: named pipes, and the roots of what has no image
  OwnMounts own_mounts_;
  std::unique_ptr<ContainerdApi> api_;
  std::unique_ptr<Helpers> helpers_;
  io::TaskGroup group_;
  std::map<std::string, io::FileDescriptor> shims_;  // pidfd of each container's shim, unless all share one
  std::vector<std::string> leftovers_;  // names of ended containers that containerd could not be told of yet
};

}  // namespace dirigent::sandbox
