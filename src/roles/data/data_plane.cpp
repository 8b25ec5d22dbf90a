// SPDX-License-Identifier: MIT
#include "roles/data/data_plane.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "dirigent/base/assert.h"
#include "dirigent/base/fault_point.h"
#include "dirigent/base/log.h"

namespace dirigent::roles {

namespace {

constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};
constexpr int kBacklog = 4096;

Result<int> open_listener(const std::string& text, const SocketAddress& address, bool shared) {
  const int fd = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno_failure(errno, "cannot make a socket");
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (shared) ::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // inherited by accepted connections
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0 || ::listen(fd, kBacklog) != 0) {
    const int error = errno;
    ::close(fd);
    return errno_failure(error, fmt::format("cannot listen on {}", text));
  }
  return fd;
}

std::string local_address(int fd) {
  SocketAddress address;
  address.size = sizeof address.storage;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  return to_string(address);
}

}  // namespace

Result<int> listen_tcp(const std::string& text, bool shared) {
  const auto address = parse_socket_address(text);
  if (!address) return failure(address.error().within("listen"));
  return open_listener(text, *address, shared);
}

Result<std::unique_ptr<DataPlane>> DataPlane::open(io::Loop& main, ProxyOptions options,
                                                   std::function<void(std::vector<DataPlaneMessage>)> tell,
                                                   AsyncDesk::OpenStore open_store) {
  if (options.calls_kept < 1 || options.calls_kept > 10'000'000) {
    return failure(ErrorCode::invalid_argument, "calls_kept: {} is not 1 to 10000000", options.calls_kept);
  }
  if (!(options.access_log_sample >= 0 && options.access_log_sample <= 1)) {
    return failure(ErrorCode::invalid_argument, "access_log_sample: {} is not 0 to 1", options.access_log_sample);
  }
  if (options.shards < 1 || options.shards > 256) {
    return failure(ErrorCode::invalid_argument, "shards: {} is not 1 to 256", options.shards);
  }
  std::unique_ptr<DataPlane> plane(new DataPlane(main, std::move(options), std::move(tell)));
  if (Status opened = plane->open_shards(); !opened) {
    plane->abandon();
    return failure(opened.error());
  }
  if (Status opened = plane->open_desk(std::move(open_store)); !opened) {
    plane->abandon();
    return failure(opened.error());
  }
  return plane;
}

DataPlane::DataPlane(io::Loop& main, ProxyOptions options, std::function<void(std::vector<DataPlaneMessage>)> tell)
    : main_(main), options_(std::move(options)), tell_(std::move(tell)), switchboard_(options_.shards),
      progress_(main.context()), alive_(std::make_shared<DataPlane*>(this)) {
  progress_.expires_at(std::chrono::steady_clock::time_point::max());
}

DataPlane::~DataPlane() { ASSERT(stopped_, "a data plane is destroyed without having been stopped"); }

Status DataPlane::open_shards() {
  if (!options_.access_log.empty()) {
    auto log = AccessLog::open(options_.access_log);
    if (!log) return failure(log.error());
    access_log_ = std::move(*log);
    shared_.access_log = access_log_.get();
  }
  const bool is_shared = options_.shards > 1;
  if (is_shared) {
    // With SO_REUSEPORT a second data plane on the same port would silently take half of the connections.
    const auto probe = listen_tcp(options_.listen, false);
    if (!probe) return failure(probe.error());
    ::close(*probe);
  }
  shards_.resize(options_.shards);
  std::string listen = options_.listen;
  for (std::uint32_t i = 0; i < options_.shards; ++i) {
    Shard& shard = shards_[i];
    if (i > 0) shard.own_loop = std::make_unique<io::Loop>();
    shard.loop = i > 0 ? shard.own_loop.get() : &main_;
    const auto fd = listen_tcp(listen, is_shared);
    if (!fd) return failure(fd.error());
    if (i == 0) address_ = listen = local_address(*fd);
    auto proxy = ProxyShard::open(*shard.loop, options_, i, *fd, shared_, ports_of(i));
    if (!proxy) return failure(proxy.error());
    shard.proxy = std::move(*proxy);
  }
  for (std::uint32_t i = 1; i < options_.shards; ++i) {
    // Signals are the main thread's business.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    shards_[i].thread = std::thread([loop = shards_[i].loop] { loop->run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_setname_np(shards_[i].thread.native_handle(), fmt::format("shard-{}", i).c_str());
  }
  return {};
}

