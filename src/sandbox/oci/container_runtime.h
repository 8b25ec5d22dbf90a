// SPDX-License-Identifier: MIT
//
// The runtime around an engine: images, addresses, published ports, logs, ends and clean-up. Opening, launching and
// removing in container_runtime.cpp, what happens to running containers in container_events.cpp, networks ahead of
// time in network_pool.cpp, what outlives a killed worker in adopting.cpp.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <unordered_map>

#include "dirigent/sandbox/container_options.h"
#include "dirigent/sandbox/runtime.h"
#include "sandbox/images/users.h"
#include "sandbox/network/firewall.h"
#include "sandbox/oci/container.h"
#include "sandbox/oci/network_pool.h"
#include "sandbox/process/spawner.h"
#include "sandbox/turns.h"

namespace dirigent::sandbox {

class ContainerRuntime final : public Runtime {
 public:
  ContainerRuntime(io::Loop& loop, ContainerOptions options, std::unique_ptr<Engine> engine);
  ~ContainerRuntime() override;

  [[nodiscard]] std::string_view name() const override { return engine_->name(); }
  io::Task<void> open() override;
  void on_end(std::function<void(SandboxId, SandboxEnd)> callback) override { on_end_ = std::move(callback); }
  std::vector<AdoptedSandbox> take_adopted() override;
  io::Task<Launched> launch(StartSandbox order) override;
  io::Task<void> prefetch(std::string image) override;
  io::Task<std::vector<std::string>> images() override;
  io::Task<void> remove(SandboxId id, Duration grace) override;
  io::Task<bool> probe(SandboxId id, std::string ready_path, Duration timeout) override;
  [[nodiscard]] std::vector<LogLine> logs(SandboxId id, std::size_t lines_max) const override;
  [[nodiscard]] std::vector<std::string> weaknesses() const override { return weaknesses_; }
  io::Task<void> close() override;

 private:
  using ContainerPtr = std::shared_ptr<Container>;
  struct Opened {
    Cgroups cgroups;
    std::unique_ptr<Network> network;
    std::unique_ptr<CniNetwork> cni;
    std::unique_ptr<Firewall> firewall;
    std::vector<std::string> weaknesses;
    NameLock node_lock;
    Spawner guard;
    std::optional<Handover> handover;
  };

  // container_runtime.cpp
  [[nodiscard]] static Result<Opened> open_parts(const ContainerOptions& options, const std::string& identity,
                                                 const std::vector<std::string>& mounts);
  // One launch on its way. It goes on when the caller of launch() is cancelled, and takes back what it has made then:
  // half a container cannot be left to whoever comes next.
  struct Launching {
    explicit Launching(io::Loop& loop) : done(loop) {}
    Signal done;
    Status status;
    StartPhases phases;
    std::string image_digest;
  };
  io::Task<void> carry_out(std::shared_ptr<Launching> launching, ContainerPtr container, StartSandbox order, Image image);
  io::Task<ImageLease> take_image(Image image, std::string digest);
  io::Task<ImageUser> find_user(ImageLease image, std::string user);
  void become(ContainerSpec& spec, const ImageUser& user, std::uint32_t number) const;
  io::Task<void> start(ContainerPtr container, StartSandbox order, Image image, Launching& launching);
  io::Task<void> publish(ContainerPtr container, std::uint16_t port);
  void take_down_parts();

  // adopting.cpp
  [[nodiscard]] std::string identity() const;
  void adopt(Handover handover);
  void keep(const ContainerPtr& container, const StartSandbox& order, const Launched& launched);
  void note_ready(const ContainerPtr& container);
  void forget(const ContainerPtr& container);

  // container_events.cpp
  void watch(const ContainerPtr& container);
  void read_output(const ContainerPtr& container, int stream);
  bool drain_output(const ContainerPtr& container, int stream);
  void kill(const ContainerPtr& container, int signal);
  io::Task<void> finish(ContainerPtr container);
  SandboxEnd describe_end(const ContainerPtr& container, const Result<ExitStatus>& status) const;
  void release(const ContainerPtr& container);

  io::Loop& loop_;
  ContainerOptions options_;
  std::unique_ptr<Engine> engine_;
  bool opened_ = false;
  bool closing_ = false;
  std::function<void(SandboxId, SandboxEnd)> on_end_;
  std::vector<std::string> weaknesses_;

  std::shared_ptr<ImageStore> images_;
  std::unique_ptr<Helpers> helpers_;        // short work: rules, cgroups
  std::unique_ptr<Helpers> image_helpers_;  // pulling may take minutes and must not keep the short work
  io::TaskGroup group_;
  NameLock node_lock_;
  Cgroups cgroups_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<CniNetwork> cni_;  // null: the network makes the links
  std::unique_ptr<Firewall> firewall_;
  std::unique_ptr<NetworkPool> networks_;
  Spawner guard_;                           // removes what is left when the worker is killed

  std::uint32_t next_serial_ = 0;
  std::deque<std::uint16_t> published_ports_;
  std::unordered_map<SandboxId, ContainerPtr> by_id_;
  std::vector<ContainerPtr> adopted_;       // until take_adopted()
  Turns starts_;                            // of the engine
  std::map<std::string, std::shared_ptr<Signal>> image_work_;  // one unpacking at a time of one image
  EndedLogs kept_logs_;
  std::shared_ptr<Signal> empty_;           // set when by_id_ becomes empty while closing
};

}  // namespace dirigent::sandbox
