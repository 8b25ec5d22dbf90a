// SPDX-License-Identifier: MIT
//
// Both directions of a struct stand together, so that a field forgotten in one is seen in the other.
#include "rpc/convert.h"

#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include "dirigent/base/assert.h"
#include "rpc/kj_loop.h"

namespace dirigent::rpc {

namespace {

constexpr std::size_t kIdBytesMax = 256;

// --- the small pieces ---------------------------------------------------------------------------------------------

// Collects the first fault of what is being read; after it, values are read on but nobody will see them.
class Faults {
 public:
  void add(std::string_view field, std::string_view what) {
    if (!error_) error_ = Error{ErrorCode::corrupt, fmt::format("{} {}", field, what)};
  }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  Duration duration(std::int64_t ns, std::string_view field) {
    if (ns < 0) add(field, fmt::format("is {}, it must not be negative", ns));
    return Duration(ns);
  }
  std::int64_t amount(std::int64_t value, std::string_view field) {
    if (value < 0) add(field, fmt::format("is {}, it must not be negative", value));
    return value;
  }
  double finite(double value, std::string_view field) {
    if (!std::isfinite(value)) add(field, fmt::format("is {}, it must be a finite number", value));
    return value;
  }
  std::string id(capnp::Text::Reader text, std::string_view field) {
    if (text.size() == 0 || text.size() > kIdBytesMax) add(field, fmt::format("has {} bytes, it must have 1 to {}", text.size(), kIdBytesMax));
    return std::string(text.begin(), text.end());
  }
  template <class Model, class Wire, std::size_t N>
  Model word(const std::array<Model, N>& words, Wire value, std::string_view field) {
    const auto ordinal = static_cast<std::size_t>(value);
    if (ordinal < N) return words[ordinal];
    add(field, fmt::format("is {}, the largest known value is {} (is the peer newer?)", ordinal, N - 1));
    return words[0];
  }