Status DataPlane::open_desk(AsyncDesk::OpenStore open_store) {
  if (options_.async.durability == AsyncOptions::Durability::off) return {};
  AsyncHost host;
  host.shards = options_.shards;
  host.run = [this](std::uint32_t shard, StoredRun run) {
    auto work = [run = std::move(run)](ProxyShard& proxy) mutable { proxy.run_stored(std::move(run)); };
    post_to_shard(shard, std::move(work));
  };
  host.reply = [this](std::uint32_t shard, core::RequestToken token, AsyncReply reply) {
    auto work = [token, reply = std::move(reply)](ProxyShard& proxy) mutable { proxy.async_replied(token, std::move(reply)); };
    post_to_shard(shard, std::move(work));
  };
  host.waiting = [this](std::string_view function) { return shards_[0].proxy->waiting(function); };
  host.has_routes = [this] { return switchboard_.complete(); };
  auto desk = AsyncDesk::open(main_, options_.async, std::move(host), std::move(open_store));
  if (!desk) return failure(desk.error());
  desk_ = std::move(*desk);
  // The shards read it on their threads; whoever was accepted before this was told that nothing is taken.
  shared_.async.store(desk_.get(), std::memory_order_release);
  return {};
}

template <class Work>
void DataPlane::post_to_shard(std::uint32_t index, Work work) {
  ProxyShard* proxy = shards_[index].proxy.get();
  shards_[index].loop->post([proxy, weak = std::weak_ptr<DataPlane*>(alive_), work = std::move(work)]() mutable {
    if (const auto self = weak.lock()) work(*proxy);
  });
}

template <class Work>
void DataPlane::on_shard(std::uint32_t index, Work work) {
  ProxyShard* proxy = shards_[index].proxy.get();
  if (index == 0) {
    work(*proxy);
  } else {
    shards_[index].loop->post([proxy, work = std::move(work)]() mutable { work(*proxy); });
  }
}

template <class Work>
void DataPlane::on_main(Work work) {
  main_.post([alive = std::weak_ptr<DataPlane*>(alive_), work = std::move(work)]() mutable {
    if (const auto self = alive.lock()) work(**self);
  });
}

ShardPorts DataPlane::ports_of(std::uint32_t index) {
  ShardPorts ports;
  ports.post = [this](std::uint32_t to, std::vector<core::ShardMessage> messages) {
    ProxyShard* proxy = shards_[to].proxy.get();
    shards_[to].loop->post([proxy, weak = std::weak_ptr<DataPlane*>(alive_), messages = std::move(messages)]() mutable {
      if (const auto self = weak.lock()) proxy->receive(std::move(messages));
    });
  };
  ports.tell_control = [this, index](std::vector<DataPlaneMessage> messages) {
    // Demand of shard 0 takes no detour through the loop's queue: it is what a cold start waits for.
    if (index == 0) {
      tell_(std::move(messages));
    } else {
      on_main([messages = std::move(messages)](DataPlane& self) mutable { self.tell_(std::move(messages)); });
    }
  };
  ports.tell_released = [this] {
    on_main([](DataPlane& self) {
      core::SwitchboardEffects effects;
      self.switchboard_.slots_released(effects);
      self.perform(std::move(effects));
    });
  };
  ports.drained = [this, index] {
    on_main([index](DataPlane& self) {
      self.shards_[index].drained = true;
      self.progress();
    });
  };
  return ports;
}

// --- routes -------------------------------------------------------------------------------------------------------

