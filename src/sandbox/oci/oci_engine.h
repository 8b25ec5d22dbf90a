// SPDX-License-Identifier: MIT
//
// crun or runc, run directly. The worker becomes the parent of their containers (as a "subreaper") and so learns how
// each one ends.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "dirigent/sandbox/oci_runtime.h"
#include "sandbox/helpers.h"
#include "sandbox/oci/engine.h"
#include "sandbox/oci/root_space.h"

namespace dirigent::sandbox {

class OciEngine final : public Engine {
 public:
  OciEngine(io::Loop& loop, OciRuntimeOptions options)
      : loop_(loop), options_(std::move(options)), group_(loop, "oci") {}

  [[nodiscard]] std::string_view name() const override { return "oci"; }
  [[nodiscard]] std::string identity() const override { return "oci " + options_.program; }
  io::Task<void> open(const Cgroups& cgroups, std::vector<KeptContainer> kept) override;
  io::Task<RunningContainer> start(ContainerOrder order) override;
  io::Task<ExitStatus> finish(std::string name, std::uint32_t pid) override;
  io::Task<void> close() override;
  [[nodiscard]] std::vector<std::string> weaknesses() const override { return {}; }

 private:
  Status open_now();
  Status find_program();
  void hide_hybrid_hierarchy() const;
  Result<RunningContainer> start_now(ContainerOrder& order);
  Result<RunningContainer> run(ContainerOrder& order, const std::string& directory);
  Error explain(int code, const std::string& directory, const ContainerSpec& spec) const;
  void remove_now(const std::string& name);
  void reap_helpers(bool now);
  io::Task<void> tend_helpers();

  io::Loop& loop_;
  OciRuntimeOptions options_;
  const Cgroups* cgroups_ = nullptr;
  std::string program_;
  bool is_runc_ = false;
  bool was_subreaper_ = false;
  std::unique_ptr<RootSpace> space_;
  std::mutex mutex_;
  Instant reaped_at_{};
  bool has_started_ = false;         // since helpers were last looked for
  std::set<std::string> strangers_;  // names of containers that an earlier life has started: no children of this process
  std::unique_ptr<Helpers> starters_;
  io::TaskGroup group_;
  std::unique_ptr<Helpers> removers_;  // of their own, so that taking down never delays a start
};

// The node's directories of one container in every cgroup hierarchy are removed. Blocks for at most two seconds.
void remove_container_cgroups(const std::string& node, const std::string& name);
// The path of a program by its name, or "" when it is nowhere in PATH.
std::string find_in_path(const std::string& name);

}  // namespace dirigent::sandbox
