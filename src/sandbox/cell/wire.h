// SPDX-License-Identifier: MIT
//
// What the worker, its spawner and the cells say to each other: one datagram a message on SOCK_SEQPACKET socket pairs.
// Both ends are the same build, so the encoding is plain: a u8 kind, then fixed-width numbers in the machine's byte
// order and texts as u32 length + bytes. Included by the worker and by the static `cell` program; needs the C++ library
// only.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace dirigent::sandbox::wire {

// A message with its environment and arguments has to fit into a socket buffer of the default size (208 KiB).
inline constexpr std::size_t kMessageBytesMax = 160 * 1024;
inline constexpr int kFdsMax = 16;
// The file descriptor on which the spawner finds its socket.
inline constexpr int kSpawnerSocket = 3;
// A worker that starts asks for what a killed one of its node left: on the abstract socket kAdoptName + node, with the raw
// bytes kAdoptCall + identity. The answer is kAdoptBusy (a worker is alive), kAdoptNo (another identity: everything is being
// taken down), or the messages `kept` and `handed_over`, after which it is the spawner's worker. Not of the kinds below,
// because the one who asks may be another build.
inline constexpr const char* kAdoptName = "dirigent-guard-";
inline constexpr const char* kAdoptCall = "adopt ";
inline constexpr const char* kAdoptBusy = "busy";
inline constexpr const char* kAdoptNo = "no";
// The link inside a cell.
inline constexpr const char* kInnerLink = "eth0";
// A worker has one range of 198.18.0.0/15 for its sandboxes: 4096 addresses.
inline constexpr int kRangePrefix = 20;

enum class Kind : std::uint8_t {
  // worker -> spawner
  configure,  // Configure; fds: whatever must stay open as long as the spawner lives (range and node locks)
  // u32 serial, u8 isolation, u8 Networking, u8 urgent; fds: control socket, stdout, stderr, the network namespace if it
  // is a kept one, cgroup.procs of each cgroup
  park,
  kill,  // u32 serial
  // u32 key, u32 number of descriptors in all, u32 how many of them, the first, are pipes with output, text record; fds:
  // the first of them. A sandbox that outlives a killed worker; a cell's key is its serial. Replaces what was kept by the key
  keep,
  keep_fds,  // u32 key; fds: more of them
  note,      // u32 key, text: another record of what is kept
  forget,    // u32 key
  farewell,  // nothing: the worker leaves in order, so everything is taken down when its socket closes
  // spawner -> worker
  forked,      // u32 serial, u32 pid
  not_forked,  // u32 serial, text
  exited,      // u32 serial, u32 wait status
  kept,        // u32 key, u32 pid (0 = not a cell), u32 number of descriptors in all, text record; fds: the first of them
  kept_fds,    // u32 key; fds: more of them
  handed_over, // Configure; fds: the locks. Everything that is kept has been told
  // worker -> cell
  network,    // Network
  order,      // Order
  terminate,  // nothing: send TERM to the function
  // cell -> worker
  parked,   // nothing
  started,  // u32 root_us, u32 start_us
  failed,   // u8 not_found, text: nothing runs; the cell ends by itself
  ended,    // u32 exit code, u32 signal: of the function's process; the cell ends by itself
};

enum class Isolation : std::uint8_t {
  full,  // root: mount, pid, ipc, uts, net, cgroup namespaces and an unprivileged uid
  user,  // no root: a user namespace and mount, pid, ipc, uts; the host's network
};

// Where a cell's network comes from.
enum class Networking : std::uint8_t {
  none,   // the host's
  fresh,  // a new namespace, whose link the worker makes
  kept,   // a namespace with a link that an earlier cell has left
};

class Writer {
 public:
  explicit Writer(Kind kind) { u8(static_cast<std::uint8_t>(kind)); }
  Writer& u8(std::uint8_t value) { bytes_.push_back(static_cast<char>(value)); return *this; }
  Writer& u32(std::uint32_t value) { return raw(&value, sizeof value); }
  Writer& u64(std::uint64_t value) { return raw(&value, sizeof value); }
  Writer& text(std::string_view value) {
    u32(static_cast<std::uint32_t>(value.size()));
    return raw(value.data(), value.size());
  }
  Writer& texts(const std::vector<std::string>& values) {
    u32(static_cast<std::uint32_t>(values.size()));
    for (const auto& value : values) text(value);
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  Writer& raw(const void* data, std::size_t size) {
    bytes_.append(static_cast<const char*>(data), size);
    return *this;
  }
  std::string bytes_;
};

// Reading past the end yields zeros and makes ok() false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  Kind kind() { return static_cast<Kind>(u8()); }
  std::uint8_t u8() { std::uint8_t value = 0; raw(&value, sizeof value); return value; }
  std::uint32_t u32() { std::uint32_t value = 0; raw(&value, sizeof value); return value; }
  std::uint64_t u64() { std::uint64_t value = 0; raw(&value, sizeof value); return value; }
  std::string text() {
    const std::uint32_t size = u32();
    if (size > rest_.size()) { ok_ = false; return {}; }
    std::string value(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return value;
  }
  std::vector<std::string> texts() {
    std::vector<std::string> values;
    const std::uint32_t count = u32();
    for (std::uint32_t i = 0; i < count && ok_; ++i) values.push_back(text());
    return values;
  }
  [[nodiscard]] bool ok() const { return ok_; }

 private:
  void raw(void* data, std::size_t size) {
    if (size > rest_.size()) { ok_ = false; return; }
    std::memcpy(data, rest_.data(), size);
    rest_.remove_prefix(size);
  }
  std::string_view rest_;
  bool ok_ = true;
};

// What the spawner takes down when its worker is gone without a word.
struct Configure {
  std::vector<std::string> cgroup_dirs;  // of the node: removed with everything below
  std::uint32_t gateway = 0;             // an address on lo to delete, in network order; 0 = none
  std::string nft_table;                 // of family inet; "" = none
  std::string nft_publish_table;         // of family ip; "" = none
  Isolation isolation = Isolation::full; // of its cells
  std::uint64_t tmp_bytes = 0;           // size of each cell's /tmp
  std::string node;
  std::string identity;                  // of workers that may take over: same build, runtime and settings
  std::vector<std::string> mounts;       // directories of the host with mounts in them
  std::uint32_t adopt_ms = 0;            // how long sandboxes wait for a worker when theirs was killed; 0 = not at all