void DataPlane::apply(const RouteUpdate& update) {
  DIRIGENT_FAULT_POINT("data.before_routes");
  core::SwitchboardEffects effects;
  switchboard_.apply(update, io::Loop::now(), effects);
  perform(std::move(effects));
  if (switchboard_.complete()) shared_.routes_complete.store(true, std::memory_order_relaxed);
  if (desk_) desk_->routes_changed();
}

void DataPlane::perform(core::SwitchboardEffects effects) {
#if DIRIGENT_HAS_FAULT_POINTS
  const bool confirms = std::any_of(effects.told.begin(), effects.told.end(), [](const auto& one) { return std::holds_alternative<RoutesApplied>(one); });
  if (confirms) DIRIGENT_FAULT_POINT("data.before_confirm");
  // The bytes leave in the turns after this one.
  if (confirms) main_.post([&main = main_] { main.post([] { DIRIGENT_FAULT_POINT("data.confirmed"); }); });
#endif
  if (!effects.told.empty()) tell_(std::move(effects.told));
  for (const auto& change : effects.published) {
    for (std::uint32_t i = 0; i < shards_.size(); ++i) {
      on_shard(i, [this, i, change](ProxyShard& shard) {
        shard.apply(*change);
        // Posted also by shard 0: confirming may free what this very change still walks over.
        main_.post([alive = std::weak_ptr<DataPlane*>(alive_), i, number = change->number] {
          if (const auto self = alive.lock()) (*self)->shard_applied(i, number);
        });
      });
    }
  }
}

void DataPlane::shard_applied(std::uint32_t index, std::uint64_t number) {
  core::SwitchboardEffects effects;
  switchboard_.shard_applied(index, number, effects);
  perform(std::move(effects));
}

std::uint32_t DataPlane::in_flight() const {
  std::uint32_t sum = 0;
  for (const Shard& shard : shards_) sum += shard.proxy->in_flight();
  return sum;
}

void DataPlane::report_all() {
  for (std::uint32_t i = 0; i < shards_.size(); ++i) {
    on_shard(i, [](ProxyShard& shard) { shard.report_all(); });
  }
}

// --- metrics ------------------------------------------------------------------------------------------------------

template <class Part, class Look>
io::Task<std::vector<Part>> DataPlane::gather(Look look) {
  struct Gathering {
    std::vector<Part> parts;
    std::size_t missing = 0;
    asio::steady_timer complete;
    explicit Gathering(io::Loop& loop) : complete(loop.context()) {
      complete.expires_at(std::chrono::steady_clock::time_point::max());
    }
  };
  if (stopped_) co_return failure(ErrorCode::cancelled, "the data plane has stopped");
  auto gathering = std::make_shared<Gathering>(main_);
  gathering->parts.resize(shards_.size());
  gathering->missing = shards_.size();
  for (std::uint32_t i = 0; i < shards_.size(); ++i) {
    on_shard(i, [&main = main_, gathering, i, look](ProxyShard& shard) {
      main.post([gathering, i, part = look(i, shard)]() mutable {
        gathering->parts[i] = std::move(part);
        if (--gathering->missing == 0) gathering->complete.cancel();
      });
    });
  }
  while (gathering->missing > 0) {
    std::error_code error;
    co_await gathering->complete.async_wait(asio::redirect_error(use_task, error));
    if (gathering->missing > 0 && stopped_) co_return failure(ErrorCode::cancelled, "the data plane has stopped");
  }
  co_return std::move(gathering->parts);
}

io::Task<std::vector<MetricsSnapshot>> DataPlane::snapshot() {
  auto look = [](std::uint32_t, ProxyShard& shard) { return shard.snapshot(); };
  co_return co_await gather<MetricsSnapshot>(look);
}

