// SPDX-License-Identifier: MIT
#include "dirigent/roles/control_role.h"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>

#include "control_role_impl.h"
#include "dirigent/base/fault_point.h"
#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "form_api.h"
#include "function_json.h"
#include "group_api.h"
#include "http_api.h"

namespace dirigent::roles {

namespace {
constexpr Duration kApplyPatience = 1s;  // for data planes to confirm a route
constexpr std::string_view kFunctionPrefix = "function/";
constexpr std::string_view kNodePrefix = "node/";
constexpr std::string_view kTermKey = "meta/term";
}  // namespace

Result<std::unique_ptr<ControlRole>> ControlRole::start(io::Loop& loop, ControlRoleOptions options) {
  auto role = std::make_unique<ControlRoleImpl>(loop, std::move(options));
  if (auto status = role->open(); !status) {
    role->abandon();
    return failure(status.error());
  }
  return std::unique_ptr<ControlRole>(std::move(role));
}

ControlRoleImpl::ControlRoleImpl(io::Loop& loop, ControlRoleOptions options)
    : loop_(loop), options_(std::move(options)), started_at_(io::Loop::now()), tasks_(loop, "control"),
      timer_(loop, [this] { tick(); }) {}

ControlRoleImpl::~ControlRoleImpl() = default;

// --- start and stop -----------------------------------------------------------------------------------------------

Status ControlRoleImpl::open() {
  auto profile = scaling_profile(options_.form_profile);
  if (!profile) return failure(profile.error());
  profile_ = *profile;
  if (options_.form_sweep) {
    // A cold-start sweep calls each function once per cool-down: one sandbox, gone within seconds.
    profile_.scaling.max_scale = 1;
    profile_.scaling.stable_window = 6s;
    profile_.scaling.panic_window_percent = 33;
  }

  const bool is_alone = options_.peer_id == 0;
  if (is_alone) {
    if (auto opened = open_alone(); !opened) return opened;
  } else {
    leads_ = false;
    make_conductor(Term{}, {}, {});
  }
  rpc::ControlServerOptions server;
  server.listen = {options_.rpc_listen};
  server.term = conductor_->options().term;
  auto cluster = rpc::serve_control(loop_, server, *this);
  if (!cluster) return failure(cluster.error());
  cluster_ = std::move(*cluster);

  if (!options_.admin_listen.empty()) {
    io::HttpServerOptions http;
    http.listen = options_.admin_listen;
    auto served = io::serve_http(loop_, http, answer_anywhere(*this, Port::admin, make_api(*this)));
    if (!served) return failure(served.error());
    admin_ = std::move(*served);
  }
  if (!options_.form_listen.empty()) {
    io::HttpServerOptions http;
    http.listen = options_.form_listen;
    http.body_max = 10_MiB;
    FormApiOptions form;
    form.load_balancer_address = options_.load_balancer_address;
    form.image_map = options_.image_map;
    auto served = io::serve_http(loop_, http, answer_anywhere(*this, Port::form, make_form_api(*this, form)));
    if (!served) return failure(served.error());
    form_ = std::move(*served);
  }
  if (!is_alone) {
    if (auto opened = open_group(); !opened) return opened;
  }
  arm_timer();
  return {};
}

Status ControlRoleImpl::open_alone() {
  if (options_.state_directory.empty()) {
    log_ = store::forgetful_state_log();
  } else {
    auto log = store::open_state_log(options_.state_directory);
    if (!log) return failure(log.error());
    log_ = std::move(*log);
    auto of_group = log_->read_all("group/hard");
    if (!of_group) return failure(of_group.error());
    if (!of_group->empty()) {
      return failure(ErrorCode::invalid_argument, "the state directory {} belongs to a member of a group (start it with --peer-id and --peers, or choose another directory)",
                     options_.state_directory);
    }
  }
  auto functions = read_functions(*log_);
  if (!functions) return failure(functions.error());
  auto nodes = read_node_uses(*log_);
  if (!nodes) return failure(nodes.error());
  auto term = next_term();
  if (!term) return failure(term.error());
  log_->append({{std::string(kTermKey), fmt::format("{}", term->value)}}, [](Status status) {
    if (!status) log_error("control", "cannot store the term: {}", status.error().message);
  });
  if (!functions->empty()) log_info("control", "{} functions read from {}", functions->size(), options_.state_directory);
  make_conductor(*term, std::move(*functions), *nodes);
  return {};
}

void ControlRoleImpl::make_conductor(Term term, std::vector<Function> functions, const std::vector<core::SetNodeUse>& nodes) {
  core::ConductorOptions conductor;
  conductor.term = term;
  conductor.seed = entropy_seed();
  conductor.autoscaler = options_.autoscaler;
  conductor.placement = options_.placement;
  conductor_ = std::make_unique<core::Conductor>(conductor);
  conductor_->restore(std::move(functions), io::Loop::now());
  conductor_->restore(nodes);
  ++epoch_;
}

Result<std::vector<Function>> ControlRoleImpl::read_functions(store::StateLog& log) const {
  auto records = log.read_all(std::string(kFunctionPrefix));
  if (!records) return failure(records.error());
  std::vector<Function> functions;
  for (const auto& [key, value] : *records) {
    auto function = decode_function(value);
    if (!function) return failure(function.error().within(fmt::format("state log {}, record {}", options_.state_directory, key)));
    functions.push_back(std::move(*function));
  }
  return functions;
}

Result<std::vector<core::SetNodeUse>> ControlRoleImpl::read_node_uses(store::StateLog& log) const {
  auto records = log.read_all(std::string(kNodePrefix));
  if (!records) return failure(records.error());
  std::vector<core::SetNodeUse> nodes;
  for (const auto& [key, value] : *records) {
    auto use = parse_node_use(value);
    if (!use) return failure(use.error().within(fmt::format("state log {}, record {}", options_.state_directory, key)));
    nodes.push_back({NodeId{key.substr(kNodePrefix.size())}, *use});
  }
  return nodes;
}

Result<Term> ControlRoleImpl::stored_term() {
  auto records = log_->read_all(std::string(kTermKey));
  if (!records) return failure(records.error());
  return Term{records->empty() ? 0 : std::strtoull(records->front().second.c_str(), nullptr, 10)};
}

// Terms only grow: over restarts through the log, and without one through the clock (milliseconds since 1970).
Result<Term> ControlRoleImpl::next_term() {
  auto stored = stored_term();
  if (!stored) return failure(stored.error());
  const auto by_clock = static_cast<std::uint64_t>(io::Loop::wall_now().time_since_epoch().count() / 1000);
  return Term{std::max<std::uint64_t>(by_clock, stored->value + 1)};
}

io::Action ControlRoleImpl::close_ports() {
  if (form_) co_await form_->close(Duration::zero());
  if (admin_) co_await admin_->close(Duration::zero());
}

void ControlRoleImpl::abandon() {
  stopping_ = true;
  if (group_) group_->close();
  if (cluster_) cluster_->close();
  io::TaskGroup closing(loop_, "control");
  closing.spawn(close_ports());
  // The caller is a handler of the loop: turns inside it, until the listeners are gone.
  while (!closing.empty()) loop_.context().poll();
  tasks_.drain_now();
}

io::Action ControlRoleImpl::stop(Duration drain) {
  // Somebody else leads before this one stops listening: whoever is sent away has somewhere to go.
  if (group_ && leads_) {
    auto handed = co_await hand_over();
    if (!handed) log_warn("control", "stopping without a successor: {}", handed.error().message);
  }
  stopping_ = true;
  notify_all();
  if (form_) co_await form_->close(drain);
  if (admin_) co_await admin_->close(drain);
  cluster_->close();
  if (group_) group_->close();
  timer_.arm(std::nullopt);
  tasks_.cancel();
  co_await tasks_.wait();
  group_.reset();
  log_.reset();
}

std::string ControlRoleImpl::rpc_address() const { return cluster_->address().text; }
std::string ControlRoleImpl::form_address() const { return form_ ? form_->address() : std::string(); }
std::string ControlRoleImpl::admin_address() const { return admin_ ? admin_->address() : std::string(); }
std::string ControlRoleImpl::peer_address() const { return group_ ? group_->address() : std::string(); }

// --- effects ------------------------------------------------------------------------------------------------------

void ControlRoleImpl::perform(core::ConductorEffects effects) {
  if (!leads_) return;
#if DIRIGENT_HAS_FAULT_POINTS
  const bool starts_some = std::any_of(effects.worker_orders.begin(), effects.worker_orders.end(),
                                       [](const auto& one) { return std::holds_alternative<StartSandbox>(one.second); });
  // The bytes leave in the turns after this one.
  if (starts_some) loop_.post([&loop = loop_] { loop.post([] { DIRIGENT_FAULT_POINT("control.order_sent"); }); });
#endif
  for (auto& [session, order] : effects.worker_orders) cluster_->send(session, std::move(order));
  for (auto& [session, order] : effects.data_plane_orders) cluster_->send(session, std::move(order));
  for (auto& [session, why] : effects.disconnects) cluster_->disconnect(session, std::move(why));
  for (auto& command : effects.proposals) tasks_.spawn(carry_out(std::move(command)));
  for (const auto& name : effects.changed) notify(name);
  arm_timer();
}

void ControlRoleImpl::tick() {
  if (!leads_) return;
  core::ConductorEffects effects;
  conductor_->tick(io::Loop::now(), effects);
  perform(std::move(effects));
}

void ControlRoleImpl::arm_timer() { timer_.arm(leads_ ? conductor_->next_wakeup() : std::nullopt); }

std::vector<store::Write> ControlRoleImpl::writes_of(const core::CatalogCommand& command) const {
  const std::string key = std::string(kFunctionPrefix) + core::function_of(command).value;
  if (const auto* put = std::get_if<core::PutFunction>(&command)) return {{key, encode_function(put->function)}};
  return {{key, std::nullopt}};
}

std::vector<store::Write> ControlRoleImpl::writes_of(const core::SetNodeUse& command) const {
  const std::string key = std::string(kNodePrefix) + command.node.value;
  if (command.use == NodeUse::open) return {{key, std::nullopt}};
  return {{key, std::string(to_string(command.use))}};
}

io::Task<void> ControlRoleImpl::write_down(std::string entry, std::vector<store::Write> writes) {
  struct Written {
    explicit Written(io::Loop& loop) : arrived(loop.context()) { arrived.expires_at(std::chrono::steady_clock::time_point::max()); }
    std::optional<Status> status;
    asio::steady_timer arrived;
  };
  auto written = std::make_shared<Written>(loop_);
  if (group_) {
    group_->propose(std::move(entry), [written](Result<consensus::Index> index) {
      written->status = index ? Status{} : failure(index.error());
      written->arrived.cancel();
    });
  } else {
    log_->append(std::move(writes), [written, &loop = loop_](Status status) {
      loop.post([written, status = std::move(status)]() mutable {
        written->status = std::move(status);
        written->arrived.cancel();
      });
    });
  }
  DIRIGENT_FAULT_POINT("control.proposed");
  // Not cancellable: the write happens whether we wait or not, and what is in memory has to follow it.
  constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
  auto unbound = asio::bind_cancellation_slot(asio::cancellation_slot(), use_task);
  while (!written->status) {
    std::error_code error;
    co_await written->arrived.async_wait(asio::redirect_error(unbound, error));
  }
  co_return std::move(*written->status);
}

// Durable first, then applied. The command has been claimed in the catalog.
io::Task<std::uint64_t> ControlRoleImpl::make_durable(core::CatalogCommand command) {
  const std::uint64_t epoch = epoch_;
  std::string entry = ReplicatedCatalog::encode(command);
  std::vector<store::Write> writes = writes_of(command);
  Status status = co_await write_down(std::move(entry), std::move(writes));
  core::ConductorEffects effects;
  if (status) DIRIGENT_FAULT_POINT("control.committed");
  if (epoch != epoch_) {
    // Another conductor has taken over meanwhile, with all that was committed. There is nothing to tell it.
    if (!status) co_return failure(status.error());
    co_return 0;
  }
  if (status) {
    conductor_->commit(command, io::Loop::now(), effects);
  } else {
    conductor_->abort(command, io::Loop::now(), effects);
  }
  const std::uint64_t update = conductor_->last_update();
  notify(core::function_of(command));
  perform(std::move(effects));
  if (!status) co_return failure(status.error());
  co_return update;
}

io::Action ControlRoleImpl::carry_out(core::CatalogCommand command) {
  const FunctionName name = core::function_of(command);
  auto update = co_await make_durable(std::move(command));
  if (!update) log_error("control", "cannot write function {}: {}", name, update.error().message);
}

io::Action ControlRoleImpl::carry_out(core::SetNodeUse command) {
  auto set = co_await set_node_use(command.node, command.use);
  if (!set) log_error("control", "cannot write what node {} is used for: {}", command.node, set.error().message);
}

// A client that has been told of a change meets it on whatever data plane it asks next. One that hangs is not waited for.
io::Task<void> ControlRoleImpl::applied_everywhere(std::uint64_t update) {
  auto timer = std::make_shared<asio::steady_timer>(loop_.context());
  const Instant deadline = io::Loop::now() + kApplyPatience;
  constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
  update_waiters_.insert(timer);
  while (!conductor_->is_applied(update) && !stopping_ && io::Loop::now() < deadline) {
    timer->expires_at(std::chrono::steady_clock::time_point(deadline.time_since_epoch()));
    std::error_code error;
    co_await timer->async_wait(asio::redirect_error(use_task, error));
  }
  update_waiters_.erase(timer);
  if (!conductor_->is_applied(update) && !stopping_) {
    log_warn("control", "not every data plane has confirmed its routes within {}", format_duration(kApplyPatience));
  }
  co_return Status{};
}

// --- waiting for changes ------------------------------------------------------------------------------------------

void ControlRoleImpl::notify(const FunctionName& name) {
  const auto waiting = waiters_.find(name);
  if (waiting == waiters_.end()) return;
  for (const auto& timer : waiting->second) timer->cancel();
}

void ControlRoleImpl::wake_update_waiters() {
  for (const auto& timer : update_waiters_) timer->cancel();
}

void ControlRoleImpl::notify_all() {
  wake_update_waiters();
  for (const auto& timer : leader_waiters_) timer->cancel();
  for (const auto& [name, timers] : waiters_) {
    for (const auto& timer : timers) timer->cancel();
  }
}

io::Task<void> ControlRoleImpl::changed(FunctionName name, Instant deadline) {
  const std::uint64_t epoch = epoch_;
  auto timer = std::make_shared<asio::steady_timer>(loop_.context());
  timer->expires_at(std::chrono::steady_clock::time_point(deadline.time_since_epoch()));
  waiters_[name].push_back(timer);
  constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
  std::error_code error;
  co_await timer->async_wait(asio::redirect_error(use_task, error));
  auto& timers = waiters_[name];
  std::erase(timers, timer);
  if (timers.empty()) waiters_.erase(name);
  if (epoch != epoch_) co_return failure(ErrorCode::unavailable, "the leadership has moved to another control plane (ask again)");
  if (!error) co_return failure(ErrorCode::timed_out, "nothing happened to function \"{}\" in time", name);
  if (stopping_) co_return failure(ErrorCode::cancelled, "the control plane is stopping");
  co_return Status{};
}

// --- the cluster --------------------------------------------------------------------------------------------------

Status ControlRoleImpl::worker_joined(SessionId session, WorkerHello hello) {
  if (!leads_) return refuse_hello();
  core::ConductorEffects effects;
  const std::string name = hello.node.id.value;
  const std::size_t sandboxes = hello.sandboxes.size();
  if (conductor_->recovering(io::Loop::now())) DIRIGENT_FAULT_POINT("control.recovering");
  Status status = conductor_->worker_joined(session, hello, io::Loop::now(), effects);
  if (status) log_info("control", "worker {} joined from {} with {} sandboxes", name, hello.node.host, sandboxes);
  perform(std::move(effects));
  if (status) note_recovery();
  return status;
}

void ControlRoleImpl::worker_said(SessionId session, std::vector<WorkerMessage> messages) {
  if (!leads_) return;
  core::ConductorEffects effects;
  const Instant now = io::Loop::now();
  for (const auto& message : messages) {
    const auto* changed = std::get_if<SandboxChanged>(&message);
    if (changed != nullptr && changed->status.state == SandboxState::ready) DIRIGENT_FAULT_POINT("control.before_record");
    conductor_->worker_said(session, message, now, effects);
  }
  perform(std::move(effects));
}

void ControlRoleImpl::worker_lost(SessionId session, std::string why) {
  if (!leads_) return;
  const core::Node* node = conductor_->node_of(session);
  if (node != nullptr && node->leaving) {
    log_info("control", "worker {} has left", node->info.id);
  } else if (node != nullptr) {
    log_warn("control", "the connection of worker {} is lost: {}", node->info.id, why);
  }
  core::ConductorEffects effects;
  conductor_->worker_lost(session, io::Loop::now(), effects);
  perform(std::move(effects));
}

Status ControlRoleImpl::data_plane_joined(SessionId session, DataPlaneHello hello) {
  if (!leads_) return refuse_hello();
  core::ConductorEffects effects;
  Status status = conductor_->data_plane_joined(session, hello, io::Loop::now(), effects);
  if (status) log_info("control", "data plane {} joined, invoke at {}", hello.id, hello.invoke_address);
  perform(std::move(effects));
  if (status) note_recovery();
  return status;
}

void ControlRoleImpl::data_plane_said(SessionId session, std::vector<DataPlaneMessage> messages) {
  if (!leads_) return;
  core::ConductorEffects effects;
  const Instant now = io::Loop::now();
  bool has_applied = false;
  for (const auto& message : messages) {
    conductor_->data_plane_said(session, message, now, effects);
    has_applied |= std::holds_alternative<RoutesApplied>(message);
  }
  perform(std::move(effects));
  if (has_applied) wake_update_waiters();
}

void ControlRoleImpl::data_plane_lost(SessionId session, std::string why) {
  if (!leads_) return;
  const auto plane = conductor_->data_planes().find(session);
  if (plane != conductor_->data_planes().end() && plane->second.leaving) {
    log_info("control", "data plane {} has left", plane->second.hello.id);
  } else if (plane != conductor_->data_planes().end()) {
    log_warn("control", "the connection of data plane {} is lost: {}", plane->second.hello.id, why);
  }
  core::ConductorEffects effects;
  conductor_->data_plane_lost(session, io::Loop::now(), effects);
  perform(std::move(effects));
  wake_update_waiters();
}

}  // namespace dirigent::roles