  void write(Writer& out) const {
    out.texts(cgroup_dirs).u32(gateway).text(nft_table).text(nft_publish_table);
    out.u8(static_cast<std::uint8_t>(isolation)).u64(tmp_bytes);
    out.text(node).text(identity).texts(mounts).u32(adopt_ms);
  }
  static Configure read(Reader& in) {
    Configure c;
    c.cgroup_dirs = in.texts();
    c.gateway = in.u32();
    c.nft_table = in.text();
    c.nft_publish_table = in.text();
    c.isolation = static_cast<Isolation>(in.u8());
    c.tmp_bytes = in.u64();
    c.node = in.text();
    c.identity = in.text();
    c.mounts = in.texts();
    c.adopt_ms = in.u32();
    return c;
  }
};

struct Network {
  std::uint32_t address = 0;  // of the cell, in network order
  std::uint32_t gateway = 0;  // the host's, in network order
  std::string gateway_mac;    // 6 bytes
  std::string own_mac;        // of the cell's end of the link
  std::uint32_t previous = 0; // another cell had this network and address before; 0: it is new and nothing is set up

  void write(Writer& out) const { out.u32(address).u32(gateway).text(gateway_mac).text(own_mac).u32(previous); }
  static Network read(Reader& in) {
    Network n;
    n.address = in.u32();
    n.gateway = in.u32();
    n.gateway_mac = in.text();
    n.own_mac = in.text();
    n.previous = in.u32();
    return n;
  }
};

enum class RootKind : std::uint8_t {
  empty,    // nothing but /dev, /proc and /tmp
  host,     // a read-only view of the host's programs and libraries, and of `directory`
  overlay,  // what `directory` names below a private, bounded upper layer
};

struct Order {
  RootKind root = RootKind::empty;
  std::string directory;               // see RootKind; of overlay one a line, the topmost first
  // At full strength a cell does not have the host's files. What it needs of them comes with the order, as descriptors of
  // detached mounts: the tree of "/" if this is set, else each directory of an overlay.
  std::uint8_t has_host_tree = 0;
  std::uint64_t tmp_bytes = 0;         // size of /tmp, and of the upper layer
  std::string builtin;                 // "hello"; "" = execute arguments[0]
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // "NAME=value"
  std::vector<std::string> secrets;      // names and contents in turn: files of /run/secrets
  std::string working_directory;
  std::string hostname;
  std::uint32_t uid = 0;               // and gid
  std::uint32_t port = 0;
  std::uint8_t loopback_only = 0;      // builtin: listen on 127.0.0.1 instead of every address
  std::string node;
  std::string revision;

  void write(Writer& out) const {
    out.u8(static_cast<std::uint8_t>(root))
        .text(directory)
        .u8(has_host_tree)
        .u64(tmp_bytes)
        .text(builtin)
        .texts(arguments)
        .texts(environment)
        .texts(secrets);
    out.text(working_directory).text(hostname).u32(uid).u32(port).u8(loopback_only).text(node).text(revision);
  }
  static Order read(Reader& in) {
    Order o;
    o.root = static_cast<RootKind>(in.u8());
    o.directory = in.text();
    o.has_host_tree = in.u8();
    o.tmp_bytes = in.u64();
    o.builtin = in.text();
    o.arguments = in.texts();
    o.environment = in.texts();
    o.secrets = in.texts();
    o.working_directory = in.text();
    o.hostname = in.text();
    o.uid = in.u32();
    o.port = in.u32();
    o.loopback_only = in.u8();
    o.node = in.text();
    o.revision = in.text();
    return o;
  }
};

// Sends one message with file descriptors; 0 or an errno. Never raises SIGPIPE.
int send_message(int socket, const std::string& bytes, const int* fds = nullptr, int fd_count = 0);
// Receives one message: > 0 = its size, 0 = the peer is gone, < 0 = -errno (-EAGAIN when there is none and the socket
// does not block). Received descriptors are close-on-exec and the caller's.
long receive_message(int socket, std::string& bytes, std::vector<int>* fds, bool wait);

}  // namespace dirigent::sandbox::wire
