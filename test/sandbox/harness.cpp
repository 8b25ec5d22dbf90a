// SPDX-License-Identifier: MIT
#include "harness.h"

#include <netinet/in.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "dirigent/base/text.h"

namespace dirigent::sandbox::test {

namespace {

io::Task<void> wait_until(io::Loop& loop, const std::function<bool()>& condition, Duration patience) {
  const Instant end = io::Loop::now() + patience;
  while (!condition()) {
    if (io::Loop::now() > end) co_return failure(ErrorCode::timed_out, "condition did not come true");
    static_cast<void>(co_await io::sleep_for(loop, 2ms));
  }
  co_return Status{};
}

io::Task<std::string> exchange(io::Loop& loop, std::string address, std::string head) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  const std::size_t colon = address.rfind(':');
  peer.sin_port = htons(static_cast<std::uint16_t>(parse_integer(address.substr(colon + 1)).value_or(0)));
  ::inet_pton(AF_INET, address.substr(0, colon).c_str(), &peer.sin_addr);
  ::connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof peer);
  std::string answer;
  std::size_t sent = 0;
  const Instant end = io::Loop::now() + 5s;
  while (io::Loop::now() < end) {
    if (sent < head.size()) {
      const ssize_t size = ::send(fd, head.data() + sent, head.size() - sent, MSG_NOSIGNAL);
      if (size > 0) sent += static_cast<std::size_t>(size);
      else if (errno != EAGAIN && errno != ENOTCONN) break;
    }
    char buffer[65536];
    const ssize_t size = ::recv(fd, buffer, sizeof buffer, 0);
    if (size > 0) answer.append(buffer, static_cast<std::size_t>(size));
    else if (size == 0 || (errno != EAGAIN && errno != ENOTCONN)) break;
    else static_cast<void>(co_await io::sleep_for(loop, 1ms));
  }
  ::close(fd);
  co_return answer;
}

std::string read_all(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

bool Harness::until(const std::function<bool()>& condition, Duration patience) {
  return run(wait_until(loop, condition, patience)).has_value();
}

OpenRuntime::OpenRuntime(Harness& harness, std::unique_ptr<Runtime> opened)
    : runtime(std::move(opened)), harness_(harness) {
  runtime->on_end([this](SandboxId id, SandboxEnd end) { ends.emplace_back(id, std::move(end)); });
  const Status status = harness_.run(runtime->open());
  if (!status) throw std::runtime_error(status.error().message);
}

OpenRuntime::~OpenRuntime() { static_cast<void>(harness_.run(runtime->close())); }

SandboxEnd OpenRuntime::launch_to_end(const StartSandbox& order) {
  const auto launched = launch(order);
  if (!launched) throw std::runtime_error(launched.error().message);
  const auto mine = [&] {
    return std::find_if(ends.begin(), ends.end(), [&](const auto& end) { return end.first == order.id; });
  };
  if (!harness_.until([&] { return mine() != ends.end(); }))
    throw std::runtime_error("the sandbox did not end: " + output(order.id));
  return mine()->second;
}

std::string OpenRuntime::output(SandboxId id) const {
  std::string text;
  for (const auto& line : runtime->logs(id, 100'000)) (text += line.text) += '\n';
  return text;
}

StartSandbox order_for(const std::string& image, std::vector<std::string> arguments) {
  static std::atomic<std::uint64_t> next{1};
  StartSandbox order;
  order.id = SandboxId{next++};
  order.function = FunctionName{"tested"};
  order.revision = RevisionNumber{1};
  order.spec.image = image;
  order.spec.arguments = std::move(arguments);
  return order;
}

ProcessRuntimeOptions process_options(const std::string& node) {
  ProcessRuntimeOptions options;
  options.node = NodeId{node + "-" + std::to_string(::getpid())};
  options.host_id = "tested-host";
  options.parked = 2;
  return options;
}

std::string get(Harness& harness, const std::string& address, const std::string& request_head) {
  return harness.run(exchange(harness.loop, address, request_head)).value_or("");
}

std::string own_address() {
  std::string found;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr && found.empty(); one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET || (one->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    char text[INET_ADDRSTRLEN] = {};
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr, text, sizeof text);
    found = text;
  }
  ::freeifaddrs(all);
  return found;
}

bool is_root() { return ::geteuid() == 0; }

std::string probe_path() { return PROBE_PATH; }
std::string probe_image() { return "exec:" + probe_path(); }

std::vector<std::string> leftovers(const std::string& node) {
  std::vector<std::string> found;
  std::error_code error;
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto words = split(line, ' ');
    if (words.size() > 4 && line.find(" - cgroup") != std::string::npos) {
      const std::string directory = std::string(words[4]) + "/dirigent/" + node;
      if (std::filesystem::exists(directory, error)) found.push_back("cgroup " + directory);
    }
    if (line.find("dirigent") != std::string::npos) found.push_back("mount " + line);
  }
  // Processes that were started for the node are known by their cgroup's path.
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    if (read_all(entry.path() / "cgroup").find("/dirigent/" + node) == std::string::npos) continue;
    // An ended one that has become a child of the machine's init is for that to wait for, in its own time.
    const std::string status = read_all(entry.path() / "stat");
    if (status.find(") Z 1 ") != std::string::npos) continue;
    found.push_back("process " + entry.path().string() + " " + status);
  }
  return found;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "dirigent-test-XXXXXX").string();
  path = ::mkdtemp(pattern.data());
  ::chmod(path.c_str(), 0755);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

Listener::Listener() {
  fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(fd, 16) == 0);
  socklen_t size = sizeof address;
  REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port = ntohs(address.sin_port);
}

Listener::~Listener() { ::close(fd); }

}  // namespace dirigent::sandbox::test
