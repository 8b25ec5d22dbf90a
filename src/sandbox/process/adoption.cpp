// SPDX-License-Identifier: MIT
#include "sandbox/process/adoption.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "dirigent/base/log.h"
#include "dirigent/io/loop.h"

namespace dirigent::sandbox {

namespace {

// Raised whenever SandboxRecord changes its form or meaning.
constexpr int kRecordFormat = 3;
constexpr int kHandoverTimeoutS = 5;
// The earlier worker may be gone a moment before its spawner has removed everything.
constexpr Duration kTakeDownPatience = 3s;

void write_duration(wire::Writer& out, Duration value) { out.u64(static_cast<std::uint64_t>(value.count())); }
Duration read_duration(wire::Reader& in) { return Duration(static_cast<std::int64_t>(in.u64())); }

io::FileDescriptor call_spawner(const std::string& node, const std::string& identity) {
  io::FileDescriptor fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = wire::kAdoptName + node;
  const std::size_t size = std::min(name.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, name.data(), size);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
  const timeval patience{kHandoverTimeoutS, 0};
  if (!fd.is_open() || ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
      ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      wire::send_message(fd.get(), wire::kAdoptCall + identity) != 0)
    return {};
  // An abstract name can be taken by anybody in this network namespace.
  ucred peer{};
  socklen_t peer_size = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) != 0 || peer.uid != ::geteuid()) return {};
  return fd;
}

enum class Answer { none, busy, refused, handed_over };

// Reads what the spawner hands over. The messages of cells that have ended follow and are left in the socket.
Answer receive_handover(int socket, Handover& handover, NameLock& node_lock) {
  for (bool is_first = true;; is_first = false) {
    std::string bytes;
    std::vector<int> received;
    if (wire::receive_message(socket, bytes, &received, true) <= 0) return Answer::none;
    std::vector<io::FileDescriptor> fds;
    for (const int fd : received) fds.emplace_back(fd);
    if (is_first && bytes == wire::kAdoptBusy) return Answer::busy;
    if (is_first && bytes == wire::kAdoptNo) return Answer::refused;
    wire::Reader in(bytes);
    const wire::Kind kind = in.kind();
    if (kind == wire::Kind::kept) {
      KeptSandbox kept;
      kept.key = in.u32();
      kept.pid = in.u32();
      const std::uint32_t wanted = in.u32();
      auto record = SandboxRecord::parse(in.text());
      if (!in.ok() || !record || wanted < 2 + record->locks) return Answer::none;
      kept.record = std::move(*record);
      kept.fds = std::move(fds);
      handover.kept.push_back(std::move(kept));
    } else if (kind == wire::Kind::kept_fds) {
      if (handover.kept.empty() || handover.kept.back().key != in.u32()) return Answer::none;
      for (auto& fd : fds) handover.kept.back().fds.push_back(std::move(fd));
    } else if (kind == wire::Kind::handed_over) {
      handover.configuration = wire::Configure::read(in);
      if (!in.ok() || fds.empty()) return Answer::none;
      node_lock = NameLock(std::move(fds[0]));
      if (fds.size() > 1) handover.range_lock = NameLock(std::move(fds[1]));
      return Answer::handed_over;
    } else {
      return Answer::none;
    }
  }
}

}  // namespace

std::string SandboxRecord::bytes() const {
  wire::Writer out(wire::Kind::keep);
  const StartSandbox& order = sandbox.order;
  out.u64(order.term.value).u64(order.id.value).text(order.function.value).u32(order.revision.value);
  out.text(order.spec.image).u32(order.spec.port).text(order.spec.ready_path);
  write_duration(out, order.spec.limits.start_timeout);
  out.text(sandbox.address.direct).text(sandbox.address.published).text(sandbox.address.host_id);
  for (const Duration phase : {sandbox.phases.schedule, sandbox.phases.create, sandbox.phases.network, sandbox.phases.start,
                               sandbox.phases.probe, sandbox.launched_at.time_since_epoch()})
    write_duration(out, phase);
  out.u32(sandbox.phases.probe_tries).u8(sandbox.is_ready ? 1 : 0);
  out.text(name).u32(pid).u32(number).u32(published_port).u8(has_network ? 1 : 0).u32(static_cast<std::uint32_t>(link));
  network.write(out);
  out.u64(static_cast<std::uint64_t>(limits.memory.value)).u64(static_cast<std::uint64_t>(limits.cpu.value));
  out.u64(static_cast<std::uint64_t>(limits.cpu_limit.value)).u32(limits.pids);
  out.text(sandbox.image_digest).texts(layers).u32(locks).text(attachment).u8(has_journal ? 1 : 0);
  return out.bytes();
}

