// SPDX-License-Identifier: MIT
//
// The control role's one object: handler of the cluster's connections and service behind the HTTP APIs.
#pragma once

#include <asio/steady_timer.hpp>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "dirigent/core/conductor.h"
#include "dirigent/io/http.h"
#include "dirigent/io/task.h"
#include "dirigent/roles/control_role.h"
#include "dirigent/roles/control_service.h"
#include "dirigent/rpc/cluster.h"
#include "dirigent/store/state_log.h"

namespace dirigent::roles {

class ControlRoleImpl final : public ControlRole, public ControlService, public rpc::ControlHandler {
 public:
  ControlRoleImpl(io::Loop& loop, ControlRoleOptions options);
  ~ControlRoleImpl() override;

  Status open();
  // After a failed open(): what has been started is taken down.
  void abandon();

  // ControlRole
  [[nodiscard]] std::string rpc_address() const override;
  [[nodiscard]] std::string form_address() const override;
  [[nodiscard]] std::string admin_address() const override;
  io::Action stop(Duration drain) override;

  // rpc::ControlHandler
  Status worker_joined(SessionId session, WorkerHello hello) override;
  void worker_said(SessionId session, std::vector<WorkerMessage> messages) override;
  void worker_lost(SessionId session, std::string why) override;
  Status data_plane_joined(SessionId session, DataPlaneHello hello) override;
  void data_plane_said(SessionId session, std::vector<DataPlaneMessage> messages) override;
  void data_plane_lost(SessionId session, std::string why) override;

  // ControlService (control_service.cpp)
  io::Task<Deployed> deploy(DeployRequest request) override;
  io::Task<void> remove(FunctionName name) override;
  io::Task<void> set_scale(FunctionName name, std::optional<std::uint32_t> scale) override;
  Result<FunctionView> describe(const FunctionName& name) override;
  Result<std::vector<std::string>> explain(const FunctionName& name) override;
  std::vector<FunctionView> list() override;
  std::vector<FunctionName> names() override;
  io::Task<std::vector<FunctionEvent>> events(FunctionName name, std::uint64_t after, Duration wait) override;
  io::Task<std::vector<LogLine>> logs(FunctionName name, std::optional<SandboxId> only, std::uint32_t lines_max) override;
  std::vector<NodeView> nodes() override;
  Status set_schedulable(const NodeId& node, bool schedulable) override;
  Result<std::vector<NodeId>> prefetch(const std::string& image, const std::optional<NodeId>& node) override;
  std::vector<DataPlaneView> data_planes() override;
  ClusterView cluster() override;
  ScalingProfile default_profile() override { return profile_; }
  std::string metrics() override;

 private:
  Result<std::vector<Function>> read_functions();
  Result<Term> next_term();
  void perform(core::ConductorEffects effects);
  void tick();
  void arm_timer();
  // The number of the route update that tells of it.
  io::Task<std::uint64_t> make_durable(core::CatalogCommand command);
  io::Task<void> applied_everywhere(std::uint64_t update);
  void wake_update_waiters();
  io::Action carry_out(core::CatalogCommand command);
  // Waits until nobody else writes this function, and claims it.
  io::Task<void> claim(FunctionName name);

  void notify(const FunctionName& name);
  void notify_all();
  // Until something happens to the function; timed_out at the deadline.
  io::Task<void> changed(FunctionName name, Instant deadline);

  FunctionView view_of(const Function& function) const;
  std::vector<FunctionEvent> events_after(const FunctionName& name, std::uint64_t after) const;

  io::Loop& loop_;
  ControlRoleOptions options_;
  Instant started_at_;
  ScalingProfile profile_{};
  std::unique_ptr<store::StateLog> log_;
  std::unique_ptr<core::Conductor> conductor_;
  io::TaskGroup tasks_;
  io::WakeupTimer timer_;
  std::unique_ptr<rpc::ControlServer> cluster_;
  std::unique_ptr<io::HttpServer> admin_;
  std::unique_ptr<io::HttpServer> form_;
  std::map<FunctionName, std::vector<std::shared_ptr<asio::steady_timer>>> waiters_;
  std::set<std::shared_ptr<asio::steady_timer>> update_waiters_;
  bool stopping_ = false;
};

}  // namespace dirigent::roles
