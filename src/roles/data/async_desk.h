// SPDX-License-Identifier: MIT
//
// The desk of asynchronous calls: joins what core::AsyncQueue decides with the stores that keep the calls, the shards
// that make attempts, and the receivers of callbacks. Lives on the main loop, beside shard 0.
//
//   shard --submit--> desk --write--> store --synced--> desk --202--> shard
//                      |  `--run--> a shard's StoredFront --ended--> desk --write--> store --synced--> visible, callback
//
// A store whose files are in use, broken or full makes asynchronous calls unavailable, never synchronous ones.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "dirigent/base/histogram.h"
#include "dirigent/core/async_queue.h"
#include "dirigent/io/blocking_pool.h"
#include "dirigent/io/http.h"
#include "dirigent/io/loop.h"
#include "dirigent/io/prometheus.h"
#include "dirigent/io/task.h"
#include "dirigent/roles/data_role.h"
#include "dirigent/store/call_store.h"
#include "roles/data/async_callback.h"
#include "roles/data/async_record.h"

namespace dirigent::roles {

// What the desk needs of its data plane. Called on the main loop.
struct AsyncHost {
  std::uint32_t shards = 1;
  std::function<void(std::uint32_t shard, StoredRun run)> run;
  std::function<void(std::uint32_t shard, core::RequestToken token, AsyncReply reply)> reply;
  // Requests in a function's queue; nullopt: not known here.
  std::function<std::optional<std::uint32_t>(std::string_view function)> waiting;
  std::function<bool()> has_routes;
};

// Names and values of a function's labels, from what a control plane answers to GET /v1/functions/NAME: those of the
// revision that serves, else of the newest.
std::vector<std::pair<std::string, std::string>> labels_of_function(std::string_view json);

class AsyncDesk final : public AsyncDoor {
 public:
  // A store for tests; the default opens the directory of the options.
  using OpenStore = std::function<Result<std::unique_ptr<store::CallStore>>(store::CallStoreOptions)>;

  // Errors: invalid_argument names the option. A store that cannot be opened is no error: it is tried again every
  // second, and calls are refused meanwhile.
  static Result<std::unique_ptr<AsyncDesk>> open(io::Loop& main, AsyncOptions options, AsyncHost host, OpenStore open_store = {});
  ~AsyncDesk();

  // --- AsyncDoor: any thread
  void submit(std::uint32_t shard, core::RequestToken token, AsyncSubmission submission) override;
  void ask(std::uint32_t shard, core::RequestToken token, AsyncQuestion question, CallId id) override;
  void ended(CallId id, core::AttemptOutcome outcome, StoredResult result) override;
  [[nodiscard]] const Limits& limits() const override { return limits_; }

  // --- main loop
  // No further attempts are begun; those that run may end.
  void stop_running() { stopping_ = true; }
  // After the last attempt has ended: ends callbacks and readers, and writes what the stores were given.
  io::Action close();
  // The same for a start that failed half-way. REQUIRES: nothing has been asked of it yet.
  void close_now();
  // New routes: calls of functions that were unknown may run now.
  void routes_changed();

  // The answer about a call that one of our stores keeps; nullopt: another data plane's.
  io::Task<std::optional<AsyncReply>> local_result(CallId id);
  // The same, from whichever data plane has it.
  io::Task<AsyncReply> result(CallId id);
  // 202 when it waited and does not any more, 409 when it runs or is over.
  [[nodiscard]] std::optional<AsyncReply> local_cancel(const CallId& id);
  [[nodiscard]] const core::AsyncQueue& queue() const { return *queue_; }
  io::Task<StoredRequest> read_request(CallId id);
  Status cancel(const CallId& id);
  Status redrive(const CallId& id);
  Status purge(const CallId& id);
  // Errors: not_found (no store of calls), already_exists (open here, or by somebody else), and those of opening it.
  io::Task<void> adopt(std::string directory);
  struct Shelf {
    StoreId id = 0;
    std::string directory;      // "" = memory
    std::string problem;        // "" = open
    bool adopted = false;
    store::CallStoreFigures figures;
    store::StoreDamage damage;
  };
  [[nodiscard]] std::vector<Shelf> shelves() const;
  [[nodiscard]] bool owns(const CallId& id) const { return store_of(id) != nullptr; }
  [[nodiscard]] WallTime now() const;
  void write_metrics(io::PrometheusWriter& writer) const;

 private:
  struct Place {
    std::uint32_t shard = 0;
    core::RequestToken token{};
  };
  // A state on its way to the disk. What failed is written again with the state as it is by then.
  struct Unsaved {
    std::string result;
    bool with_result = false;
    std::uint8_t drops = 0;
    std::uint32_t writes = 0;         // that the queue waits for
    std::uint32_t failed_writes = 0;  // of them, to be done again
  };
  struct BeingStored {
    std::vector<Place> places;        // who waits for the 202
    Instant since{};
  };