std::optional<SandboxRecord> SandboxRecord::parse(const std::string& bytes) {
  wire::Reader in(bytes);
  SandboxRecord record;
  if (in.kind() != wire::Kind::keep) return std::nullopt;
  StartSandbox& order = record.sandbox.order;
  order.term = Term{in.u64()};
  order.id = SandboxId{in.u64()};
  order.function = FunctionName{in.text()};
  order.revision = RevisionNumber{in.u32()};
  order.spec.image = in.text();
  order.spec.port = static_cast<std::uint16_t>(in.u32());
  order.spec.ready_path = in.text();
  order.spec.limits.start_timeout = read_duration(in);
  record.sandbox.address.direct = in.text();
  record.sandbox.address.published = in.text();
  record.sandbox.address.host_id = in.text();
  StartPhases& phases = record.sandbox.phases;
  for (Duration* phase : {&phases.schedule, &phases.create, &phases.network, &phases.start, &phases.probe})
    *phase = read_duration(in);
  record.sandbox.launched_at = Instant(read_duration(in));
  phases.probe_tries = in.u32();
  record.sandbox.is_ready = in.u8() != 0;
  record.name = in.text();
  record.pid = in.u32();
  record.number = in.u32();
  record.published_port = static_cast<std::uint16_t>(in.u32());
  record.has_network = in.u8() != 0;
  record.link = static_cast<std::int32_t>(in.u32());
  record.network = wire::Network::read(in);
  record.limits.memory = Bytes{static_cast<std::int64_t>(in.u64())};
  record.limits.cpu = Millicpu{static_cast<std::int64_t>(in.u64())};
  record.limits.cpu_limit = Millicpu{static_cast<std::int64_t>(in.u64())};
  record.limits.pids = in.u32();
  record.sandbox.image_digest = in.text();
  record.layers = in.texts();
  record.locks = in.u32();
  record.attachment = in.text();
  record.has_journal = in.u8() != 0;
  if (!in.ok()) return std::nullopt;
  order.spec.resources = {record.limits.cpu, record.limits.memory};
  return record;
}

ImageLease KeptSandbox::take_lease() {
  if (record.layers.empty() && record.locks == 0) return nullptr;
  auto image = std::make_shared<StoredImage>();
  image->digest = record.sandbox.image_digest;
  image->layers = record.layers;
  for (std::uint32_t i = 0; i < record.locks && !fds.empty(); ++i) {
    image->locks.push_back(std::move(fds.back()));
    fds.pop_back();
  }
  return image;
}

std::vector<std::string> names_of(const std::optional<Handover>& handover) {
  std::vector<std::string> names;
  if (!handover) return names;
  for (const auto& one : handover->kept) names.push_back(one.record.name);
  return names;
}

std::vector<Firewall::Published> published_of(const std::optional<Handover>& handover, const Network& network) {
  std::vector<Firewall::Published> published;
  if (!handover) return published;
  for (const auto& one : handover->kept) {
    if (one.record.published_port == 0) continue;
    const std::string host = one.record.attachment.empty() ? to_dotted(network.address_of(one.record.number))
                                                           : one.record.sandbox.address.direct.substr(
                                                                 0, one.record.sandbox.address.direct.rfind(':'));
    published.push_back({one.record.published_port, host, one.record.sandbox.order.spec.port});
  }
  return published;
}

std::string adoption_identity(const std::string& settings) {
  return fmt::format("{} {} {}", kRecordFormat, cell_program_fingerprint(), settings);
}

Result<NodeClaim> claim_node(const std::string& node, const std::string& identity) {
  Instant until = io::Loop::now() + kTakeDownPatience;
  for (;;) {
    NodeClaim claim;
    auto lock = NameLock::take("dirigent-node-" + node);
    if (lock) {
      claim.lock = std::move(*lock);
      return claim;
    }
    if (lock.error().code != ErrorCode::already_exists) return failure(lock.error());
    if (auto connection = call_spawner(node, identity); connection.is_open()) {
      claim.handover.emplace();
      const Answer answer = receive_handover(connection.get(), *claim.handover, claim.lock);
      if (answer == Answer::handed_over) {
        auto spawner = Spawner::take_over(connection.release());
        if (!spawner) return failure(spawner.error());
        claim.handover->spawner = std::move(*spawner);
        return claim;
      }
      if (answer == Answer::refused) {
        log_warn("sandbox", "sandboxes of an earlier worker of node {} are ended: it was another build, or had other settings", node);
        until = io::Loop::now() + kTakeDownPatience;
      }
    }
    if (io::Loop::now() > until)
      return failure(ErrorCode::already_exists, "a worker of node {} is running on this host already: stop it, or choose another node id",
                     node);
    std::this_thread::sleep_for(20ms);
  }
}

}  // namespace dirigent::sandbox