io::Task<DataPlane::Calls> DataPlane::calls(CallQuery query, std::vector<std::uint64_t> after) {
  struct Part {
    std::vector<CallRecord> records;
    std::uint64_t newest = 0;
  };
  auto wanted = std::make_shared<std::pair<CallQuery, std::vector<std::uint64_t>>>(std::move(query), std::move(after));
  auto look = [wanted](std::uint32_t index, ProxyShard& shard) {
    const auto& [common, cursor] = *wanted;
    Part part;
    part.newest = shard.calls().newest();
    if (cursor.empty()) {
      part.records = shard.calls().find(common);
    } else if (index < cursor.size() && cursor[index] < part.newest) {
      CallQuery own = common;
      own.after = cursor[index];
      // A shard that had no call yet is asked for all it has.
      part.records = shard.calls().find(own);
      if (part.records.size() == own.limit) part.newest = part.records.back().sequence;
    }
    return part;
  };
  auto parts = co_await gather<Part>(look);
  if (!parts) co_return failure(parts.error());
  Calls calls;
  for (Part& part : *parts) {
    calls.by_shard.push_back(std::move(part.records));
    calls.cursor.push_back(part.newest);
  }
  co_return calls;
}

io::Task<std::vector<RecentWindow>> DataPlane::recent(Duration window) {
  const std::int64_t now_us = io::Loop::wall_now().time_since_epoch() / 1us;
  auto look = [now_us, window](std::uint32_t, ProxyShard& shard) { return shard.calls().recent(now_us, window); };
  co_return co_await gather<RecentWindow>(look);
}

std::uint64_t DataPlane::access_log_dropped() const { return access_log_ ? access_log_->dropped() : 0; }

// --- stopping -----------------------------------------------------------------------------------------------------

template <class Done>
io::Action DataPlane::wait_for(Done done, Instant deadline) {
  while (!done()) {
    const auto left = deadline - io::Loop::now();
    if (left <= Duration::zero()) co_return;
    // A deadline beyond a day is none; steady_clock arithmetic must not overflow.
    progress_.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::min<Duration>(left, 24h)));
    std::error_code error;
    co_await progress_.async_wait(asio::redirect_error(use_task, error));
  }
}

io::Action DataPlane::stop(Duration drain) {
  ASSERT(!draining_, "a data plane is stopped twice");
  draining_ = true;
  if (desk_) desk_->stop_running();
  for (std::uint32_t i = 0; i < shards_.size(); ++i) {
    on_shard(i, [](ProxyShard& shard) { shard.drain(); });
  }
  auto all_drained = [this] { return std::all_of(shards_.begin(), shards_.end(), [](const Shard& s) { return s.drained; }); };
  co_await wait_for(all_drained, io::Loop::now() + std::min<Duration>(drain, 24h));
  for (std::uint32_t i = 0; i < shards_.size(); ++i) {
    on_shard(i, [this, i](ProxyShard& shard) {
      shard.finish_now();
      on_main([i](DataPlane& self) {
        self.shards_[i].finished = true;
        self.progress();
      });
    });
  }
  auto all_finished = [this] { return std::all_of(shards_.begin(), shards_.end(), [](const Shard& s) { return s.finished; }); };
  co_await wait_for(all_finished, io::Loop::now() + 24h);
  if (desk_) co_await desk_->close();
  join();
}

void DataPlane::join() {
  for (Shard& shard : shards_) {
    if (!shard.thread.joinable()) continue;
    shard.loop->stop();
    shard.thread.join();
  }
  // Messages between shards that no loop will run any more may hold slots of requests whose clients were refused: their
  // receivers give them back.
  for (Shard& shard : shards_) {
    if (shard.own_loop) shard.own_loop->poll();
  }
  if (desk_) desk_->close_now();
  alive_.reset();
  for (Shard& shard : shards_) shard.proxy.reset();
  stopped_ = true;
}

void DataPlane::abandon() {
  draining_ = true;
  for (Shard& shard : shards_) {
    if (shard.proxy && !shard.thread.joinable()) shard.proxy->finish_now();
  }
  for (Shard& shard : shards_) {
    if (shard.thread.joinable()) shard.loop->post([proxy = shard.proxy.get()] { proxy->finish_now(); });
    if (shard.thread.joinable()) shard.loop->post([loop = shard.loop] { loop->stop(); });
    if (shard.thread.joinable()) shard.thread.join();
  }
  join();
}

}  // namespace dirigent::roles
