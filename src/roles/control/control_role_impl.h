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

#include "dirigent/consensus/replica.h"
#include "dirigent/core/conductor.h"
#include "dirigent/io/http.h"
#include "dirigent/io/prometheus.h"
#include "dirigent/io/task.h"
#include "dirigent/roles/control_role.h"
#include "dirigent/roles/control_service.h"
#include "dirigent/rpc/cluster.h"
#include "dirigent/store/state_log.h"
#include "replicated_catalog.h"

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
  [[nodiscard]] std::string peer_address() const override;
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
  std::vector<FunctionName> names() override;
  io::Task<std::vector<FunctionEvent>> events(FunctionName name, std::uint64_t after, Duration wait) override;
  io::Task<std::vector<LogLine>> logs(FunctionName name, std::optional<SandboxId> only, std::uint32_t lines_max) override;
  std::vector<NodeView> nodes() override;
  io::Task<void> set_node_use(NodeId node, NodeUse use) override;
  Result<std::vector<NodeId>> prefetch(const std::string& image, const std::optional<NodeId>& node) override;
  std::vector<DataPlaneView> data_planes() override;
  ClusterView cluster() override;
  ScalingProfile default_profile() override { return profile_; }
  std::string metrics() override;

  // The group (control_group.cpp), for its part of the API (group_api.cpp).
  [[nodiscard]] GroupView group_view() const;
  io::Task<void> add_peer(std::string peer);
  io::Task<void> remove_peer(std::uint32_t id);
  io::Task<void> hand_over();
  // The other one that leads, as far as it is known.
  struct Leader {
    std::uint32_t id = 0;
    std::string rpc;
    std::string admin;
    std::string form;
  };
  [[nodiscard]] std::optional<Leader> other_leader() const;
  [[nodiscard]] bool leads() const { return leads_; }
  [[nodiscard]] bool has_group() const { return group_ != nullptr; }
  // Until the leadership may have changed, or the deadline.
  io::Task<void> leadership_changed(Instant deadline);
  io::Loop& loop() { return loop_; }
  io::TaskGroup& tasks() { return tasks_; }
  // Cancelled whenever the leadership may have changed, and when the role stops.
  std::set<std::shared_ptr<asio::steady_timer>>& leader_waiters() { return leader_waiters_; }
  [[nodiscard]] bool stopping() const { return stopping_; }

 private:
  // A node that has nothing to say still gives signs of life.
  [[nodiscard]] Instant last_heard(const core::Node& node) const;
  Result<std::vector<Function>> read_functions(store::StateLog& log) const;
  Result<std::vector<core::SetNodeUse>> read_node_uses(store::StateLog& log) const;
  Result<Term> stored_term();  // 0: no control plane was ever alone here
  Result<Term> next_term();
  Status open_alone();
  io::Action close_ports();
  // A conductor of `term` with what is durable, in place of the one there was.
  void make_conductor(Term term, std::vector<Function> functions, const std::vector<core::SetNodeUse>& nodes);
  [[nodiscard]] std::vector<store::Write> writes_of(const core::CatalogCommand& command) const;
  [[nodiscard]] std::vector<store::Write> writes_of(const core::SetNodeUse& command) const;

  Status open_group();
  Status check_state(store::StateLog& log);
  void group_changed(const consensus::GroupView& view);
  void lead(Term term);
  void follow(const std::string& why);
  void import_alone();
  void note_recovery();
  Roster joined_now() const;
  io::Task<void> keep_roster(std::uint64_t epoch);
  [[nodiscard]] std::string own_note() const;
  [[nodiscard]] Status refuse_hello() const;
  void write_group_metrics(io::PrometheusWriter& writer) const;
  using Question = std::function<void(consensus::Replica::Done)>;
  io::Task<void> ask_group(Question question);

  void perform(core::ConductorEffects effects);
  void tick();
  void arm_timer();
  // In the log of the group, or else in the state log of this one alone. Goes on when the waiting is cancelled.
  io::Task<void> write_down(std::string entry, std::vector<store::Write> writes);
  // The number of the route update that tells of it.
  io::Task<std::uint64_t> make_durable(core::CatalogCommand command);
  io::Task<void> applied_everywhere(std::uint64_t update);
  void wake_update_waiters();
  io::Action carry_out(core::CatalogCommand command);
  io::Action carry_out(core::SetNodeUse command);
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
  // With a group: `leads_` says whether the conductor is live; otherwise it has the functions and does nothing. `epoch_`
  // grows with every conductor, so that whoever waits can tell that it is another one.
  std::unique_ptr<consensus::Replica> group_;
  ReplicatedCatalog replicated_;
  bool leads_ = true;
  std::uint64_t epoch_ = 0;
  Roster expected_;                 // those whom a new leader waits for
  // Of the control plane that was alone on this directory.
  std::vector<Function> imports_;
  std::vector<core::SetNodeUse> imported_nodes_;
  std::map<std::string, Instant> absent_since_;
  io::TaskGroup tasks_;
  io::WakeupTimer timer_;
  std::unique_ptr<rpc::ControlServer> cluster_;
  std::unique_ptr<io::HttpServer> admin_;
  std::unique_ptr<io::HttpServer> form_;
  std::map<FunctionName, std::vector<std::shared_ptr<asio::steady_timer>>> waiters_;
  std::set<std::shared_ptr<asio::steady_timer>> update_waiters_;
  std::set<std::shared_ptr<asio::steady_timer>> leader_waiters_;
  bool stopping_ = false;
};

}  // namespace dirigent::roles
