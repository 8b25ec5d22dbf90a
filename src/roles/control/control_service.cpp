// SPDX-License-Identifier: MIT
//
// The control role as the HTTP APIs see it: changes that wait for durability, and views.
#include <algorithm>

#include "control_role_impl.h"
#include "dirigent/base/fault_point.h"
#include "dirigent/base/text.h"
#include "dirigent/io/prometheus.h"
#include "dirigent/policy/explain.h"
#include "roles/link_metrics.h"

namespace dirigent::roles {

namespace {
constexpr Duration kClaimPatience = 10s;  // for another change of the same function to become durable

const char* status_word(const core::Node& node) {
  if (!node.session) return "silent";
  if (node.leaving) return "draining";
  switch (node.use) {
    case NodeUse::cordoned: return "cordoned";
    case NodeUse::drained: return node.sandboxes.empty() ? "drained" : "draining";
    case NodeUse::open: break;
  }
  return "ready";
}
}

io::Task<void> ControlRoleImpl::claim(FunctionName name) {
  const Instant deadline = io::Loop::now() + kClaimPatience;
  while (!conductor_->mutable_catalog().begin(name)) {
    Status status = co_await changed(name, deadline);
    if (!status && status.error().code == ErrorCode::timed_out) {
      co_return failure(ErrorCode::unavailable, "another change of function \"{}\" has not become durable within {}; try again", name,
                        format_duration(kClaimPatience));
    }
    if (!status) co_return status;
  }
  co_return Status{};
}

io::Task<Deployed> ControlRoleImpl::deploy(DeployRequest request) {
  if (stopping_) co_return failure(ErrorCode::unavailable, "the control plane is stopping");
  Status claimed = co_await claim(request.name);
  if (!claimed) co_return failure(claimed.error());
  auto plan = conductor_->catalog().plan_deploy(request.name, request.spec, request.create_only, request.verify, io::Loop::wall_now());
  if (!plan) {
    conductor_->mutable_catalog().abort(request.name);
    notify(request.name);
    co_return failure(plan.error());
  }
  Deployed deployed;
  deployed.revision = plan->revision;
  deployed.changed = plan->changed;
  deployed.event_sequence = conductor_->last_event();
  if (plan->changed) {
    auto update = co_await make_durable(plan->command);
    if (!update) co_return failure(update.error().within(fmt::format("cannot store function \"{}\"", request.name)));
    co_await applied_everywhere(*update);
    DIRIGENT_FAULT_POINT("control.before_answer");
  } else {
    conductor_->mutable_catalog().abort(request.name);
    notify(request.name);
  }
  deployed.function = std::get<core::PutFunction>(plan->command).function;
  co_return deployed;
}

io::Task<void> ControlRoleImpl::remove(FunctionName name) {
  Status claimed = co_await claim(name);
  if (!claimed) co_return claimed;
  auto command = conductor_->catalog().plan_remove(name);
  if (!command) {
    conductor_->mutable_catalog().abort(name);
    notify(name);
    co_return failure(command.error());
  }
  auto update = co_await make_durable(std::move(*command));
  if (!update) co_return failure(update.error());
  Status applied = co_await applied_everywhere(*update);
  DIRIGENT_FAULT_POINT("control.removed");
  co_return applied;
}

io::Task<void> ControlRoleImpl::set_scale(FunctionName name, std::optional<std::uint32_t> scale) {
  Status claimed = co_await claim(name);
  if (!claimed) co_return claimed;
  auto command = conductor_->catalog().plan_scale(name, scale);
  if (!command) {
    conductor_->mutable_catalog().abort(name);
    notify(name);
    co_return failure(command.error());
  }
  auto update = co_await make_durable(std::move(*command));
  if (!update) co_return failure(update.error());
  co_return co_await applied_everywhere(*update);
}

// --- views --------------------------------------------------------------------------------------------------------

std::vector<FunctionEvent> ControlRoleImpl::events_after(const FunctionName& name, std::uint64_t after) const {
  std::vector<FunctionEvent> events;
  const core::FunctionControl* control = conductor_->control(name);
  if (control == nullptr) return events;
  const Instant now = io::Loop::now();
  const WallTime wall = io::Loop::wall_now();
  events.reserve(control->events.size());
  for (FunctionEvent event : control->events) {
    if (event.sequence <= after) continue;
    events.push_back(std::move(event));
    events.back().at = wall - std::chrono::duration_cast<std::chrono::microseconds>(now - event.when);
  }
  return events;
}

FunctionView ControlRoleImpl::view_of(const Function& function) const {
  FunctionView view;
  view.function = function;
  const Instant now = io::Loop::now();
  std::size_t ready = 0;
  std::size_t starting = 0;
  for (const SandboxId id : conductor_->fleet().of(function.name)) {
    const core::Sandbox& sandbox = conductor_->fleet().sandboxes().at(id);
    SandboxView one;
    one.node = sandbox.node;
    one.status.id = id;
    one.status.function = sandbox.function;
    one.status.revision = sandbox.revision;
    one.status.state = sandbox.state;
    one.status.address = sandbox.address;
    one.status.phases = sandbox.phases;
    one.status.age = now - sandbox.placed_at;
    one.is_spare = sandbox.is_spare;
    view.sandboxes.push_back(std::move(one));
    if (sandbox.state == SandboxState::ready) ++ready;
    if (sandbox.state == SandboxState::placed || sandbox.state == SandboxState::starting) ++starting;
  }
  Reason unavailable = Reason::none;
  std::string detail;
  if (const core::FunctionControl* control = conductor_->control(function.name)) {
    view.wanted = control->wanted;
    view.waiting = control->waiting();
    view.in_flight = control->in_flight();
    view.requests_per_second = control->requests_per_second;
    view.last_scaling = control->last_scaling;
    view.last_placement = control->last_placement;
    view.last_failure = control->last_failure;
    unavailable = control->unavailable;
    detail = control->unavailable_detail;
  }
  view.events = events_after(function.name, 0);
  view.invocable = function.serving.has_value() && unavailable == Reason::none;
  if (unavailable != Reason::none) {
    view.invocable_reason = fmt::format("{}: {}", to_string(unavailable), detail);
  } else if (!function.serving) {
    view.invocable_reason = function.candidate ? "its first revision is being verified" : "no revision has become ready";
  } else if (ready > 0) {
    view.invocable_reason = fmt::format("{} of {} sandboxes ready", ready, std::max<std::size_t>(view.wanted, ready));
  } else if (starting > 0) {
    view.invocable_reason = fmt::format("{} sandboxes starting", starting);
  } else {
    view.invocable_reason = "scaled to zero, the next request starts a sandbox";
  }
  return view;
}

Result<FunctionView> ControlRoleImpl::describe(const FunctionName& name) {
  const Function* function = conductor_->catalog().find(name);
  if (function == nullptr) {
    auto unknown = conductor_->catalog().plan_remove(name);
    return failure(unknown.error());
  }
  return view_of(*function);
}

// The decisions keep their inputs; the alternatives are computed now, by the functions that decided.
Result<std::vector<std::string>> ControlRoleImpl::explain(const FunctionName& name) {
  auto view = describe(name);
  if (!view) return failure(view.error());
  const Function& function = view->function;
  const Revision* revision = function.serving ? function.find(*function.serving) : &function.revisions.back();
  const Instant now = io::Loop::now();
  std::vector<std::string> lines;
  if (function.manual_scale) {
    lines.push_back(fmt::format("why {} sandboxes: fixed by ctl scale; the autoscaler is not asked", *function.manual_scale));
  } else if (view->last_scaling && revision != nullptr) {
    for (auto& line : policy::describe(*view->last_scaling, revision->spec.scaling, revision->spec.concurrency_limit, now)) {
      lines.push_back(std::move(line));
    }
  } else {
    lines.push_back("no scaling decision yet: nothing has asked for a sandbox");
  }
  lines.emplace_back();
  if (view->last_placement && revision != nullptr) {
    // The nodes as they are now, without what the decision itself put there.
    std::vector<policy::NodeView> nodes;
    for (const auto& [id, node] : conductor_->fleet().nodes()) {
      nodes.push_back(core::Fleet::view_of(node));
      if (id == view->last_placement->node && revision->spec.resources.fits_in(nodes.back().reserved)) {
        nodes.back().reserved -= revision->spec.resources;
      }
    }
    const policy::PlacementRequest request{revision->spec.resources, revision->spec.image, revision->spec.constraints, {}};
    for (auto& line : policy::describe(*view->last_placement, request, nodes)) lines.push_back(std::move(line));
  } else {
    lines.push_back("no placement yet");
  }
  lines.emplace_back();
  if (view->last_failure) {
    const SandboxEnd& end = *view->last_failure;
    lines.push_back(fmt::format("last failure: {}", to_string(end.cause)));
    lines.push_back(fmt::format("  detail     {}", end.detail));
    if (!end.last_output.empty()) lines.push_back(fmt::format("  printed    {}", end.last_output));
  } else {
    lines.push_back("last failure: none");
  }
  if (!view->invocable) lines.push_back(fmt::format("not invocable now: {}", view->invocable_reason));
  return lines;
}

std::vector<FunctionName> ControlRoleImpl::names() {
  std::vector<FunctionName> all;
  for (const auto& [name, function] : conductor_->catalog().functions()) all.push_back(name);
  return all;
}

io::Task<std::vector<FunctionEvent>> ControlRoleImpl::events(FunctionName name, std::uint64_t after, Duration wait) {
  const Instant deadline = io::Loop::now() + wait;
  for (;;) {
    if (conductor_->catalog().find(name) == nullptr) {
      auto unknown = conductor_->catalog().plan_remove(name);
      if (!unknown) co_return failure(unknown.error());
    }
    auto found = events_after(name, after);
    if (!found.empty() || io::Loop::now() >= deadline || stopping_) co_return found;
    Status status = co_await changed(name, deadline);
    if (!status && status.error().code != ErrorCode::timed_out) co_return failure(status.error());
  }
}

io::Task<std::vector<ControlService::LogLine>> ControlRoleImpl::logs(FunctionName name, std::optional<SandboxId> only,
                                                                     std::uint32_t lines_max) {
  auto known = describe(name);
  if (!known) co_return failure(known.error());
  struct Source {
    SandboxId sandbox;
    NodeId node;
    SessionId session;
  };
  std::vector<Source> sources;
  for (const SandboxId id : conductor_->fleet().of(name)) {
    if (only && *only != id) continue;
    const core::Sandbox& sandbox = conductor_->fleet().sandboxes().at(id);
    const auto node = conductor_->fleet().nodes().find(sandbox.node);
    if (node != conductor_->fleet().nodes().end() && node->second.session) sources.push_back({id, sandbox.node, *node->second.session});
  }
  std::vector<LogLine> lines;
  for (const auto& source : sources) {
    rpc::LogQuery query{source.sandbox, lines_max};
    auto answer = co_await cluster_->logs(source.session, query, 2s);
    if (!answer) continue;  // the sandbox or its worker went away meanwhile: the others still have something to say
    for (auto& line : answer->lines) {
      lines.push_back({source.sandbox, source.node, WallTime(std::chrono::microseconds(line.time_us)), line.is_error_stream, std::move(line.text)});
    }
  }
  std::stable_sort(lines.begin(), lines.end(), [](const LogLine& a, const LogLine& b) { return a.time < b.time; });
  if (lines.size() > lines_max) lines.erase(lines.begin(), lines.end() - lines_max);
  co_return lines;
}

Instant ControlRoleImpl::last_heard(const core::Node& node) const {
  return node.session ? std::max(node.heard_at, cluster_->last_heard(*node.session)) : node.heard_at;
}

std::vector<NodeView> ControlRoleImpl::nodes() {
  std::vector<NodeView> views;
  const Instant now = io::Loop::now();
  for (const auto& [id, node] : conductor_->fleet().nodes()) {
    NodeView view;
    view.info = node.info;
    view.images = node.images;
    view.status = status_word(node);
    view.reserved = node.reserved;
    view.usage = node.usage;
    view.sandboxes = static_cast<std::uint32_t>(node.sandboxes.size());
    view.last_heard = now - last_heard(node);
    view.joined_for = now - node.joined_at;
    view.start_p50 = Duration(node.start_times.quantile(0.5));
    views.push_back(std::move(view));
  }
  return views;
}

io::Task<void> ControlRoleImpl::set_node_use(NodeId node, NodeUse use) {
  if (stopping_) co_return failure(ErrorCode::unavailable, "the control plane is stopping");
  if (conductor_->fleet().nodes().count(node) == 0 && conductor_->catalog().use_of(node) == NodeUse::open)
    co_return failure(ErrorCode::not_found, "node \"{}\" not found (list them: dirigent ctl nodes)", node);
  const std::uint64_t epoch = epoch_;
  const core::SetNodeUse command{node, use};
  std::string entry = ReplicatedCatalog::encode(command);
  std::vector<store::Write> writes = writes_of(command);
  Status written = co_await write_down(std::move(entry), std::move(writes));
  if (!written) co_return failure(written.error().within(fmt::format("cannot store what node \"{}\" is used for", node)));
  // Another conductor has read what was written.
  if (epoch != epoch_) co_return Status{};
  core::ConductorEffects effects;
  conductor_->commit(command, io::Loop::now(), effects);
  perform(std::move(effects));
  co_return Status{};
}

Result<std::vector<NodeId>> ControlRoleImpl::prefetch(const std::string& image, const std::optional<NodeId>& node) {
  core::ConductorEffects effects;
  auto asked = conductor_->prefetch(image, node, effects);
  perform(std::move(effects));
  return asked;
}

std::vector<DataPlaneView> ControlRoleImpl::data_planes() {
  std::vector<DataPlaneView> views;
  const Instant now = io::Loop::now();
  for (const auto& [session, plane] : conductor_->data_planes()) {
    if (!plane.leaving) views.push_back({plane.hello.id, plane.hello.invoke_address, now - std::max(plane.heard_at, cluster_->last_heard(session)), plane.hello.admin_address});
  }
  return views;
}

ClusterView ControlRoleImpl::cluster() {
  ClusterView view;
  view.version = options_.version;
  view.term = conductor_->options().term;
  view.leader = leads_;
  if (group_) view.term = group_->view().term;
  view.autoscaler = policy::to_string(options_.autoscaler);
  view.placement = policy::to_string(options_.placement);
  view.state = options_.state_directory.empty() ? "memory" : options_.state_directory;
  view.uptime = io::Loop::now() - started_at_;
  view.functions = conductor_->catalog().functions().size();
  view.sandboxes = conductor_->fleet().sandboxes().size();
  view.creations = conductor_->creations();
  view.failures = conductor_->failures();
  return view;
}

std::string ControlRoleImpl::metrics() {
  io::PrometheusWriter writer;
  const auto& fleet = conductor_->fleet();
  writer.gauge("dirigent_build_info", "Always 1; the version is a label.", 1, {{"version", options_.version}, {"role", "control"}});
  writer.gauge("dirigent_functions", "Functions registered.", static_cast<double>(conductor_->catalog().functions().size()));
  writer.gauge("dirigent_data_planes", "Data planes connected.", static_cast<double>(conductor_->data_planes().size()));
  std::array<std::size_t, kSandboxStates> by_state{};
  for (const auto& [id, sandbox] : fleet.sandboxes()) ++by_state[static_cast<std::size_t>(sandbox.state)];
  for (std::size_t state = 0; state + 1 < kSandboxStates; ++state) {
    writer.gauge("dirigent_sandboxes", "Sandboxes by state.", static_cast<double>(by_state[state]),
                 {{"state", to_string(static_cast<SandboxState>(state))}});
  }
  writer.counter("dirigent_cold_starts_total", "Sandbox starts by result.", static_cast<double>(conductor_->creations()), {{"result", "ready"}});
  writer.counter("dirigent_cold_starts_total", "Sandbox starts by result.", static_cast<double>(conductor_->failures()), {{"result", "failed"}});
  writer.gauge("dirigent_state_log_lag_records", "Records queued and not yet durable.", static_cast<double>(log_ ? log_->lag() : 0));
  const Instant now = io::Loop::now();
  static constexpr double kStartBounds[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10};
  write_link_metrics(writer, cluster_->counters(), "member");
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_cpu_capacity", "CPUs of the node.", static_cast<double>(node.info.capacity.cpu.value) / 1000, {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_cpu_reserved", "CPUs reserved by sandboxes.", static_cast<double>(node.reserved.cpu.value) / 1000, {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_cpu_used", "CPUs used, as the node last said.", static_cast<double>(node.usage.used.cpu.value) / 1000, {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_memory_capacity", "Bytes of memory of the node.", static_cast<double>(node.info.capacity.memory.value), {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_memory_reserved", "Bytes reserved by sandboxes.", static_cast<double>(node.reserved.memory.value), {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_memory_used", "Bytes used, as the node last said.", static_cast<double>(node.usage.used.memory.value), {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.gauge("dirigent_node_heartbeat_age_seconds", "Since the node was last heard.", to_seconds(now - last_heard(node)), {{"node", id.value}});
  }
  for (const auto& [id, node] : fleet.nodes()) {
    writer.histogram("dirigent_sandbox_create_seconds", "Placed to ready.", node.start_times, kStartBounds, {{"node", id.value}, {"runtime", node.info.runtime}, {"phase", "total"}});
  }
  // A series per function is what breaks a metrics store at this scale: only functions with anything to show, 1000 at most.
  std::vector<std::pair<const FunctionName*, const core::FunctionControl*>> shown;
  for (const auto& [name, function] : conductor_->catalog().functions()) {
    const auto* control = conductor_->control(name);
    if (control != nullptr && (control->wanted > 0 || control->waiting() > 0) && shown.size() < 1000) shown.emplace_back(&name, control);
  }
  for (const auto& [name, control] : shown) writer.gauge("dirigent_autoscaler_desired", "Sandboxes wanted.", control->wanted, {{"fn", name->value}});
  for (const auto& [name, control] : shown) {
    writer.gauge("dirigent_autoscaler_stable", "Average load over the stable window.", control->last_scaling ? control->last_scaling->stable_average : 0, {{"fn", name->value}});
  }
  for (const auto& [name, control] : shown) {
    writer.gauge("dirigent_autoscaler_panic", "Average load over the panic window.", control->last_scaling ? control->last_scaling->panic_average : 0, {{"fn", name->value}});
  }
  for (const auto& [name, control] : shown) {
    writer.gauge("dirigent_autoscaler_panic_mode", "1 while panicking.", control->last_scaling && control->last_scaling->panicking ? 1 : 0, {{"fn", name->value}});
  }
  for (const auto& [name, control] : shown) {
    writer.gauge("dirigent_autoscaler_target", "Load that one sandbox should have.", control->last_scaling ? control->last_scaling->target : 0, {{"fn", name->value}});
  }
  for (const auto& [name, control] : shown) {
    writer.gauge("dirigent_autoscaler_excess_burst", "Room for a burst beyond the load there is.", control->last_scaling ? control->last_scaling->excess_burst_capacity : 0, {{"fn", name->value}});
  }
  if (group_) write_group_metrics(writer);
  return writer.take();
}

}  // namespace dirigent::roles
