// SPDX-License-Identifier: MIT
//
// What the guard keeps of each container, and how another worker's runtime goes on with it. A container needs nobody of the
// worker: the guard holds the reading ends of its output, its network namespace and the locks of its image.
#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "dirigent/base/log.h"
#include "sandbox/oci/container_runtime.h"

namespace dirigent::sandbox {

namespace {

// The descriptors of a kept container, in this order; then the journal of its log where it has one, and the locks of
// its image.
constexpr std::size_t kOutput = 0;
constexpr std::size_t kErrors = 1;
constexpr std::size_t kPidfd = 2;
constexpr std::size_t kNamespace = 3;
constexpr std::size_t kOwn = 4;

}  // namespace

std::string ContainerRuntime::identity() const {
  // Whoever must not take over has an identity that nobody else has.
  if (options_.adopt_time <= Duration::zero()) return adoption_identity(fmt::format("nobody {}", ::getpid()));
  return adoption_identity(fmt::format("{} {} {} {} {}", engine_->identity(), options_.run_directory,
                                       options_.publish_host, options_.cni.configuration,
                                       options_.cni.state_directory));
}

void ContainerRuntime::adopt(Handover handover) {
  for (auto& kept : handover.kept) {
    auto container = std::make_shared<Container>(loop_);
    container->image = kept.take_lease();
    container->key = kept.key;
    container->id = kept.record.sandbox.order.id;
    container->function = kept.record.sandbox.order.function.value;
    container->name = kept.record.name;
    container->state = ContainerState::running;
    container->pid = kept.record.pid;
    container->direct = kept.record.sandbox.address.direct;
    container->published_port = kept.record.published_port;
    container->place.number = kept.record.number;
    container->place.address = container->direct.substr(0, container->direct.rfind(':'));
    container->place.attachment = kept.record.attachment;
    container->place.network_namespace = std::move(kept.fds[kNamespace]);
    container->pidfd.assign(kept.fds[kPidfd].release());
    container->output[0].assign(kept.fds[kOutput].release());
    container->output[1].assign(kept.fds[kErrors].release());
    if (kept.record.has_journal) container->logs->go_on_with(kept.fds[kOwn]);
    container->record = std::move(kept.record);
    next_serial_ = std::max(next_serial_, container->key + 1);
    std::erase(published_ports_, container->published_port);
    by_id_[container->id] = container;
    adopted_.push_back(container);
    for (const int stream : {0, 1}) read_output(container, stream);
    watch(container);
    networks_->look_at(container->place);
  }
  log_info("sandbox", "node {}: took over {} sandboxes of an earlier life", options_.node, adopted_.size());
}

std::vector<AdoptedSandbox> ContainerRuntime::take_adopted() {
  std::vector<AdoptedSandbox> told;
  for (const auto& container : std::exchange(adopted_, {})) {
    told.push_back(container->record->sandbox);
    container->launched = true;
    // Over already: told in a later turn, so that the caller knows the sandbox before it hears of its end.
    if (container->end) {
      loop_.post([this, container] {
        if (on_end_) on_end_(container->id, *container->end);
      });
    }
  }
  return told;
}

void ContainerRuntime::keep(const ContainerPtr& container, const StartSandbox& order, const Launched& launched) {
  if (options_.adopt_time <= Duration::zero() || container->state != ContainerState::running) return;
  SandboxRecord record;
  record.sandbox = {order, launched.address, launched.phases, io::Loop::now(), false, launched.image_digest};
  record.name = container->name;
  record.pid = container->pid;
  record.number = container->place.number;
  record.attachment = container->place.attachment;
  record.published_port = container->published_port;
  record.has_network = true;
  record.limits = {order.spec.resources.memory, order.spec.resources.cpu, order.spec.cpu_limit, order.spec.pids_max};
  std::vector<int> fds(kOwn);
  fds[kOutput] = container->output[0].native_handle();
  fds[kErrors] = container->output[1].native_handle();
  fds[kPidfd] = container->pidfd.native_handle();
  fds[kNamespace] = container->place.network_namespace.get();
  const io::FileDescriptor journal = container->logs->share();
  record.has_journal = journal.is_open();
  if (record.has_journal) fds.push_back(journal.get());
  if (container->image) {
    record.layers = container->image->layers;
    record.locks = static_cast<std::uint32_t>(container->image->locks.size());
    for (const auto& lock : container->image->locks) fds.push_back(lock.get());
  }
  if (Status kept = guard_.keep(container->key, record.bytes(), fds, 2); !kept) {
    log_warn("sandbox", "sandbox {} would not outlive this worker: {}", to_string(container->id), kept.error().message);
    return;
  }
  container->record = std::move(record);
}

void ContainerRuntime::note_ready(const ContainerPtr& container) {
  if (!container->record || container->record->sandbox.is_ready) return;
  container->record->sandbox.is_ready = true;
  static_cast<void>(guard_.note(container->key, container->record->bytes()));
}

void ContainerRuntime::forget(const ContainerPtr& container) {
  if (container->record) static_cast<void>(guard_.forget(container->key));
}

}  // namespace dirigent::sandbox
