// SPDX-License-Identifier: MIT
#include "dirigent/bench/engine.h"

#include <netdb.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "bench/client.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/signals.h"

namespace dirigent::bench {

namespace {

constexpr Duration kReportEvery = 500ms;
constexpr Duration kConnectPatience = 3s;
constexpr std::uint64_t kDescriptorsSpare = 64;
// So that every thread is there when the first call is due.
constexpr Duration kStartDelay = 20ms;

Result<io::SocketAddress> resolve(const std::string& endpoint) {
  auto address = io::parse_address(endpoint);
  if (!address) return failure(address.error());
  auto numeric = io::to_socket_address(*address);
  if (numeric || numeric.error().code != ErrorCode::not_found) return numeric;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(address->host.c_str(), std::to_string(address->port).c_str(), &hints, &found);
  if (status != 0) return failure(ErrorCode::not_found, "cannot resolve {}: {}", endpoint, ::gai_strerror(status));
  io::SocketAddress resolved;
  std::memcpy(&resolved.storage, found->ai_addr, found->ai_addrlen);
  resolved.length = found->ai_addrlen;
  ::freeaddrinfo(found);
  return resolved;
}

// One connection that carries nothing: a server that is not there is told at once and in words.
Status try_connect(const io::SocketAddress& address, const std::string& endpoint) {
  const auto refuse = [&](const std::string& why) {
    return failure(
        ErrorCode::unavailable,
        "cannot connect to {}: {} (is a data plane there? start one: dirigent dev; or name another: --address)",
        endpoint, why);
  };
  const auto socket = start_connect(address);
  if (!socket) return refuse(socket.error().message);
  pollfd wanted{socket->get(), POLLOUT, 0};
  const int ready = ::poll(&wanted, 1, static_cast<int>(kConnectPatience / 1ms));
  if (ready == 0) return refuse("no answer within 3 s");
  if (const int error = connect_error(socket->get()); error != 0) return refuse(std::strerror(error));
  return {};
}

// Raises the limit of open files as far as it goes; how many connections it leaves room for.
Result<unsigned> connections_allowed(const Plan& plan) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_failure(errno, "cannot read the limit of open files");
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max == RLIM_INFINITY || plan.connections + kDescriptorsSpare <= limit.rlim_max)
    return plan.connections;
  // An open loop takes what there is: its calls wait for a connection, and the wait is measured.
  const bool needs_all = plan.pace == Pace::closed || plan.protocol == Protocol::h2c;
  if (needs_all || limit.rlim_max <= kDescriptorsSpare) {
    return failure(ErrorCode::exhausted,
                   "{} connections need more than the {} open files allowed here (ulimit -Hn; or fewer --connections)",
                   plan.connections, limit.rlim_max);
  }
  return static_cast<unsigned>(limit.rlim_max - kDescriptorsSpare);
}

double thread_cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

class Reporter {
 public:
  Reporter(const Plan& plan, const RunState& state, const EngineOptions& options)
      : plan_(plan), state_(state), options_(options) {}

  void report(const std::vector<std::unique_ptr<Client>>& clients) {
    if (!options_.progress) return;
    const Instant now = io::Loop::now();
    Window window;
    for (const auto& client : clients) client->take_window(window);
    Progress progress;
    progress.elapsed = std::max(Duration::zero(), now - state_.begin);
    progress.planned = plan_.requests > 0 ? Duration::zero() : plan_.warm_up + plan_.length;
    progress.is_warm_up = progress.elapsed < plan_.warm_up;
    if (plan_.requests > 0) {
      progress.fraction = 1 - static_cast<double>(state_.requests_left.load()) / static_cast<double>(plan_.requests);
    } else if (progress.planned > Duration::zero()) {
      progress.fraction = std::min(1.0, to_seconds(progress.elapsed) / to_seconds(progress.planned));
    }
    progress.sent = window.sent;
    progress.succeeded = window.succeeded;
    progress.failed = window.failed;
    const std::uint64_t answered = window.succeeded + window.failed;
    progress.in_flight = window.sent - answered;
    const double seconds = to_seconds(now - last_at_);
    progress.rate =
        last_at_ == Instant{} || seconds <= 0 ? 0 : static_cast<double>(answered - last_answered_) / seconds;
    progress.recent.merge(window.recent);
    last_at_ = now;
    last_answered_ = answered;
    options_.progress(progress);
  }

 private:
  const Plan& plan_;
  const RunState& state_;
  const EngineOptions& options_;
  Instant last_at_{};
  std::uint64_t last_answered_ = 0;
};

}  // namespace

Result<RunResult> run_plan(const Plan& plan, const EngineOptions& options) {
  std::vector<io::SocketAddress> addresses;
  for (const auto& endpoint : plan.endpoints) {
    auto address = resolve(endpoint);
    if (!address) return failure(address.error());
    if (auto status = try_connect(*address, endpoint); !status) return failure(status.error());
    addresses.push_back(*address);
  }
  const auto connections = connections_allowed(plan);
  if (!connections) return failure(connections.error());
  io::ignore_sigpipe();

  RunState state;
  state.stop = options.stop;
  state.connections = *connections;
  state.requests_left = plan.requests;
  state.begin = io::Loop::now() + kStartDelay;
  state.begin_wall = io::Loop::wall_now() + std::chrono::duration_cast<std::chrono::microseconds>(kStartDelay);
  std::vector<std::unique_ptr<Client>> clients;
  for (unsigned i = 0; i < plan.threads; ++i)
    clients.push_back(std::make_unique<Client>(plan, state, addresses, i, plan.threads));

  struct Outcome {
    Status status;
    double cpu_seconds = 0;
  };
  std::vector<Outcome> outcomes(plan.threads);
  std::atomic<unsigned> running{plan.threads};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < plan.threads; ++i) {
    threads.emplace_back([&, i] {
      ::prctl(PR_SET_TIMERSLACK, 1UL);  // a call is due at its nanosecond, not up to 50 us later
      outcomes[i].status = clients[i]->run();
      outcomes[i].cpu_seconds = thread_cpu_seconds();
      --running;
    });
  }
  Reporter reporter(plan, state, options);
  Instant report_at = state.begin + kReportEvery;
  while (running.load() > 0) {
    std::this_thread::sleep_for(10ms);
    if (io::Loop::now() < report_at) continue;
    report_at += kReportEvery;
    reporter.report(clients);
  }
  for (auto& thread : threads) thread.join();

  RunResult result;
  result.started = state.begin_wall;
  result.measurement = std::make_unique<Measurement>(plan.targets.size(), plan.request.invitro, plan.keep_records);
  for (unsigned i = 0; i < plan.threads; ++i) {
    if (!outcomes[i].status) return failure(outcomes[i].status.error());
    result.measurement->merge(clients[i]->measurement());
    result.cpu_seconds += outcomes[i].cpu_seconds;
    result.connections_opened += clients[i]->connections_opened();
    result.in_flight_max += clients[i]->in_flight_max();
  }
  result.was_stopped = state.is_stopped();
  if (result.was_stopped) result.measurement->not_sent += state.requests_left.load();
  result.wall_seconds = to_seconds(io::Loop::now() - state.begin);
  return result;
}

}  // namespace dirigent::bench