 private:
  std::optional<Error> error_;
};

capnp::Text::Reader text(const std::string& value) { return capnp::Text::Reader(value.c_str(), value.size()); }
std::string text(capnp::Text::Reader value) { return std::string(value.begin(), value.end()); }

// One list per enumeration, in the order of the schema's enumerants, used both ways.
constexpr std::array kSandboxStateWords{SandboxState::placed,   SandboxState::starting, SandboxState::ready,
                                        SandboxState::draining, SandboxState::stopping, SandboxState::gone};
constexpr std::array kEndCauseWords{EndCause::none,          EndCause::requested, EndCause::start_failed,  EndCause::start_timeout, EndCause::exited,
                                    EndCause::out_of_memory, EndCause::node_lost, EndCause::image_missing, EndCause::no_capacity};
constexpr std::array kHttpProtocolWords{HttpProtocol::http1, HttpProtocol::h2c};
constexpr std::array kScalingMetricWords{ScalingMetric::concurrency, ScalingMetric::rps};
constexpr std::array kAggregationWords{Aggregation::linear, Aggregation::weighted_exponential};
constexpr std::array kReactionWords{Reaction::from_zero, Reaction::every_queue};
constexpr std::array kReasonWords{
    Reason::none,         Reason::bad_request,   Reason::not_found,       Reason::tag_not_found,
    Reason::unauthorized, Reason::forbidden,     Reason::rate_limited,    Reason::max_inflight,
    Reason::queue_full,   Reason::queue_timeout, Reason::no_capacity,     Reason::no_node,
    Reason::image_pull,   Reason::start_timeout, Reason::start_failed,    Reason::probe_failed,
    Reason::paused,       Reason::draining,      Reason::store_unavailable, Reason::body_too_large,
    Reason::request_timeout, Reason::response_start_timeout, Reason::idle_timeout, Reason::max_duration,
    Reason::sandbox_lost, Reason::sandbox_reset, Reason::bad_response,    Reason::client_gone,
    Reason::internal, Reason::overloaded};
// Every list is as long as its schema enumeration; the model's side is checked by the tests' round trips.
static_assert(kReasonWords.size() == static_cast<std::size_t>(schema::Reason::OVERLOADED) + 1);
static_assert(kEndCauseWords.size() == static_cast<std::size_t>(schema::EndCause::NO_CAPACITY) + 1);
static_assert(kSandboxStateWords.size() == static_cast<std::size_t>(schema::SandboxState::GONE) + 1);
static_assert(kSandboxStateWords.size() == kSandboxStates);

template <class Wire, class Model, std::size_t N>
Wire ordinal(const std::array<Model, N>& words, Model value) {
  for (std::size_t i = 0; i < N; ++i) {
    if (words[i] == value) return static_cast<Wire>(i);
  }
  ASSERT(false, "a value of the model has no word in the schema: {}", static_cast<int>(value));
}

void write(schema::SandboxStatus::Builder to, const SandboxStatus& from);
void write(schema::RoutedSandbox::Builder to, const RoutedSandbox& from);
void write(schema::FunctionRoute::Builder to, const FunctionRoute& from);

template <class ListBuilder, class Values>
void write_list(ListBuilder to, const Values& values) {
  unsigned at = 0;
  for (const auto& value : values) write(to[at++], value);
}
unsigned count(std::size_t size) { return static_cast<unsigned>(size); }

using Pairs = std::map<std::string, std::string>;
void write_pairs(capnp::List<schema::Pair>::Builder to, const Pairs& pairs) {
  unsigned at = 0;
  for (const auto& [name, value] : pairs) {
    auto pair = to[at++];
    pair.setName(text(name));
    pair.setValue(text(value));
  }
}
Pairs read_pairs(Faults& faults, capnp::List<schema::Pair>::Reader from, std::string_view field) {
  Pairs pairs;
  for (auto pair : from) {
    if (!pairs.emplace(text(pair.getName()), text(pair.getValue())).second) faults.add(field, fmt::format("has the name \"{}\" twice", text(pair.getName())));
  }
  return pairs;
}

void write_texts(capnp::List<capnp::Text>::Builder to, const std::vector<std::string>& texts) {
  for (std::size_t i = 0; i < texts.size(); ++i) to.set(count(i), text(texts[i]));
}
std::vector<std::string> read_texts(capnp::List<capnp::Text>::Reader from) {
  std::vector<std::string> texts;
  texts.reserve(from.size());
  for (auto one : from) texts.push_back(text(one));
  return texts;
}

// --- nodes and sandboxes ------------------------------------------------------------------------------------------

void write(schema::Resources::Builder to, const Resources& from) {
  to.setCpuMilli(from.cpu.value);
  to.setMemoryBytes(from.memory.value);
}
Resources read(Faults& faults, schema::Resources::Reader from) {
  return {Millicpu{faults.amount(from.getCpuMilli(), "Resources.cpuMilli")}, Bytes{faults.amount(from.getMemoryBytes(), "Resources.memoryBytes")}};
}

void write(schema::NodeInfo::Builder to, const NodeInfo& from) {
  to.setId(text(from.id.value));
  to.setHost(text(from.host));
  to.setHostId(text(from.host_id));
  write(to.initCapacity(), from.capacity);
  to.setSandboxesMax(from.sandboxes_max);
  to.setStartsMax(from.starts_max);
  to.setRuntime(text(from.runtime));
  to.setVersion(text(from.version));
  write_pairs(to.initLabels(count(from.labels.size())), from.labels);
}
NodeInfo read(Faults& faults, schema::NodeInfo::Reader from) {
  NodeInfo to;
  to.id.value = faults.id(from.getId(), "NodeInfo.id");
  to.host = text(from.getHost());
  to.host_id = text(from.getHostId());
  to.capacity = read(faults, from.getCapacity());
  to.sandboxes_max = from.getSandboxesMax();
  to.starts_max = from.getStartsMax();
  to.runtime = text(from.getRuntime());
  to.version = text(from.getVersion());
  to.labels = read_pairs(faults, from.getLabels(), "NodeInfo.labels");
  return to;
}

void write(schema::NodeUsage::Builder to, const NodeUsage& from) {
  write(to.initUsed(), from.used);
  to.setSandboxes(from.sandboxes);
}
NodeUsage read(Faults& faults, schema::NodeUsage::Reader from) { return {read(faults, from.getUsed()), from.getSandboxes()}; }

void write(schema::SandboxAddress::Builder to, const SandboxAddress& from) {
  to.setDirect(text(from.direct));
  to.setPublished(text(from.published));
  to.setHostId(text(from.host_id));
}
SandboxAddress read(schema::SandboxAddress::Reader from) {
  return {text(from.getDirect()), text(from.getPublished()), text(from.getHostId())};
}

void write(schema::StartPhases::Builder to, const StartPhases& from) {
  to.setScheduleNs(from.schedule.count());
  to.setCreateNs(from.create.count());
  to.setNetworkNs(from.network.count());
  to.setStartNs(from.start.count());
  to.setProbeNs(from.probe.count());
  to.setProbeTries(from.probe_tries);
}
StartPhases read(Faults& faults, schema::StartPhases::Reader from) {
  StartPhases to;
  to.schedule = faults.duration(from.getScheduleNs(), "StartPhases.scheduleNs");
  to.create = faults.duration(from.getCreateNs(), "StartPhases.createNs");
  to.network = faults.duration(from.getNetworkNs(), "StartPhases.networkNs");
  to.start = faults.duration(from.getStartNs(), "StartPhases.startNs");
  to.probe = faults.duration(from.getProbeNs(), "StartPhases.probeNs");
  to.probe_tries = from.getProbeTries();
  return to;
}

void write(schema::SandboxEnd::Builder to, const SandboxEnd& from) {
  to.setCause(ordinal<schema::EndCause>(kEndCauseWords, from.cause));
  to.setExitCode(from.exit_code);
  to.setSignal(from.signal);
  to.setDetail(text(from.detail));
  to.setLastOutput(text(from.last_output));
}
SandboxEnd read(Faults& faults, schema::SandboxEnd::Reader from) {
  SandboxEnd to;
  to.cause = faults.word(kEndCauseWords, from.getCause(), "SandboxEnd.cause");
  to.exit_code = from.getExitCode();
  to.signal = from.getSignal();
  if (to.signal < 0 || to.signal > 255) faults.add("SandboxEnd.signal", fmt::format("is {}, it must be in 0..255", to.signal));
  to.detail = text(from.getDetail());
  to.last_output = text(from.getLastOutput());
  return to;
}

void write(schema::SandboxStatus::Builder to, const SandboxStatus& from) {
  to.setId(from.id.value);
  to.setFunction(text(from.function.value));
  to.setRevision(from.revision.value);
  to.setTerm(from.term.value);
  to.setState(ordinal<schema::SandboxState>(kSandboxStateWords, from.state));
  write(to.initAddress(), from.address);
  write(to.initPhases(), from.phases);
  to.setAgeNs(from.age.count());
  write(to.initEnd(), from.end);
}
SandboxStatus read(Faults& faults, schema::SandboxStatus::Reader from) {
  SandboxStatus to;
  to.id.value = from.getId();
  to.function.value = faults.id(from.getFunction(), "SandboxStatus.function");
  to.revision.value = from.getRevision();
  to.term.value = from.getTerm();
  to.state = faults.word(kSandboxStateWords, from.getState(), "SandboxStatus.state");
  to.address = read(from.getAddress());
  to.phases = read(faults, from.getPhases());
  to.age = faults.duration(from.getAgeNs(), "SandboxStatus.ageNs");
  to.end = read(faults, from.getEnd());
  return to;
}

// --- revisions ----------------------------------------------------------------------------------------------------

void write(schema::RequestLimits::Builder to, const RequestLimits& from) {
  to.setTimeoutNs(from.timeout.count());
  to.setFirstByteTimeoutNs(from.first_byte_timeout.count());
  to.setIdleTimeoutNs(from.idle_timeout.count());
  to.setQueueTimeoutNs(from.queue_timeout.count());
  to.setQueueDepth(from.queue_depth);
  to.setStartTimeoutNs(from.start_timeout.count());
  to.setDrainTimeoutNs(from.drain_timeout.count());
  to.setBodyMaxBytes(from.body_max.value);
}
RequestLimits read(Faults& faults, schema::RequestLimits::Reader from) {
  RequestLimits to;
  to.timeout = faults.duration(from.getTimeoutNs(), "RequestLimits.timeoutNs");
  to.first_byte_timeout = faults.duration(from.getFirstByteTimeoutNs(), "RequestLimits.firstByteTimeoutNs");
  to.idle_timeout = faults.duration(from.getIdleTimeoutNs(), "RequestLimits.idleTimeoutNs");
  to.queue_timeout = faults.duration(from.getQueueTimeoutNs(), "RequestLimits.queueTimeoutNs");
  to.queue_depth = from.getQueueDepth();
  to.start_timeout = faults.duration(from.getStartTimeoutNs(), "RequestLimits.startTimeoutNs");
  to.drain_timeout = faults.duration(from.getDrainTimeoutNs(), "RequestLimits.drainTimeoutNs");
  to.body_max = Bytes{faults.amount(from.getBodyMaxBytes(), "RequestLimits.bodyMaxBytes")};
  return to;
}

void write(schema::ScalingSettings::Builder to, const ScalingSettings& from) {
  to.setMinScale(from.min_scale);
  to.setMaxScale(from.max_scale);
  to.setInitialScale(from.initial_scale);
  to.setActivationScale(from.activation_scale);
  to.setMetric(ordinal<schema::ScalingMetric>(kScalingMetricWords, from.metric));
  to.setAggregation(ordinal<schema::Aggregation>(kAggregationWords, from.aggregation));
  if (from.target) {
    to.getTarget().setPerSandbox(*from.target);
  } else {
    to.getTarget().setStandard();
  }
  to.setUtilizationPercent(from.utilization_percent);
  to.setStableWindowNs(from.stable_window.count());
  to.setPanicWindowPercent(from.panic_window_percent);
  to.setPanicThresholdPercent(from.panic_threshold_percent);
  to.setTargetBurstCapacity(from.target_burst_capacity);
  to.setScaleUpRateMax(from.scale_up_rate_max);
  to.setScaleDownRateMax(from.scale_down_rate_max);
  to.setScaleDownDelayNs(from.scale_down_delay.count());
  to.setLastSandboxRetentionNs(from.last_sandbox_retention.count());
  to.setScaleToZeroGraceNs(from.scale_to_zero_grace.count());
  to.setScaleToZero(from.scale_to_zero);
  to.setLookIntervalNs(from.look_interval.count());
  to.setReaction(ordinal<schema::Reaction>(kReactionWords, from.reaction));
  to.setWarm(from.warm);
}
ScalingSettings read(Faults& faults, schema::ScalingSettings::Reader from) {
  ScalingSettings to;
  to.min_scale = from.getMinScale();
  to.max_scale = from.getMaxScale();
  to.initial_scale = from.getInitialScale();
  to.activation_scale = from.getActivationScale();
  to.metric = faults.word(kScalingMetricWords, from.getMetric(), "ScalingSettings.metric");
  to.aggregation = faults.word(kAggregationWords, from.getAggregation(), "ScalingSettings.aggregation");
  if (from.getTarget().isPerSandbox()) to.target = faults.finite(from.getTarget().getPerSandbox(), "ScalingSettings.target.perSandbox");
  to.utilization_percent = faults.finite(from.getUtilizationPercent(), "ScalingSettings.utilizationPercent");
  to.stable_window = faults.duration(from.getStableWindowNs(), "ScalingSettings.stableWindowNs");
  to.panic_window_percent = faults.finite(from.getPanicWindowPercent(), "ScalingSettings.panicWindowPercent");
  to.panic_threshold_percent = faults.finite(from.getPanicThresholdPercent(), "ScalingSettings.panicThresholdPercent");
  to.target_burst_capacity = faults.finite(from.getTargetBurstCapacity(), "ScalingSettings.targetBurstCapacity");
  to.scale_up_rate_max = faults.finite(from.getScaleUpRateMax(), "ScalingSettings.scaleUpRateMax");
  to.scale_down_rate_max = faults.finite(from.getScaleDownRateMax(), "ScalingSettings.scaleDownRateMax");
  to.scale_down_delay = faults.duration(from.getScaleDownDelayNs(), "ScalingSettings.scaleDownDelayNs");
  to.last_sandbox_retention = faults.duration(from.getLastSandboxRetentionNs(), "ScalingSettings.lastSandboxRetentionNs");
  to.scale_to_zero_grace = faults.duration(from.getScaleToZeroGraceNs(), "ScalingSettings.scaleToZeroGraceNs");
  to.scale_to_zero = from.getScaleToZero();
  to.look_interval = faults.duration(from.getLookIntervalNs(), "ScalingSettings.lookIntervalNs");
  to.reaction = faults.word(kReactionWords, from.getReaction(), "ScalingSettings.reaction");
  to.warm = from.getWarm();
  return to;
}

void write(schema::RevisionSpec::Builder to, const RevisionSpec& from) {
  to.setImage(text(from.image));
  write_texts(to.initArguments(count(from.arguments.size())), from.arguments);
  write_pairs(to.initEnvironment(count(from.environment.size())), from.environment);
  to.setWorkingDirectory(text(from.working_directory));
  to.setPort(from.port);
  to.setProtocol(ordinal<schema::HttpProtocol>(kHttpProtocolWords, from.protocol));
  to.setReadyPath(text(from.ready_path));
  write(to.initResources(), from.resources);
  to.setCpuLimitMilli(from.cpu_limit.value);
  to.setPidsMax(from.pids_max);
  to.setConcurrencyLimit(from.concurrency_limit);
  write(to.initLimits(), from.limits);
  write(to.initScaling(), from.scaling);
  write_pairs(to.initLabels(count(from.labels.size())), from.labels);
  write_texts(to.initConstraints(count(from.constraints.size())), from.constraints);
  to.setRuntime(text(from.runtime));
}
RevisionSpec read(Faults& faults, schema::RevisionSpec::Reader from) {
  RevisionSpec to;
  to.image = text(from.getImage());
  to.arguments = read_texts(from.getArguments());
  to.environment = read_pairs(faults, from.getEnvironment(), "RevisionSpec.environment");
  to.working_directory = text(from.getWorkingDirectory());
  to.port = from.getPort();
  to.protocol = faults.word(kHttpProtocolWords, from.getProtocol(), "RevisionSpec.protocol");
  to.ready_path = text(from.getReadyPath());
  to.resources = read(faults, from.getResources());
  to.cpu_limit.value = faults.amount(from.getCpuLimitMilli(), "RevisionSpec.cpuLimitMilli");
  to.pids_max = from.getPidsMax();
  to.concurrency_limit = from.getConcurrencyLimit();
  to.limits = read(faults, from.getLimits());
  to.scaling = read(faults, from.getScaling());
  to.labels = read_pairs(faults, from.getLabels(), "RevisionSpec.labels");
  to.constraints = read_texts(from.getConstraints());
  to.runtime = text(from.getRuntime());
  return to;
}

// --- routes -------------------------------------------------------------------------------------------------------

void write(schema::RoutedSandbox::Builder to, const RoutedSandbox& from) {
  to.setId(from.id.value);
  to.setNode(text(from.node.value));
  write(to.initAddress(), from.address);
  to.setSlots(from.slots);
  write(to.initPhases(), from.phases);
}
RoutedSandbox read(Faults& faults, schema::RoutedSandbox::Reader from) {
  RoutedSandbox to;
  to.id.value = from.getId();
  to.node.value = faults.id(from.getNode(), "RoutedSandbox.node");
  to.address = read(from.getAddress());
  to.slots = from.getSlots();
  to.phases = read(faults, from.getPhases());
  return to;
}

void write(schema::FunctionRoute::Builder to, const FunctionRoute& from) {
  to.setFunction(text(from.function.value));
  to.setRevision(from.revision.value);
  to.setVersion(from.version.value);
  write(to.initLimits(), from.limits);
  to.setProtocol(ordinal<schema::HttpProtocol>(kHttpProtocolWords, from.protocol));
  to.setDeleted(from.deleted);
  to.setUnavailable(ordinal<schema::Reason>(kReasonWords, from.unavailable));
  to.setUnavailableDetail(text(from.unavailable_detail));
  write_list(to.initSandboxes(count(from.sandboxes.size())), from.sandboxes);
}
FunctionRoute read(Faults& faults, schema::FunctionRoute::Reader from) {
  FunctionRoute to;
  to.function.value = faults.id(from.getFunction(), "FunctionRoute.function");
  to.revision.value = from.getRevision();
  to.version.value = from.getVersion();
  to.limits = read(faults, from.getLimits());
  to.protocol = faults.word(kHttpProtocolWords, from.getProtocol(), "FunctionRoute.protocol");
  to.deleted = from.getDeleted();
  to.unavailable = faults.word(kReasonWords, from.getUnavailable(), "FunctionRoute.unavailable");
  to.unavailable_detail = text(from.getUnavailableDetail());
  const auto sandboxes = from.getSandboxes();
  to.sandboxes.reserve(sandboxes.size());
  for (auto sandbox : sandboxes) to.sandboxes.push_back(read(faults, sandbox));
  return to;
}

// --- load ---------------------------------------------------------------------------------------------------------

void write(schema::FunctionLoad::Builder to, const FunctionLoad& from) {
  to.setFunction(text(from.function.value));
  to.setShard(from.shard);
  to.setWaiting(from.waiting);
  to.setInFlight(from.in_flight);
  to.setAverageConcurrency(from.average_concurrency);
  to.setArrivals(from.arrivals);
  to.setCompletions(from.completions);
  to.setBusyNs(from.busy.count());
  to.setIntervalNs(from.interval.count());
  auto occupied = to.initOccupied(count(from.occupied.size()));
  for (unsigned i = 0; i < occupied.size(); ++i) occupied.set(i, from.occupied[i].value);
}
FunctionLoad read(Faults& faults, schema::FunctionLoad::Reader from) {
  FunctionLoad to;
  to.function.value = faults.id(from.getFunction(), "FunctionLoad.function");
  to.shard = from.getShard();
  to.waiting = from.getWaiting();
  to.in_flight = from.getInFlight();
  to.average_concurrency = faults.finite(from.getAverageConcurrency(), "FunctionLoad.averageConcurrency");
  if (to.average_concurrency < 0) faults.add("FunctionLoad.averageConcurrency", fmt::format("is {}, it must not be negative", to.average_concurrency));
  to.arrivals = from.getArrivals();
  to.completions = from.getCompletions();
  to.busy = faults.duration(from.getBusyNs(), "FunctionLoad.busyNs");
  to.interval = faults.duration(from.getIntervalNs(), "FunctionLoad.intervalNs");
  for (const std::uint64_t id : from.getOccupied()) to.occupied.push_back(SandboxId{id});
  return to;
}

// --- one message of a stream; nullopt for what a newer peer says --------------------------------------------------

std::optional<WorkerMessage> read_one(Faults& faults, schema::WorkerMessage::Reader from) {
  switch (from.which()) {
    case schema::WorkerMessage::HEARTBEAT: return NodeHeartbeat{read(faults, from.getHeartbeat())};
    case schema::WorkerMessage::SANDBOX_CHANGED: return SandboxChanged{read(faults, from.getSandboxChanged())};
    case schema::WorkerMessage::LEAVING: return WorkerLeaving{};
  }
  return std::nullopt;
}

std::optional<WorkerOrder> read_one(Faults& faults, schema::WorkerOrder::Reader from) {
  switch (from.which()) {
    case schema::WorkerOrder::START: {
      const auto start = from.getStart();
      return StartSandbox{Term{start.getTerm()}, SandboxId{start.getId()}, FunctionName{faults.id(start.getFunction(), "StartSandbox.function")},
                          RevisionNumber{start.getRevision()}, read(faults, start.getSpec())};
    }
    case schema::WorkerOrder::STOP: return StopSandbox{Term{from.getStop().getTerm()}, SandboxId{from.getStop().getId()}};
  }
  return std::nullopt;
}

std::optional<DataPlaneMessage> read_one(Faults& faults, schema::DataPlaneMessage::Reader from) {
  switch (from.which()) {
    case schema::DataPlaneMessage::LOAD: return read(faults, from.getLoad());
    case schema::DataPlaneMessage::RELEASED: {
      const auto released = from.getReleased();
      return SlotsReleased{SandboxId{released.getId()}, released.getSlots(), released.getUpdate()};
    }
    case schema::DataPlaneMessage::SUSPECTED:
      return SandboxSuspected{SandboxId{from.getSuspected().getId()}, text(from.getSuspected().getDetail())};
    case schema::DataPlaneMessage::HEARTBEAT: return DataPlaneHeartbeat{from.getHeartbeat().getRequestsInFlight()};
    case schema::DataPlaneMessage::LEAVING: return DataPlaneLeaving{};
    case schema::DataPlaneMessage::APPLIED: return RoutesApplied{from.getApplied().getUpdate()};
  }
  return std::nullopt;
}

std::optional<OrderPart> read_one(Faults& faults, schema::DataPlaneOrder::Reader from) {
  switch (from.which()) {
    case schema::DataPlaneOrder::NOTHING: return std::nullopt;
    case schema::DataPlaneOrder::ROUTES: {
      const auto routes = from.getRoutes();
      RouteUpdate update;
      update.term.value = routes.getTerm();
      update.complete = routes.getComplete();
      update.provisional = routes.getProvisional();
      update.number = routes.getNumber();
      update.confirm = routes.getConfirm();
      const auto functions = routes.getFunctions();
      update.functions.reserve(functions.size());
      for (auto function : functions) update.functions.push_back(read(faults, function));
      return OrderPart{std::move(update), routes.getContinues()};
    }
  }
  return std::nullopt;
}

// Runs `body` with a place for faults. The RPC library throws for broken pointers and exceeded limits.
template <class T, class Body>
Result<T> checked(std::string_view what, Body body) {
  T value;
  Faults faults;
  KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { body(value, faults); })) {
    return failure(ErrorCode::corrupt, "{} is malformed: {}", what, words(*exception));
  }
  if (faults.error()) return failure(*faults.error());
  return value;
}

