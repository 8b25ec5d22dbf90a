// SPDX-License-Identifier: MIT
//
// The process runtime's class. Its parts: opening, launching and removing in process_runtime.cpp, the supply of parked
// cells in parking.cpp, what cells and the spawner report in events.cpp,
// what outlives a killed worker in adopting.cpp.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <unordered_map>

#include "dirigent/io/file_descriptor.h"
#include "dirigent/sandbox/process_runtime.h"
#include "sandbox/process/cell.h"
#include "sandbox/process/cgroups.h"
#include "sandbox/network/firewall.h"
#include "sandbox/network/network.h"
#include "sandbox/process/lodging.h"
#include "sandbox/process/spawner.h"
#include "sandbox/turns.h"

namespace dirigent::sandbox {

class ProcessRuntime final : public Runtime {
 public:
  ProcessRuntime(io::Loop& loop, ProcessRuntimeOptions options);
  ~ProcessRuntime() override;

  [[nodiscard]] std::string_view name() const override { return "process"; }
  io::Task<void> open() override;
  void on_end(std::function<void(SandboxId, SandboxEnd)> callback) override { on_end_ = std::move(callback); }
  std::vector<AdoptedSandbox> take_adopted() override;
  io::Task<Launched> launch(StartSandbox order) override;
  io::Task<void> prefetch(std::string image) override;
  io::Task<std::vector<std::string>> images() override;
  io::Task<void> remove(SandboxId id, Duration grace) override;
  io::Task<bool> probe(SandboxId id, std::string ready_path, Duration timeout) override;
  [[nodiscard]] std::vector<LogLine> logs(SandboxId id, std::size_t lines_max) const override;
  [[nodiscard]] std::vector<std::string> weaknesses() const override { return weaknesses_; }
  io::Task<void> close() override;

 private:
  using CellPtr = std::shared_ptr<Cell>;
  struct Waiter {
    Waiter(io::Loop& loop, std::string f) : signal(loop), function(std::move(f)) {}
    Signal signal;
    std::string function;
    std::size_t rank = 0;  // sandboxes its function has or waits for already
    CellPtr cell;
    Error error;
  };
  struct Opened {
    Cgroups cgroups;
    std::unique_ptr<Network> network;
    std::unique_ptr<Firewall> firewall;
    std::vector<std::string> weaknesses;
    NameLock node_lock;
    std::optional<Handover> handover;
  };

  // process_runtime.cpp
  [[nodiscard]] static Result<Opened> open_parts(const ProcessRuntimeOptions& options, bool full);
  Status start_spawner();
  Result<std::uint16_t> choose_port(const StartSandbox& order) const;
  io::Task<Launched> run_order(CellPtr cell, StartSandbox order, wire::Order wire_order, std::vector<io::FileDescriptor>& trees,
                               StartPhases phases);
  io::Task<void> publish(CellPtr cell, std::uint16_t port);

  // adopting.cpp
  void adopt(Handover handover);
  CellPtr restore(KeptSandbox kept);
  void keep(const CellPtr& cell, const StartSandbox& order, const Launched& launched);
  void note_ready(const CellPtr& cell);
  void forget(const CellPtr& cell);

  // parking.cpp
  void refill();
  [[nodiscard]] std::size_t parked_wanted() const;
  [[nodiscard]] bool may_stock() const;
  io::Task<void> wait_until_quiet();
  io::Task<void> park_one(bool is_urgent);
  io::Task<void> park(CellPtr cell, bool is_urgent);
  io::Task<void> find_lodging(CellPtr cell);
  [[nodiscard]] bool can_park() const;
  void parked_or_not(const CellPtr& cell, const Status& status);
  io::Task<CellPtr> take_cell(std::string function, Instant deadline);
  void note_launches();
  void line_up(const std::shared_ptr<Waiter>& waiter);
  io::Task<void> tend_pool();

  // events.cpp
  void read_spawner();
  void on_spawner_message(const std::string& bytes);
  void spawner_died();
  void read_control(const CellPtr& cell);
  bool drain_control(const CellPtr& cell);
  void on_cell_message(const CellPtr& cell, const std::string& bytes);
  void read_output(const CellPtr& cell, int stream);
  bool drain_output(const CellPtr& cell, int stream);
  void kill(const CellPtr& cell);
  void ended(const CellPtr& cell, std::optional<int> wait_status);
  SandboxEnd describe_end(const CellPtr& cell, std::optional<int> wait_status) const;
  void tell_end(const CellPtr& cell);
  void clean_up(const CellPtr& cell);
  void vacated(const LodgingPtr& lodging, Lodgings::State state);
  io::Task<void> settle(LodgingPtr lodging);
  io::Task<void> demolish(LodgingPtr lodging);
  void keep_logs(const CellPtr& cell);

  io::Loop& loop_;
  ProcessRuntimeOptions options_;
  bool full_ = false;
  bool closing_ = false;
  bool opened_ = false;
  std::function<void(SandboxId, SandboxEnd)> on_end_;
  std::vector<std::string> weaknesses_;

  std::shared_ptr<ImageStore> images_;
  std::unique_ptr<Helpers> helpers_;
  io::TaskGroup group_;
  Turns starts_;  // from the order to the cell's word that the function runs
  NameLock node_lock_;
  Cgroups cgroups_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<Firewall> firewall_;
  Lodgings lodgings_;
  Spawner spawner_;
  Cell::Descriptor spawner_socket_;

  std::uint32_t next_serial_ = 0;
  std::deque<std::uint32_t> numbers_;              // free addresses; the longest unused first
  std::deque<std::uint16_t> published_ports_;      // free ones, likewise
  std::unordered_map<std::uint32_t, CellPtr> by_serial_;  // every cell that is not gone
  std::unordered_map<SandboxId, CellPtr> by_id_;          // those that are sandboxes
  std::vector<CellPtr> adopted_;                          // until take_adopted()
  std::deque<CellPtr> parked_;
  std::deque<LodgingPtr> vacant_;                         // to be used again; the longest unused first
  std::deque<std::shared_ptr<Waiter>> waiters_;           // by rank, and of one rank in the order of arrival
  std::size_t parking_ = 0;
  std::size_t recent_launches_ = 0;                // in this second
  std::size_t demand_[2] = {};                     // launches of the busiest second of this period and of the last one
  bool is_busy_ = false;                           // launches come: wait_until_quiet() runs
  Instant busy_until_{};
  Instant refill_after_{};                         // after a failure to park
  CgroupLimits usual_limits_{128_MiB, Millicpu{100}, {}, 1024};  // of the last order
  EndedLogs kept_logs_;
  std::shared_ptr<Signal> empty_;                  // set when by_serial_ becomes empty while closing
};

}  // namespace dirigent::sandbox
