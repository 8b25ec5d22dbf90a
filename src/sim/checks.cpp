// SPDX-License-Identifier: MIT
//
// What has to hold, whatever happens: the invariants of docs/architecture.md as far as they show from outside.
#include <algorithm>

#include "sim/cluster.h"

namespace dirigent::sim {

void Cluster::violate(std::string what) {
  if (violation_.empty()) violation_ = fmt::format("after {:.6f} s: {}", to_seconds(now_ - begin_), what);
}

bool Cluster::is_healed(Instant arrived) const {
  return options_.healed_after > Duration::zero() && options_.faults.any() && options_.check_every_step &&
         arrived > faults_until_ + options_.healed_after;
}

void Cluster::check_step() {
  const core::Conductor* conductor = this->conductor();
  if (conductor == nullptr) return;
  conductor->check_invariants();
  for (const auto& [id, node] : conductor->fleet().nodes()) {
    if (!node.reserved.fits_in(node.info.capacity)) {
      violate(fmt::format("node {}: {} mcpu and {} bytes reserved of {} and {}", id, node.reserved.cpu.value, node.reserved.memory.value,
                          node.info.capacity.cpu.value, node.info.capacity.memory.value));
    }
  }
}

// The limit of a sandbox holds as long as the control plane counts everybody who has requests in it. A data plane that is
// cut off for longer than its grace, or that a new control plane has not heard in its recovery, is not counted: its share
// may have been given to others, and both use it until the requests that found it so are over.
void Cluster::check_sandbox(SimSandbox& sandbox, SandboxId id) {
  if (sandbox.limit == 0 || sandbox.requests.size() <= sandbox.limit || sandbox.is_exceeding) return;
  const core::Conductor* conductor = this->conductor();
  if (conductor == nullptr || conductor->recovering(now_)) return;
  const auto& fleet = conductor->fleet().sandboxes();
  const auto known = fleet.find(id);
  bool is_counted = known == fleet.end() || !known->second.is_overcommitted;
  for (const std::uint32_t request : sandbox.requests) {
    const DataPlaneId plane = plane_id(requests_[request].plane);
    const auto& joined = conductor->data_planes();
    const bool is_joined = std::any_of(joined.begin(), joined.end(), [&](const auto& one) { return one.second.hello.id == plane; });
    is_counted &= is_joined || conductor->is_missed(plane);
  }
  if (!is_counted) {
    sandbox.is_exceeding = true;
    return;
  }
  violate(fmt::format("sandbox {} of {} has {} requests at a time, its limit is {}", to_string(id),
                      workload_.functions[sandbox.function].name, sandbox.requests.size(), sandbox.limit));
}

void Cluster::check_routes(std::uint32_t plane, std::uint32_t shard, const core::RouteTableChange& change) {
  auto& versions = planes_[plane].shards[shard].versions;
  for (const auto& routed : change.changed) {
    auto& [term, version] = versions[routed->route.function.value];
    if (planes_[plane].term == term && routed->route.version < version) {
      violate(fmt::format("data plane {} replaces version {} of the route of {} by version {}", plane, version, routed->route.function,
                          routed->route.version));
    }
    term = planes_[plane].term;
    version = routed->route.version;
  }
  for (const auto* removed : change.removed) versions.erase(removed->name.value);
}

// What the conductor believes of a sandbox and its function.
std::string Cluster::describe(const FunctionName& name, SandboxId id) const {
  std::string text = "the conductor does not know it";
  const core::Conductor* conductor = this->conductor();
  const auto& fleet = conductor->fleet().sandboxes();
  if (const auto known = fleet.find(id); known != fleet.end()) {
    text = fmt::format("the conductor has it as {} of revision {}{}", to_string(known->second.state), known->second.revision,
                       known->second.is_verification ? ", a test instance" : "");
  }
  const core::FunctionControl* control = conductor->control(name);
  const Function* function = conductor->catalog().find(name);
  if (control == nullptr || function == nullptr) return text + ", and not the function either";
  const auto revision = [](const std::optional<RevisionNumber>& number) { return number ? number->value : 0; };
  text += fmt::format("; wanted {}, serving {}, candidate {}, verifying {}, {} waiting, {} in flight, {}, {}", control->wanted,
                      revision(function->serving), revision(function->candidate), revision(control->verifying), control->waiting(),
                      control->in_flight(), control->next_look ? "looked at" : "not looked at", control->next_sample ? "sampled" : "not sampled");
  if (control->last_scaling) {
    const auto& last = *control->last_scaling;
    text += fmt::format("; last decision {:.3f} s ago: desired {} ({})", to_seconds(now_ - last.at), last.desired ? fmt::format("{}", *last.desired) : "none", last.note);
  }
  return text;
}

void Cluster::check_quiet() {
  const ScalingSettings& scaling = options_.spec.scaling;
  const core::Conductor* conductor = this->conductor();
  if (conductor == nullptr || scaling.min_scale > 0 || scaling.warm > 0 || !scaling.scale_to_zero) return;
  if (!sandboxes_.empty()) {
    const auto& [id, sandbox] = *sandboxes_.begin();
    const FunctionName& name = workload_.functions[sandbox.function].name;
    violate(fmt::format("{} sandboxes run though nobody asks for them any more, {} of {} on node {} among them; {}", sandboxes_.size(),
                        to_string(id), name, sandbox.worker, describe(name, id)));
  }
  if (!conductor->fleet().sandboxes().empty()) {
    const auto& [id, sandbox] = *conductor->fleet().sandboxes().begin();
    violate(fmt::format("the conductor keeps {} sandboxes that are not there, {} of {} ({}) among them",
                        conductor->fleet().sandboxes().size(), to_string(id), sandbox.function, to_string(sandbox.state)));
  }
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].is_alive && workers_[i].keeper->size() > 0) violate(fmt::format("the keeper of node {} keeps sandboxes that ended", i));
  }
  for (std::uint32_t i = 0; i < planes_.size(); ++i) {
    if (!planes_[i].is_alive) continue;
    if (planes_[i].switchboard->sandboxes() > 0) {
      violate(fmt::format("data plane {} routes to {} sandboxes that are gone", i, planes_[i].switchboard->sandboxes()));
    }
    for (const Shard& shard : planes_[i].shards) {
      if (shard.dispatcher->in_flight() > 0 || shard.dispatcher->parked() > 0) {
        violate(fmt::format("a shard of data plane {} counts {} requests in flight and {} waiting, there are none", i,
                            shard.dispatcher->in_flight(), shard.dispatcher->parked()));
      }
    }
  }
}

}  // namespace dirigent::sim