  AsyncDesk(io::Loop& main, AsyncOptions options, AsyncHost host, OpenStore open_store);
  template <class Work>
  void on_main(Work work);
  // A store with many calls is read for seconds: on a helper, but for the start, when nothing waits yet.
  struct OpenedStore {
    std::unique_ptr<store::CallStore> store;
    std::vector<store::FoundCall> calls;
    Instant begun{};
  };
  [[nodiscard]] Result<OpenedStore> open_store(const std::string& directory) const;
  Status take_in(OpenedStore opened, bool adopted);
  io::Task<void> open_later(std::string directory, bool adopted);
  io::Action try_own();
  io::Action try_one(std::string directory);
  void try_adopting();
  Status load_secret();
  void load(store::CallStore& store, const std::vector<store::FoundCall>& found);
  [[nodiscard]] store::CallStore* store_of(const CallId& id) const;
  CallId new_id();

  void accept(Place place, AsyncSubmission submission);
  void accepted(const CallId& id, const Status& status);
  void drop_hot(const CallId& id);
  [[nodiscard]] AsyncReply accepted_reply(const CallId& id) const;
  void answer(Place place, AsyncQuestion question, const CallId& id);
  io::Action answer_result(Place place, CallId id);
  io::Action answer_cancel(Place place, CallId id);
  void attempt_ended(const CallId& id, const core::AttemptOutcome& outcome, StoredResult result);
  void settle_attempt(const CallId& id, const core::AttemptOutcome& outcome, StoredResult result);
  // A failed attempt of a function whose retry labels are not known, or not lately: asks the control plane first.
  io::Action learn_and_settle(CallId id, core::AttemptOutcome outcome, StoredResult result, FunctionName function);

  void pump();
  void perform();
  void start(const CallId& id, std::uint32_t attempt);
  io::Action read_and_start(CallId id, std::uint32_t attempt);
  void start_with(const CallId& id, std::uint32_t attempt, std::string_view bytes);
  void unreadable(const CallId& id, const Error& error);
  void save(core::AsyncEffects::Save& save);
  void write_state(const CallId& id, const core::CallState& state, const Unsaved& what);
  void state_written(const CallId& id, const Status& status);
  void retry_unsaved();
  void begin_callbacks();
  io::Action call_back(CallId id);
  io::Task<std::uint16_t> deliver(CallId id);
  io::Task<std::string> read_part(CallId id, store::CallPart part);
  io::Task<std::vector<std::string>> other_planes();
  io::Task<AsyncReply> ask_others(std::string method, CallId id);
  void on_wakeup();
  void arm();

  io::Loop& main_;
  const AsyncOptions options_;
  AsyncHost host_;
  OpenStore open_store_;
  Limits limits_;
  CallbackRules callback_rules_;
  const WallTime wall_begun_;
  const Instant begun_;
  std::unique_ptr<core::AsyncQueue> queue_;
  std::vector<std::unique_ptr<store::CallStore>> stores_;  // ours first, once it is open
  bool own_is_open_ = false;
  std::string own_problem_;
  std::set<std::string> being_opened_;
  Instant open_tried_{};
  Instant adoption_tried_{};
  std::unordered_map<CallId, BeingStored, CallIdHash> being_stored_;
  std::unordered_map<CallId, std::string, CallIdHash> hot_;                   // encoded requests that were just accepted
  std::size_t hot_bytes_ = 0;
  std::unordered_map<CallId, std::string, CallIdHash> results_;               // encoded, of attempts that ended
  std::unordered_map<CallId, Unsaved, CallIdHash> saving_;
  std::deque<CallId> unsaved_;                                                // whose write failed
  Instant saves_tried_{};
  core::AsyncEffects effects_;
  bool is_performing_ = false;
  std::deque<CallId> callbacks_;                                              // that wait for one of the places
  std::uint32_t callbacks_running_ = 0;
  std::unordered_map<std::string, Instant> labels_read_;                      // of functions
  std::string secret_;
  std::vector<std::string> others_;                                           // admin addresses of all data planes
  Instant others_read_{};
  std::uint32_t next_shard_ = 0;
  bool stopping_ = false;
  bool closed_ = false;
  Histogram commit_;       // from the submission to the 202
  std::uint64_t refused_ = 0;
  std::uint64_t repeated_ = 0;
  std::uint64_t damaged_calls_ = 0;
  std::array<char, 4096> random_{};
  std::size_t random_left_ = 0;
  std::unique_ptr<io::BlockingPool> readers_;
  std::unique_ptr<io::BlockingPool> secure_callers_;  // of https callbacks; made with the first one
  std::unique_ptr<io::TaskGroup> tasks_;
  io::WakeupTimer timer_;
  Instant tidied_{};
  Instant armed_{};
  std::shared_ptr<AsyncDesk*> alive_;
};

}  // namespace dirigent::roles
