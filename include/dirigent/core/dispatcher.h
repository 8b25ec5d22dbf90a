// SPDX-License-Identifier: MIT
//
// The dispatcher: what one shard of a data plane decides about requests. Plain synchronous code; one owner, one thread.
//
//   arrive --> a slot is free ------------------------------> forward   --> finish
//          \-> none is: parked in the function's FIFO, which its home shard keeps
//                   |- a slot is freed or a sandbox appears -> granted   --> finish
//                   |- queue wait over, function unavailable -> refused
//                   \- the client went away: abandon
//
// Promises: the concurrency limit of a sandbox is never exceeded; a request never waits while some sandbox of its
// function has a free slot; the waiting requests of a function are served in the order of their arrival; every request
// gets exactly one of forward/granted (and then one finish), refused, or abandoned.
//
// Shards exchange ShardMessages (in order between two shards); nothing else. The warm path allocates nothing once the
// containers have grown.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "dirigent/base/random.h"
#include "dirigent/base/time.h"
#include "dirigent/core/slots.h"
#include "dirigent/model/messages.h"
#include "dirigent/policy/balancer.h"

namespace dirigent::core {

// Names a request of this shard towards the dispatcher; chosen by the role, unique among its unanswered requests.
using RequestToken = StrongNumber<struct RequestTokenTag, std::uint64_t>;

// The immutable route of a function as the Switchboard publishes it to every shard.
struct RoutedFunction {
  FunctionRoute route;
  FunctionShared* shared = nullptr;
  std::vector<SandboxSlots*> sandboxes;  // same order as route.sandboxes
};

// A change for every shard: functions with a new route, and functions that are gone. Shards apply it and confirm `number`.
struct RouteTableChange {
  std::uint64_t number = 0;
  std::vector<std::shared_ptr<const RoutedFunction>> changed;
  std::vector<FunctionShared*> removed;
};

// A slot taken by one request. Must be given back by exactly one finish() or retry().
struct Lease {
  SandboxSlots* sandbox = nullptr;
  FunctionShared* function = nullptr;
  Instant arrived{};
  Instant granted{};
  std::uint8_t attempts = 0;  // connections to other sandboxes that failed before this one

  // The request waited for this very sandbox to be started.
  [[nodiscard]] bool cold() const { return arrived < sandbox->routed_at; }
};

struct Refusal {
  Reason reason = Reason::none;
  std::string detail;
  Duration retry_after{};  // 0 = none
};

struct Admission {
  enum class Kind { forward, parked, refused };
  Kind kind = Kind::parked;
  Lease lease;      // forward
  Refusal refusal;  // refused
};

enum class Outcome {
  answered,       // a whole response was relayed
  failed,         // the sandbox broke the connection or sent nonsense
  client_gone,
};

// --- between shards of one data plane -----------------------------------------------------------------------------

struct ParkMessage { FunctionShared* function; RequestToken token; std::uint32_t origin; Instant arrived; std::uint8_t attempts; };
struct UnparkMessage { FunctionShared* function; RequestToken token; std::uint32_t origin; };
struct GrantMessage { RequestToken token; Lease lease; };
struct RefuseMessage { RequestToken token; Refusal refusal; };
struct SlotFreedMessage { FunctionShared* function; };
using ShardMessage = std::variant<ParkMessage, UnparkMessage, GrantMessage, RefuseMessage, SlotFreedMessage>;

// What a call of the dispatcher wants done, in any order between the lists and in order within each.
struct DispatcherEffects {
  struct Granted { RequestToken token; Lease lease; };
  struct Refused { RequestToken token; Refusal refusal; };
  struct Posted { std::uint32_t shard; ShardMessage message; };

  std::vector<Granted> granted;             // forward these parked requests now
  std::vector<Refused> refused;             // answer these parked requests with an error
  std::vector<Posted> posted;               // hand to another shard's receive()
  std::vector<FunctionLoad> loads;          // tell the control plane
  std::vector<SandboxSuspected> suspected;  // tell the control plane

  bool released = false;  // tell the Switchboard: as few requests are in some sandbox as it waits for