template <class Message, class List>
Result<std::vector<Message>> read_batch(std::string_view what, List from) {
  return checked<std::vector<Message>>(what, [&](std::vector<Message>& messages, Faults& faults) {
    messages.reserve(from.size());
    for (auto one : from) {
      if (auto message = read_one(faults, one)) messages.push_back(std::move(*message));
    }
  });
}

template <class... Lambdas>
struct Overloaded : Lambdas... {
  using Lambdas::operator()...;
};
template <class... Lambdas>
Overloaded(Lambdas...) -> Overloaded<Lambdas...>;

}  // namespace

// --- hellos -------------------------------------------------------------------------------------------------------

void write(schema::WorkerHello::Builder to, const WorkerHello& from) {
  to.setProtocol(from.protocol);
  write(to.initNode(), from.node);
  write_list(to.initSandboxes(count(from.sandboxes.size())), from.sandboxes);
}
Result<WorkerHello> read(schema::WorkerHello::Reader from) {
  return checked<WorkerHello>("the hello of a worker", [&](WorkerHello& to, Faults& faults) {
    to.protocol = from.getProtocol();
    to.node = read(faults, from.getNode());
    const auto sandboxes = from.getSandboxes();
    to.sandboxes.reserve(sandboxes.size());
    for (auto sandbox : sandboxes) to.sandboxes.push_back(read(faults, sandbox));
  });
}

