// SPDX-License-Identifier: MIT
//
// What the spawner keeps of each sandbox, and how another worker's runtime makes cells of it again. The spawner is the
// parent of the cells and holds the other ends of their sockets and pipes, so a cell does not notice.
#include <algorithm>

#include "dirigent/base/log.h"
#include "sandbox/process/images.h"
#include "sandbox/process/runtime_impl.h"

namespace dirigent::sandbox {

namespace {

// The descriptors of a kept cell, in this order; then the namespace and the journal of its log where it has them, and
// the locks of its image.
constexpr std::size_t kOutput = 0;
constexpr std::size_t kErrors = 1;
constexpr std::size_t kControl = 2;
constexpr std::size_t kNamespace = 3;

}  // namespace

void ProcessRuntime::adopt(Handover handover) {
  spawner_ = std::move(handover.spawner);
  for (auto& kept : handover.kept) {
    const std::size_t needed =
        kept.record.locks + 3u + (kept.record.has_network ? 1u : 0u) + (kept.record.has_journal ? 1u : 0u);
    if (kept.fds.size() != needed || kept.record.has_network != (network_ != nullptr)) {
      log_warn("sandbox", "sandbox {} of an earlier life cannot be taken over: it is ended", to_string(kept.record.sandbox.order.id));
      static_cast<void>(spawner_.send(wire::Writer(wire::Kind::kill).u32(kept.key)));
      static_cast<void>(spawner_.forget(kept.key));
      continue;
    }
    adopted_.push_back(restore(std::move(kept)));
  }
  for (const auto& cell : adopted_) {
    std::erase(numbers_, cell->lodging->number);
    std::erase(published_ports_, cell->published_port);
    next_serial_ = std::max(next_serial_, cell->serial + 1);
  }
  log_info("sandbox", "node {}: took over {} sandboxes of an earlier life", options_.node, adopted_.size());
}

ProcessRuntime::CellPtr ProcessRuntime::restore(KeptSandbox kept) {
  auto cell = std::make_shared<Cell>(loop_);
  const SandboxRecord& record = kept.record;
  cell->image = kept.take_lease();
  cell->serial = kept.key;
  cell->pid = record.pid;
  cell->is_forked = true;
  cell->state = CellState::running;
  cell->root_us = 1;
  cell->id = record.sandbox.order.id;
  cell->function = record.sandbox.order.function.value;
  cell->direct = record.sandbox.address.direct;
  cell->published_port = record.published_port;
  Lodging& lodging = *cell->lodging;
  lodging.number = record.number;
  lodging.cgroup = record.name;
  lodging.limits = record.limits;
  lodging.link = record.link;
  lodging.network = record.network;
  lodging.is_whole = true;
  if (record.has_network) lodging.netns = kept.fds[kNamespace].release();
  cell->control.assign(kept.fds[kControl].release());
  cell->output[0].assign(kept.fds[kOutput].release());
  cell->output[1].assign(kept.fds[kErrors].release());
  if (record.has_journal) cell->logs->go_on_with(kept.fds[record.has_network ? kNamespace + 1 : kNamespace]);
  cell->forked.set();
  cell->changed->set();
  cell->record = std::move(kept.record);
  by_serial_[cell->serial] = cell;
  by_id_[cell->id] = cell;
  read_control(cell);
  read_output(cell, 0);
  read_output(cell, 1);
  return cell;
}

std::vector<AdoptedSandbox> ProcessRuntime::take_adopted() {
  std::vector<AdoptedSandbox> told;
  for (const auto& cell : std::exchange(adopted_, {})) {
    told.push_back(cell->record->sandbox);
    cell->launched = true;
    // Over already: told in a later turn, so that the caller knows the sandbox before it hears of its end.
    if (cell->state == CellState::ended) loop_.post([this, cell] { tell_end(cell); });
  }
  return told;
}

void ProcessRuntime::keep(const CellPtr& cell, const StartSandbox& order, const Launched& launched) {
  if (options_.adopt_time <= Duration::zero() || cell->state == CellState::ended) return;
  const Lodging& lodging = *cell->lodging;
  SandboxRecord record;
  record.sandbox = {order, launched.address, launched.phases, io::Loop::now(), false, launched.image_digest};
  record.name = lodging.cgroup;
  record.pid = cell->pid;
  record.number = lodging.number;
  record.published_port = cell->published_port;
  record.has_network = lodging.netns >= 0;
  record.link = lodging.link;
  record.network = lodging.network;
  record.limits = lodging.limits.value_or(CgroupLimits{});
  std::vector<int> fds{cell->output[0].native_handle(), cell->output[1].native_handle(), cell->control.native_handle()};
  if (record.has_network) fds.push_back(lodging.netns);
  const io::FileDescriptor journal = cell->logs->share();
  record.has_journal = journal.is_open();
  if (record.has_journal) fds.push_back(journal.get());
  if (cell->image) {
    record.layers = cell->image->layers;
    record.locks = static_cast<std::uint32_t>(cell->image->locks.size());
    for (const auto& lock : cell->image->locks) fds.push_back(lock.get());
  }
  if (Status kept = spawner_.keep(cell->serial, record.bytes(), fds, 2); !kept) {
    log_warn("sandbox", "sandbox {} would not outlive this worker: {}", to_string(cell->id), kept.error().message);
    return;
  }
  cell->record = std::move(record);
}

void ProcessRuntime::note_ready(const CellPtr& cell) {
  if (!cell->record || cell->record->sandbox.is_ready) return;
  cell->record->sandbox.is_ready = true;
  static_cast<void>(spawner_.note(cell->serial, cell->record->bytes()));
}

void ProcessRuntime::forget(const CellPtr& cell) {
  if (cell->record) static_cast<void>(spawner_.forget(cell->serial));
}

}  // namespace dirigent::sandbox
