// SPDX-License-Identifier: MIT
//
// The conductor's view of single sandboxes: what workers report of them, and how they end.
#include <algorithm>

#include "conductor_work.h"
#include "dirigent/base/assert.h"

namespace dirigent::core {

void Conductor::observed(Node& node, const SandboxStatus& status, Work& work) {
  if (!status.image_digest.empty() && catalog_.find(status.function) != nullptr) {
    // The first one says it for all nodes; a worker that always asks the registry may have another, and keeps it.
    FunctionControl& control = control_of(status.function);
    if (control.digest_of(status.revision) == nullptr) control.image_digests.emplace_back(status.revision, status.image_digest);
  }
  Sandbox* sandbox = fleet_.find(status.id);
  if (sandbox != nullptr && sandbox->node != node.info.id) return;  // an id of another node: not this worker's to report
  if (sandbox == nullptr) {
    if (status.state == SandboxState::gone) return;
    // Terms of a group grow by one: whoever led before may have made more ids than fit between two terms.
    const std::uint64_t first = options_.term.value << 22;
    if (status.id.value > first) next_sandbox_ = std::max(next_sandbox_, status.id.value - first);
    const Function* function = catalog_.find(status.function);
    const Revision* revision = function == nullptr ? nullptr : function->find(status.revision);
    const bool is_wanted = revision != nullptr && status.term <= options_.term &&
                           (status.state == SandboxState::starting || status.state == SandboxState::ready);
    if (!is_wanted) {
      if (node.session) work.effects.worker_orders.emplace_back(*node.session, StopSandbox{options_.term, status.id});
      return;
    }
    Sandbox& adopted = fleet_.adopt(status, node, revision->spec, work.now);
    if (const auto held = unreleased_.find(status.id); held != unreleased_.end()) {
      adopted.grants = std::move(held->second);
      unreleased_.erase(held);
      adopted.is_overcommitted = adopted.concurrency_limit != 0 && adopted.held() > adopted.concurrency_limit;
    }
    FunctionControl& control = control_of(status.function);
    if (function->candidate == status.revision) {
      adopted.is_verification = true;
      control.verifying = status.revision;
    }
    // Until a decision is made, what is there is what is wanted.
    if (recovering(work.now) && !control.wanted_once && function->serving == status.revision) ++control.wanted;
    if (!control.next_look) control.next_look = work.now + revision->spec.scaling.look_interval;
    schedule(control);
    if (adopted.state == SandboxState::ready) route_changed(status.function, work);
    return;
  }
  switch (status.state) {
    case SandboxState::placed:
      return;
    case SandboxState::starting:
      if (sandbox->state == SandboxState::placed) fleet_.move(*sandbox, SandboxState::starting, work.now);
      if (sandbox->state == SandboxState::stopping && node.session) {
        work.effects.worker_orders.emplace_back(*node.session, StopSandbox{options_.term, status.id});
      }
      return;
    case SandboxState::ready:
      if (is_pending(sandbox->state)) {
        became_ready(*sandbox, status, work);
      } else if (sandbox->state == SandboxState::stopping && node.session) {
        work.effects.worker_orders.emplace_back(*node.session, StopSandbox{options_.term, status.id});
      }
      return;
    case SandboxState::draining:
    case SandboxState::stopping:
      // The worker ends it on its own account (it is leaving): no more traffic.
      if (sandbox->state == SandboxState::ready) drain(*sandbox, work);
      return;
    case SandboxState::gone:
      ended(*sandbox, status.end, work);
      return;
  }
}

void Conductor::became_ready(Sandbox& sandbox, const SandboxStatus& status, Work& work) {
  fleet_.move(sandbox, SandboxState::ready, work.now);
  ++creations_;
  const Duration schedule_time = sandbox.phases.schedule;
  sandbox.phases = status.phases;
  sandbox.phases.schedule = schedule_time;
  sandbox.address = status.address;
  const FunctionName name = sandbox.function;
  FunctionControl& control = control_of(name);
  control.failures_in_row = 0;
  control.excluded.clear();
  const Function* function = catalog_.find(name);
  const Revision* revision = function == nullptr ? nullptr : function->find(sandbox.revision);
  if (revision == nullptr) {
    drain(sandbox, work);
    return;
  }
  if (control.unavailable != Reason::none) {
    control.unavailable = Reason::none;
    control.unavailable_detail.clear();
  }
  if (sandbox.is_verification) {
    note(name, "ready", sandbox.revision,
         fmt::format("test instance on {} ready after {} probes in {}", sandbox.node, status.phases.probe_tries,
                     format_duration(status.phases.total())), work);
    // It becomes the first sandbox of the new revision.
    sandbox.is_verification = false;
    control.wanted = std::max<std::uint32_t>(control.wanted, 1);
    settle_verification(name, sandbox.revision, true, nullptr, work);
  }
  if (sandbox.is_spare) return;
  if (!control.next_look) control.next_look = work.now + revision->spec.scaling.look_interval;
  if (!control.next_sample) control.next_sample = work.now + 1s;
  route_changed(name, work);
  reconcile(name, work);
}

void Conductor::ended(Sandbox& sandbox, const SandboxEnd& end, Work& work) {
  const FunctionName name = sandbox.function;
  const RevisionNumber revision = sandbox.revision;
  const NodeId node = sandbox.node;
  const SandboxState was = sandbox.state;
  const bool was_verification = sandbox.is_verification;
  const Duration served = was == SandboxState::ready ? work.now - sandbox.ready_at : Duration::zero();
  if (sandbox.deadline) sandbox_deadlines_.erase({*sandbox.deadline, sandbox.id});
  spares_.erase(sandbox.id);
  const std::string id_text = to_string(sandbox.id);
  keep_unreleased(sandbox);
  fleet_.move(sandbox, SandboxState::gone, work.now);

  const Function* function = catalog_.find(name);
  if (function == nullptr) return;
  FunctionControl& control = control_of(name);
  work.effects.changed.insert(name);
  if (was == SandboxState::ready || was == SandboxState::draining) route_changed(name, work);
  const bool asked_for = was == SandboxState::stopping || was == SandboxState::draining || end.cause == EndCause::requested;
  if (!asked_for) {
    const bool never_served = is_pending(was);
    const bool is_nodes_fault = end.cause == EndCause::node_lost || end.cause == EndCause::no_capacity;
    note(name, is_nodes_fault ? "node-lost" : never_served ? "start-failed" : "ended", revision,
         fmt::format("sandbox {} on {} {}: {}", id_text, node, never_served ? "did not start" : "ended", end.detail), work, end);
    if (!is_nodes_fault) control.last_failure = end;
    if (was_verification && !is_nodes_fault) {
      ++failures_;
      settle_verification(name, revision, false, &end, work);
    } else if (was_verification) {
      control.verifying.reset();
    }
    if (never_served && end.cause != EndCause::node_lost) control.excluded.push_back(node);
    // A crash soon after the start is a failed start for the back-off; one after a good while is not.
    if ((never_served && !is_nodes_fault && !was_verification) || (!never_served && !is_nodes_fault && served < 1s)) {
      ++failures_;
      ++control.failures_in_row;
      Duration backoff = options_.start_backoff_min;
      for (std::uint32_t i = 1; i < control.failures_in_row && backoff < options_.start_backoff_max; ++i) backoff *= 2;
      control.retry_at = work.now + std::min(backoff, options_.start_backoff_max);
      if (control.failures_in_row >= options_.failures_until_refusal) {
        control.unavailable = end.cause == EndCause::start_timeout   ? Reason::start_timeout
                              : end.cause == EndCause::image_missing ? Reason::image_pull
                                                                     : Reason::start_failed;
        control.unavailable_detail = fmt::format("{} starts failed in a row, the last one on {}: {}", control.failures_in_row, node, end.detail);
        route_changed(name, work);
      }
    }
  }
  reconcile(name, work);
}

// Out of the routes; stopped when no data plane holds anything of it any more, or at the deadline. A sandbox that is only
// one too many is in nobody's way: its requests get all the time they may take.
void Conductor::drain(Sandbox& sandbox, Work& work, bool is_surplus) {
  fleet_.move(sandbox, SandboxState::draining, work.now);
  route_changed(sandbox.function, work);
  if (!sandbox.is_held()) {
    stop(sandbox, work);
    return;
  }
  const Function* function = catalog_.find(sandbox.function);
  const Revision* revision = function == nullptr ? nullptr : function->find(sandbox.revision);
  Duration patience = drain_timeout_of(sandbox);
  if (is_surplus && revision != nullptr) patience = std::max(patience, revision->spec.limits.timeout);
  set_deadline(sandbox, work.now + patience);
}

Duration Conductor::drain_timeout_of(const Sandbox& sandbox) const {
  const Function* function = catalog_.find(sandbox.function);
  const Revision* revision = function == nullptr ? nullptr : function->find(sandbox.revision);
  return revision == nullptr ? RequestLimits{}.drain_timeout : revision->spec.limits.drain_timeout;
}

void Conductor::set_deadline(Sandbox& sandbox, Instant deadline) {
  if (sandbox.deadline) sandbox_deadlines_.erase({*sandbox.deadline, sandbox.id});
  sandbox.deadline = deadline;
  sandbox_deadlines_.emplace(deadline, sandbox.id);
}

// Also repeats the order for a sandbox that is being stopped and has not been confirmed.
void Conductor::stop(Sandbox& sandbox, Work& work) {
  if (sandbox.state != SandboxState::stopping) {
    if (sandbox.state == SandboxState::ready) route_changed(sandbox.function, work);
    fleet_.move(sandbox, SandboxState::stopping, work.now);
  }
  set_deadline(sandbox, work.now + options_.stop_patience);
  const Node* node = fleet_.find_node(sandbox.node);
  if (node->session) work.effects.worker_orders.emplace_back(*node->session, StopSandbox{options_.term, sandbox.id});
  work.effects.changed.insert(sandbox.function);
}

void Conductor::settle_verification(const FunctionName& name, RevisionNumber revision, bool is_ready, const SandboxEnd* end, Work& work) {
  FunctionControl& control = control_of(name);
  if (is_ready) {
    control.verifying.reset();
    propose(catalog_.plan_promote(name, revision), work);
    return;
  }
  // `verifying` stays: the revision has had its chance, and is not tried again until the rejection is durable.
  const Function* function = catalog_.find(name);
  note(name, "verify-failed", revision,
       fmt::format("{} did not become ready: {}", revision_name(name, revision), to_string(end->cause)), work, *end);
  if (function != nullptr && !function->serving) {
    control.unavailable = Reason::start_failed;
    control.unavailable_detail = fmt::format("no revision of {} has become ready; the last one failed: {}", name, end->detail);
    route_changed(name, work);
  }
  propose(catalog_.plan_reject(name, revision), work);
}

}  // namespace dirigent::core
