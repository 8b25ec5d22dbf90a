// SPDX-License-Identifier: MIT
//
// The simulated cluster: one control plane or a group of them, data planes and workers as processes that can die, links between them, and
// sandboxes with requests in them. Each process drives the production cores exactly as its role does.
//
//   cluster.cpp      the loop, arrivals, and what becomes of requests     network.cpp   links and connections
//   control.cpp      the conductor's process                              faults.cpp    what goes wrong, and when
//   group.cpp        several of them, with one log                        checks.cpp    what has to hold
//   data_planes.cpp  switchboards and dispatchers                         workers.cpp   keepers and their sandboxes
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <variant>

#include "consensus/simulated_group.h"
#include "dirigent/core/conductor.h"
#include "dirigent/core/dispatcher.h"
#include "dirigent/core/keeper.h"
#include "dirigent/core/switchboard.h"
#include "dirigent/sim/simulator.h"
#include "sim/event_queue.h"
#include "sim/measure.h"

namespace dirigent::sim {

class Cluster {
 public:
  Cluster(const SimOptions& options, const Workload& workload);
  Outcome run();

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  // --- the network: one link for each worker, then one for each data plane
  struct Joined { Term term; };
  using UpMessage = std::variant<WorkerHello, DataPlaneHello, WorkerMessage, DataPlaneMessage>;
  using DownMessage = std::variant<Joined, WorkerOrder, DataPlaneOrder>;
  struct Connection {
    std::uint32_t link = 0;
    std::uint32_t control = 0;    // its other end
    bool client_open = true;
    bool server_open = false;
    bool is_cut = false;          // passes nothing any more, though the ends may not know it yet
    SessionId session{};
    std::deque<UpMessage> up;
    std::deque<DownMessage> down;
    Instant last_up{};            // when the last message on the way will be there
    Instant last_down{};
  };
  struct Link {
    std::uint32_t life = 0;       // of the client's process
    bool is_alive = true;         // the client's process
    std::uint32_t connection = kNone;
    std::uint32_t tries = 0;
    Instant blocked_until{};
    Instant slow_until{};
    Duration slowness{};
  };
  // --- control planes: one, or one per member of the group (member m is the one at m - 1)
  struct Control {
    bool is_alive = true;
    std::uint32_t life = 0;                     // of the conductor
    std::unique_ptr<core::Conductor> conductor;  // none while the process is down, and while it does not lead
    std::optional<Instant> armed;
    std::deque<core::CatalogCommand> writing;   // without a group
    std::map<std::uint64_t, core::CatalogCommand> proposed;  // by this conductor, not acknowledged yet
  };
  // --- data planes
  struct ShardApply { std::uint32_t shard; std::shared_ptr<const core::RouteTableChange> change; };
  struct ShardApplied { std::uint32_t shard; std::uint64_t number; };
  struct SlotsFreed {};
  struct ToControl { DataPlaneMessage message; };
  using Mail = std::variant<core::ShardMessage, ShardApply, ShardApplied, SlotsFreed, ToControl>;
  struct Mailbox {                // of a loop: the shards', then the main one's
    std::deque<Mail> mails;
    Instant last{};
  };
  struct Shard {
    std::unique_ptr<core::Dispatcher> dispatcher;
    std::optional<Instant> armed;
    std::unordered_map<std::string, std::pair<Term, RouteVersion>> versions;  // applied; for the checks
  };
  struct Plane {
    bool is_alive = false;
    std::uint32_t life = 0;
    std::unique_ptr<core::Switchboard> switchboard;
    std::vector<Shard> shards;
    std::vector<Mailbox> mailboxes;
    Term term;                          // of the last update
    std::vector<std::uint32_t> requests;  // unanswered
    std::vector<std::uint32_t> parked;  // by function
  };
  // --- workers
  struct Worker {
    bool is_alive = false;
    std::uint32_t life = 0;
    std::unique_ptr<core::Keeper> keeper;
    std::optional<Instant> armed;
    Term term;                          // the highest one of an order
    Instant slow_until{};
  };
  struct SimSandbox {
    std::uint32_t worker = 0;
    std::uint32_t function = 0;
    std::uint32_t limit = 0;
    Instant started{};
    Instant busy_since{};
    Duration busy{};
    bool is_exceeding = false;    // of its limit, with the control plane unable to know it
    std::vector<std::uint32_t> requests;
  };
  enum class RequestState : std::uint8_t { unused, parked, connecting, running, breaking };
  struct Request {
    Instant arrived{};
    Duration run_time{};
    std::uint32_t function = 0;
    std::uint32_t generation = 0;
    std::uint32_t plane = 0;
    std::uint32_t shard = 0;
    std::uint32_t place_in_plane = 0;
    std::uint32_t place_in_sandbox = 0;
    RequestState state = RequestState::unused;
    SandboxId sandbox{};
    core::Lease lease;
  };

  // cluster.cpp
  void handle(const Event& event);
  void arrive(const Arrival& arrival);
  void admit(std::uint32_t index, const core::Admission& admission);
  void forward(std::uint32_t index, const core::Lease& lease);
  void finish(std::uint32_t index);
  void retry(std::uint32_t index);
  void break_off(std::uint32_t index);
  void answer(std::uint32_t index, std::string_view reason);  // "" = a response
  void leave_sandbox(std::uint32_t index);
  void set_state(Request& request, RequestState state);
  std::uint64_t ticket(std::uint32_t index) const { return (std::uint64_t{requests_[index].generation} << 32) | index; }
  std::optional<std::uint32_t> find_request(std::uint64_t ticket) const;
  void add(Duration delay, EventKind kind, std::uint32_t a = 0, std::uint64_t b = 0, std::uint32_t life = 0) {
    events_.add(now_ + delay, kind, a, b, life);
  }