void write(schema::DataPlaneHello::Builder to, const DataPlaneHello& from) {
  to.setProtocol(from.protocol);
  to.setId(text(from.id.value));
  to.setInvokeAddress(text(from.invoke_address));
  to.setHostId(text(from.host_id));
  to.setVersion(text(from.version));
  to.setAdminAddress(text(from.admin_address));
  auto shares = to.initShares(count(from.shares.size()));
  for (std::size_t i = 0; i < from.shares.size(); ++i) {
    auto share = shares[count(i)];
    share.setId(from.shares[i].sandbox.value);
    share.setGranted(from.shares[i].granted);
    share.setHeld(from.shares[i].held);
  }
}
Result<DataPlaneHello> read(schema::DataPlaneHello::Reader from) {
  return checked<DataPlaneHello>("the hello of a data plane", [&](DataPlaneHello& to, Faults& faults) {
    to.protocol = from.getProtocol();
    to.id.value = faults.id(from.getId(), "DataPlaneHello.id");
    to.invoke_address = text(from.getInvokeAddress());
    to.host_id = text(from.getHostId());
    to.version = text(from.getVersion());
    to.admin_address = text(from.getAdminAddress());
    const auto shares = from.getShares();
    to.shares.reserve(shares.size());
    for (auto share : shares) to.shares.push_back({SandboxId{share.getId()}, share.getGranted(), share.getHeld()});
  });
}

