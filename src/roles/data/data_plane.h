// SPDX-License-Identifier: MIT
//
// The shards of one data plane and the switchboard that feeds them: everything of the data role but its connection to the
// control plane and its admin port. Shard 0 runs on the main loop, the others on threads of their own. Called on the main
// loop's thread.
#pragma once

#include <asio/steady_timer.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dirigent/core/switchboard.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/task.h"
#include "roles/data/access_log.h"
#include "roles/data/async_desk.h"
#include "roles/data/proxy_options.h"
#include "roles/data/proxy_shard.h"

namespace dirigent::roles {

class DataPlane {
 public:
  // `tell` gets what the control plane has to know, on the main loop. Errors: invalid_argument names the option;
  // already_exists: the address is taken. `open_store`: of a test; none = the directory of the options.
  static Result<std::unique_ptr<DataPlane>> open(io::Loop& main, ProxyOptions options,
                                                 std::function<void(std::vector<DataPlaneMessage>)> tell,
                                                 AsyncDesk::OpenStore open_store = {});
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;
  // REQUIRES: stop() or abandon() has ended.
  ~DataPlane();

  void apply(const RouteUpdate& update);
  void report_all();
  // A session with a control plane begins: what we have of sandboxes' limits.
  std::vector<SlotShare> begin_session() { return switchboard_.begin_session(); }

  [[nodiscard]] const std::string& address() const { return address_; }
  // A complete route update has been applied.
  [[nodiscard]] bool has_routes() const { return switchboard_.complete(); }
  [[nodiscard]] bool draining() const { return draining_; }
  // /healthz says 503 from now on; everything else goes on.
  void announce_leaving() { shared_.leaving.store(true, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t sandboxes() const { return switchboard_.sandboxes(); }
  [[nodiscard]] std::size_t functions() const { return switchboard_.functions(); }
  // Client connections of all shards.
  [[nodiscard]] std::uint32_t connections() const { return shared_.connections.load(std::memory_order_relaxed); }

  // Requests that hold a slot, all shards.
  [[nodiscard]] std::uint32_t in_flight() const;

  // What every shard counts. Waits for a turn of each shard's loop.
  io::Task<std::vector<MetricsSnapshot>> snapshot();

  // The last calls that match, in the order of their ends on each shard; with `after`, one sequence per shard (missing ones
  // are 0), those that ended after it. Waits for a turn of each shard's loop.
  struct Calls {
    std::vector<std::vector<CallRecord>> by_shard;
    std::vector<std::uint64_t> cursor;  // for `after`, to go on
  };
  io::Task<Calls> calls(CallQuery query, std::vector<std::uint64_t> after);
  // What became of the calls of the last `window`, function by function, one entry per shard.
  io::Task<std::vector<RecentWindow>> recent(Duration window);
  [[nodiscard]] std::uint64_t access_log_dropped() const;
  // nullptr: asynchronous calls are off.
  [[nodiscard]] AsyncDesk* async() { return desk_.get(); }

  // Stops accepting, lets requests finish within `drain`, refuses and cuts what is left, joins the threads.
  io::Action stop(Duration drain);
  // The same at once and without a coroutine: for a start that failed half-way. Nothing is answered.
  void abandon();

 private:
  struct Shard {
    std::unique_ptr<io::Loop> own_loop;  // none for shard 0
    io::Loop* loop = nullptr;
    std::unique_ptr<ProxyShard> proxy;
    std::thread thread;
    bool drained = false;
    bool finished = false;
  };

  DataPlane(io::Loop& main, ProxyOptions options, std::function<void(std::vector<DataPlaneMessage>)> tell);
  Status open_shards();
  Status open_desk(AsyncDesk::OpenStore open_store);
  ShardPorts ports_of(std::uint32_t index);
  // Runs `work` on the thread of a shard: at once for shard 0, posted for the others.
  template <class Work>
  void on_shard(std::uint32_t index, Work work);
  // Runs `work` on the thread of a shard, later in any case; dropped when we are gone by then.
  template <class Work>
  void post_to_shard(std::uint32_t index, Work work);
  // Runs `work` on the main loop, later; from any shard's thread.
  template <class Work>
  void on_main(Work work);
  void perform(core::SwitchboardEffects effects);
  void shard_applied(std::uint32_t index, std::uint64_t number);
  void join();
  // Waits until `done` says so, at most until `deadline`; looked at whenever progress() is called.
  template <class Done>
  io::Action wait_for(Done done, Instant deadline);
  void progress() { progress_.cancel(); }
  // What `look` says of every shard, by shard.
  template <class Part, class Look>
  io::Task<std::vector<Part>> gather(Look look);

  io::Loop& main_;
  const ProxyOptions options_;
  std::function<void(std::vector<DataPlaneMessage>)> tell_;
  std::string address_;
  core::Switchboard switchboard_;  // freed after the shards, which hold pointers into it
  std::unique_ptr<AccessLog> access_log_;
  std::unique_ptr<AsyncDesk> desk_;  // before the shards: what they still tell it while they end finds it
  DataPlaneShared shared_;
  std::vector<Shard> shards_;
  asio::steady_timer progress_;
  // Main-loop handlers of shards hold it weakly: a late one finds that we are gone.
  std::shared_ptr<DataPlane*> alive_;
  bool draining_ = false;
  bool stopped_ = false;
};

// A listening TCP socket, non-blocking; `shared` = other sockets will listen at the same address. Port 0 gets a free one.
Result<int> listen_tcp(const std::string& address, bool shared);

}  // namespace dirigent::roles