  // network.cpp
  [[nodiscard]] static DataPlaneId plane_id(std::uint32_t plane) { return DataPlaneId{fmt::format("plane-{}", plane)}; }
  [[nodiscard]] bool is_worker(std::uint32_t link) const { return link < options_.nodes; }
  Duration delay_of(const Link& link);
  void connect(std::uint32_t link, std::uint32_t life);
  void connect_later(std::uint32_t link);
  void send_up(std::uint32_t link, UpMessage message);
  void send_down(SessionId session, DownMessage message);
  void deliver_up(std::uint32_t connection);
  void deliver_down(std::uint32_t connection);
  void client_lost(std::uint32_t connection);
  void server_lost(std::uint32_t connection);
  void client_died(std::uint32_t link);
  void cut(std::uint32_t link, Duration client_notices, Duration server_notices);
  void heartbeat(std::uint32_t link, std::uint32_t life);

  // control.cpp
  void start_control();
  void stop_control(std::uint32_t control);  // also of a member that has lost the leadership: its process goes on
  void make_conductor(std::uint32_t control, Term term, std::vector<Function> functions);
  void deploy_all();
  void hear(std::uint32_t connection, UpMessage message);
  void lose(std::uint32_t connection);
  void tick_control(std::uint32_t control, Instant armed);
  void make_durable();
  void perform(std::uint32_t control, core::ConductorEffects& effects);

  // group.cpp
  [[nodiscard]] bool has_group() const { return group_ != nullptr; }
  void form_group();
  void settle_leadership(std::uint32_t control);
  void lead(std::uint32_t control, Term term);
  void acknowledged(std::uint32_t control, std::uint64_t proposal);
  void propose(std::uint32_t control, core::CatalogCommand command);
  [[nodiscard]] std::map<FunctionName, Function> functions_of_log(std::uint32_t control) const;
  std::optional<std::uint32_t> choose_control();
  [[nodiscard]] std::optional<std::uint32_t> acting() const;  // the control plane whose orders count: the highest term
  [[nodiscard]] core::Conductor* conductor() const { return acting() ? controls_[*acting()].conductor.get() : nullptr; }
  [[nodiscard]] Instant paused_until(std::uint32_t control) const;
  void group_fault();
  void crash_control(std::uint32_t control, bool connections_close);

  // data_planes.cpp
  void start_plane(std::uint32_t plane);
  void stop_plane(std::uint32_t plane);
  void apply(std::uint32_t plane, RouteUpdate update);
  void tick_plane(std::uint32_t plane, std::uint32_t shard, Instant armed);
  void open_mail(std::uint32_t plane, std::uint32_t box);
  void post(std::uint32_t plane, std::uint32_t box, Mail mail);
  void apply_to_shard(std::uint32_t plane, const ShardApply& apply);
  void perform(std::uint32_t plane, core::SwitchboardEffects& effects);
  void perform(std::uint32_t plane, std::uint32_t shard, core::DispatcherEffects& effects);
  core::DispatcherEffects& effects_of_shard() { shard_effects_.clear(); return shard_effects_; }

  // workers.cpp
  void start_worker(std::uint32_t worker);
  void stop_worker(std::uint32_t worker);
  WorkerHello hello_of(std::uint32_t worker);
  void order(std::uint32_t worker, const WorkerOrder& order);
  void tick_worker(std::uint32_t worker, Instant armed);
  void launched(std::uint32_t worker, SandboxId id, bool has_failed);
  void probed(std::uint32_t worker, SandboxId id);
  void removed(std::uint32_t worker, SandboxId id);
  void crashed(std::uint32_t worker, SandboxId id);
  void end_sandbox(SandboxId id);
  void perform(std::uint32_t worker, core::KeeperEffects& effects);

  // faults.cpp
  void plan_fault();
  void inject_fault();
  void change_function();
  void calm_down();
  std::optional<SandboxId> any_sandbox();

  // checks.cpp
  void violate(std::string what);
  void check_step();
  void check_sandbox(SimSandbox& sandbox, SandboxId id);
  void check_routes(std::uint32_t plane, std::uint32_t shard, const core::RouteTableChange& change);
  [[nodiscard]] std::string describe(const FunctionName& name, SandboxId id) const;
  void check_quiet();  // nothing is left of a cluster without load
  [[nodiscard]] bool is_healed(Instant arrived) const;

  const SimOptions& options_;
  const Workload& workload_;
  Rng rng_;
  Instant now_{};
  EventQueue events_;
  Measure measure_;
  std::string violation_;
  std::uint64_t handled_ = 0;

  std::vector<Link> links_;
  std::vector<Connection> connections_;
  std::unordered_map<SessionId, std::uint32_t> sessions_;  // to connections
  std::uint64_t next_session_ = 0;

  std::vector<Control> controls_;
  Term term_{};
  std::map<FunctionName, Function> durable_;
  std::unique_ptr<consensus::SimulatedGroup> group_;      // none: one control plane with a log of its own
  std::map<std::uint64_t, core::CatalogCommand> commands_;  // all that was ever proposed
  std::set<std::uint64_t> acknowledged_;                    // what a client has been told of

  std::vector<Plane> planes_;
  std::vector<Worker> workers_;
  std::vector<std::uint32_t> planes_alive_;
  std::unordered_map<SandboxId, SimSandbox> sandboxes_;
  std::unordered_map<FunctionName, std::uint32_t> function_numbers_;

  std::vector<Request> requests_;
  std::vector<std::uint32_t> unused_;
  std::size_t next_arrival_ = 0;
  std::size_t unanswered_ = 0;
  core::DispatcherEffects shard_effects_;

  Instant begin_{};                // of the workload
  Instant faults_until_{};
};

}  // namespace dirigent::sim