// --- streams ------------------------------------------------------------------------------------------------------

void write(schema::WorkerMessage::Builder to, const WorkerMessage& from) {
  std::visit(Overloaded{[&](const NodeHeartbeat& heartbeat) { write(to.initHeartbeat(), heartbeat.usage); },
                        [&](const SandboxChanged& changed) { write(to.initSandboxChanged(), changed.status); },
                        [&](const WorkerLeaving&) { to.setLeaving(); }},
             from);
}

void write(schema::WorkerOrder::Builder to, const WorkerOrder& from) {
  std::visit(Overloaded{[&](const StartSandbox& order) {
                          auto start = to.initStart();
                          start.setTerm(order.term.value);
                          start.setId(order.id.value);
                          start.setFunction(text(order.function.value));
                          start.setRevision(order.revision.value);
                          write(start.initSpec(), order.spec);
                        },
                        [&](const StopSandbox& order) {
                          auto stop = to.initStop();
                          stop.setTerm(order.term.value);
                          stop.setId(order.id.value);
                        }},
             from);
}

void write(schema::DataPlaneMessage::Builder to, const DataPlaneMessage& from) {
  std::visit(Overloaded{[&](const FunctionLoad& load) { write(to.initLoad(), load); },
                        [&](const SlotsReleased& released) {
                          auto builder = to.initReleased();
                          builder.setId(released.sandbox.value);
                          builder.setSlots(released.slots);
                          builder.setUpdate(released.update);
                        },
                        [&](const SandboxSuspected& suspected) {
                          auto builder = to.initSuspected();
                          builder.setId(suspected.id.value);
                          builder.setDetail(text(suspected.detail));
                        },
                        [&](const DataPlaneHeartbeat& heartbeat) { to.initHeartbeat().setRequestsInFlight(heartbeat.requests_in_flight); },
                        [&](const DataPlaneLeaving&) { to.setLeaving(); },
                        [&](const RoutesApplied& applied) { to.initApplied().setUpdate(applied.update); }},
             from);
}