  [[nodiscard]] bool empty() const;
  void clear();
};

struct DispatcherOptions {
  std::uint32_t shard = 0;
  std::uint32_t shards = 1;
  policy::BalancerKind balancer = policy::BalancerKind::knative;
  std::uint64_t seed = 1;
  Duration report_interval = 1s;        // of loads that are not zero
  Duration demand_interval_min = 2ms;   // between reports of growing queues
  Duration relief_interval_min = 10ms;  // from a report of a queue to the report that it is empty
  std::uint32_t attempts_max = 2;       // other sandboxes tried after a failed connection
};

class Dispatcher {
 public:
  explicit Dispatcher(DispatcherOptions options);
  ~Dispatcher();

  // The route of a function, nullptr when unknown. `name` in canonical form. Valid until the next apply().
  [[nodiscard]] const RoutedFunction* find(std::string_view name) const;

  // A request has arrived. REQUIRES: `function` comes from find() on this dispatcher after the last apply().
  // No effect but `posted` and `loads`.
  Admission arrive(const RoutedFunction& function, RequestToken token, Instant now, DispatcherEffects& effects);

  // The request is over; its slot goes to the oldest waiting request or is free.
  void finish(const Lease& lease, Outcome outcome, Instant now, DispatcherEffects& effects);

  // Not one byte of the request reached the sandbox: its slot is given back, the sandbox is suspected, and the request is
  // tried on another one, waiting before all that arrived later. Refused with sandbox_lost after attempts_max.
  Admission retry(const Lease& lease, RequestToken token, std::string_view detail, Instant now, DispatcherEffects& effects);

  // The client of a parked request went away. Ignored when the request has been granted or refused already.
  void abandon(RequestToken token, Instant now, DispatcherEffects& effects);

  void apply(const RouteTableChange& change, Instant now, DispatcherEffects& effects);
  void receive(ShardMessage message, Instant now, DispatcherEffects& effects);

  // Queue time limits and load reports.
  [[nodiscard]] std::optional<Instant> next_wakeup() const;
  void tick(Instant now, DispatcherEffects& effects);

  // Makes the next tick report every function with any load (a new control plane has to learn it).
  void report_all(Instant now);

  // Requests of this shard that hold a slot, and requests in the queues this shard keeps.
  [[nodiscard]] std::size_t in_flight() const { return in_flight_; }
  [[nodiscard]] std::size_t parked() const { return parked_; }

  // Loads and queue lengths by function, for metrics.
  struct FunctionStats { FunctionName function; std::uint32_t waiting; std::uint32_t in_flight; };
  [[nodiscard]] std::vector<FunctionStats> stats() const;

 private:
  struct Parked {
    RequestToken token;
    std::uint32_t origin;
    Instant arrived;
    std::uint8_t attempts;
  };
  struct Entry;

  Entry& entry_of(FunctionShared* function);
  bool take_slot(Entry& entry, Lease& lease, Instant now);
  Admission admit_or_park(Entry& entry, Lease lease, RequestToken token, Instant now, DispatcherEffects& effects);
  void park_here(Entry& entry, Parked request, Instant now, DispatcherEffects& effects);
  void serve_queue(Entry& entry, Instant now, DispatcherEffects& effects);
  void refuse_queue(Entry& entry, const Refusal& refusal, Instant now, DispatcherEffects& effects);
  void refuse_parked(const Parked& request, const Refusal& refusal, DispatcherEffects& effects);
  void give_back(SandboxSlots* sandbox, FunctionShared* function, Instant now, DispatcherEffects& effects);
  void begin_interval(Entry& entry, Instant now);
  void integrate(Entry& entry, Instant now);
  void want_report(Entry& entry, Instant when);
  void report(Entry& entry, Instant now, DispatcherEffects& effects);
  void schedule(Entry& entry);
  Duration estimate_retry_after(const Entry& entry, std::uint64_t salt) const;

  DispatcherOptions options_;
  Rng rng_;
  std::unordered_map<FunctionShared*, std::unique_ptr<Entry>> entries_;
  std::unordered_map<std::string_view, Entry*> by_name_;
  std::unordered_map<RequestToken, FunctionShared*> parked_tokens_;  // of requests of this shard, wherever they wait
  // Those of one instant in the order in which their functions came, not in that of their addresses: a run repeats.
  struct Wakeup {
    Instant when;
    std::uint64_t number;
    Entry* entry;
    bool operator<(const Wakeup& other) const { return when != other.when ? when < other.when : number < other.number; }
  };
  std::set<Wakeup> wakeups_;
  std::uint64_t next_number_ = 0;
  std::size_t in_flight_ = 0;
  std::size_t parked_ = 0;
};

}  // namespace dirigent::core
