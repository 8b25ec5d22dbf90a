// SPDX-License-Identifier: MIT
//
// Both directions of a struct stand together, so that a field forgotten in one is seen in the other.
#include "rpc/convert_structs.h"

#include <utility>

namespace dirigent::rpc {

// --- pairs and texts ----------------------------------------------------------------------------------------------

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
  to.setImageDigest(text(from.image_digest));
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
  to.image_digest = text(from.getImageDigest());
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
  to.setUser(text(from.user));
  write_pairs(to.initSecrets(count(from.secrets.size())), from.secrets);
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
  to.user = text(from.getUser());
  to.secrets = read_pairs(faults, from.getSecrets(), "RevisionSpec.secrets");
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

}  // namespace dirigent::rpc