void write(schema::DataPlaneOrder::Builder to, const OrderPart& from) {
  const auto& update = std::get<RouteUpdate>(from.order);
  auto routes = to.initRoutes();
  routes.setTerm(update.term.value);
  routes.setComplete(update.complete);
  routes.setProvisional(update.provisional);
  routes.setNumber(update.number);
  routes.setConfirm(update.confirm);
  routes.setContinues(from.continues);
  write_list(routes.initFunctions(count(update.functions.size())), update.functions);
}

Result<std::vector<WorkerMessage>> read(capnp::List<schema::WorkerMessage>::Reader from) {
  return read_batch<WorkerMessage>("a batch of a worker", from);
}
Result<std::vector<WorkerOrder>> read(capnp::List<schema::WorkerOrder>::Reader from) {
  return read_batch<WorkerOrder>("a batch of orders", from);
}
Result<std::vector<DataPlaneMessage>> read(capnp::List<schema::DataPlaneMessage>::Reader from) {
  return read_batch<DataPlaneMessage>("a batch of a data plane", from);
}
Result<std::vector<OrderPart>> read(capnp::List<schema::DataPlaneOrder>::Reader from) {
  return read_batch<OrderPart>("a batch of routes", from);
}

// --- logs ---------------------------------------------------------------------------------------------------------

void write(schema::LogQuery::Builder to, const LogQuery& from) {
  to.setSandbox(from.sandbox.value);
  to.setLinesMax(from.lines_max);
}
Result<LogQuery> read(schema::LogQuery::Reader from) {
  return checked<LogQuery>("a query for logs", [&](LogQuery& to, Faults&) {
    to.sandbox.value = from.getSandbox();
    to.lines_max = from.getLinesMax();
  });
}

void write(schema::LogAnswer::Builder to, const LogAnswer& from) {
  auto lines = to.initLines(count(from.lines.size()));
  for (std::size_t i = 0; i < from.lines.size(); ++i) {
    auto line = lines[count(i)];
    line.setTimeUs(from.lines[i].time_us);
    line.setIsErrorStream(from.lines[i].is_error_stream);
    line.setText(text(from.lines[i].text));
  }
}
Result<LogAnswer> read(schema::LogAnswer::Reader from) {
  return checked<LogAnswer>("an answer with logs", [&](LogAnswer& to, Faults&) {
    const auto lines = from.getLines();
    to.lines.reserve(lines.size());
    for (auto line : lines) to.lines.push_back({line.getTimeUs(), line.getIsErrorStream(), text(line.getText())});
  });
}

}  // namespace dirigent::rpc
