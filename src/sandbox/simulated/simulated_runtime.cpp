// SPDX-License-Identifier: MIT
#include "dirigent/sandbox/simulated_runtime.h"

#include <unordered_map>

#include "dirigent/base/assert.h"
#include "sandbox/helpers.h"
#include "sandbox/simulated/responder.h"
#include "sandbox/simulated/start_time.h"

namespace dirigent::sandbox {

namespace {

class SimulatedRuntime final : public Runtime {
 public:
  SimulatedRuntime(io::Loop& loop, SimulatedRuntimeOptions options)
      : loop_(loop), options_(std::move(options)), rng_(options_.seed), responder_(loop) {}
  ~SimulatedRuntime() override { ASSERT(!opened_, "the simulated runtime was not closed"); }

  [[nodiscard]] std::string_view name() const override { return "simulated"; }

  io::Task<void> open() override {
    if (options_.serve) {
      if (Status status = responder_.open(options_.publish_host.empty() ? "127.0.0.1" : "0.0.0.0"); !status)
        co_return status;
    }
    opened_ = true;
    co_return Status{};
  }

  void on_end(std::function<void(SandboxId, SandboxEnd)> callback) override { on_end_ = std::move(callback); }

  io::Task<Launched> launch(StartSandbox order) override {
    ASSERT(opened_, "launch() before open()");
    if (closing_) co_return failure(ErrorCode::unavailable, "the worker is stopping");
    if (sandboxes_.contains(order.id))
      co_return failure(ErrorCode::already_exists, "sandbox {} is there already", to_string(order.id));
    if (sandboxes_.size() >= options_.sandboxes_max)
      co_return failure(ErrorCode::exhausted, "this worker has {} sandboxes, its limit", sandboxes_.size());
    const Duration time = draw(options_.start_time, rng_);
    const bool fails = rng_.unit() < options_.failure_rate;
    auto sandbox = std::make_shared<Sandbox>(loop_);
    sandboxes_[order.id] = sandbox;
    // Cut short by a removal, a cancellation or close(): then nothing may be left of it.
    Status waited;
    try {
      waited = co_await sandbox->removed.wait(io::Loop::now() + time);
    } catch (const std::system_error&) {
      waited = failure(ErrorCode::cancelled, "cancelled");
    }
    const bool was_cancelled = !waited && waited.error().code == ErrorCode::cancelled;
    if (waited || was_cancelled || fails) {
      forget(order.id, sandbox);
      if (waited)
        co_return failure(ErrorCode::cancelled, "sandbox {} was removed while it started", to_string(order.id));
      if (was_cancelled) co_return failure(waited.error());
      co_return failure(ErrorCode::unavailable, "the simulated start failed (failure_rate {})", options_.failure_rate);
    }
    sandbox->running = true;
    sandbox->logs.push_back(
        {io::Loop::wall_now(), false, "simulated " + revision_name(order.function, order.revision)});
    Launched launched;
    launched.address.host_id = options_.host_id;
    launched.address.direct = address(order);
    if (options_.serve && !options_.publish_host.empty())
      launched.address.published = fmt::format("{}:{}", options_.publish_host, responder_.port());
    launched.phases.start = time;
    co_return launched;
  }

  io::Task<void> prefetch(std::string) override { co_return Status{}; }
  io::Task<std::vector<std::string>> images() override { co_return std::vector<std::string>{}; }
  io::Task<void> remove(SandboxId id, Duration) override {
    const auto found = sandboxes_.find(id);
    if (found == sandboxes_.end()) co_return Status{};
    end(id, found->second);
    co_return Status{};
  }

  io::Task<bool> probe(SandboxId id, std::string, Duration) override {
    const auto found = sandboxes_.find(id);
    co_return found != sandboxes_.end() && found->second->running;
  }

  [[nodiscard]] std::vector<LogLine> logs(SandboxId id, std::size_t lines_max) const override {
    const auto found = sandboxes_.find(id);
    if (found == sandboxes_.end() || lines_max == 0) return {};
    return found->second->logs;
  }

  [[nodiscard]] std::vector<std::string> weaknesses() const override {
    return {"sandboxes are simulated: no function runs and no limit is enforced"};
  }

  io::Task<void> close() override {
    if (!opened_) co_return Status{};
    closing_ = true;
    while (!sandboxes_.empty()) {
      const auto [id, sandbox] = *sandboxes_.begin();
      end(id, sandbox);
    }
    responder_.close();
    opened_ = false;
    co_return Status{};
  }

 private:
  struct Sandbox {
    explicit Sandbox(io::Loop& loop) : removed(loop) {}
    Signal removed;
    bool running = false;
    std::vector<LogLine> logs;
  };

  std::string address(const StartSandbox& order) const {
    if (options_.serve) return fmt::format("127.0.0.1:{}", responder_.port());
    // Out of the second half of the benchmark range: no route of ours leads there.
    const std::uint64_t host = order.id.value & 0xffff;
    return fmt::format("198.19.{}.{}:{}", host >> 8, host & 0xff, order.spec.port);
  }

  void forget(SandboxId id, const std::shared_ptr<Sandbox>& sandbox) {
    const auto found = sandboxes_.find(id);
    if (found != sandboxes_.end() && found->second == sandbox) sandboxes_.erase(found);
  }

  void end(SandboxId id, std::shared_ptr<Sandbox> sandbox) {
    const bool was_running = sandbox->running;
    forget(id, sandbox);
    sandbox->removed.set();
    if (!was_running || !on_end_) return;
    SandboxEnd how;
    how.cause = EndCause::requested;
    how.detail = "the simulated function ended after it was told to stop";
    on_end_(id, std::move(how));
  }

  io::Loop& loop_;
  SimulatedRuntimeOptions options_;
  Rng rng_;
  Responder responder_;
  std::function<void(SandboxId, SandboxEnd)> on_end_;
  std::unordered_map<SandboxId, std::shared_ptr<Sandbox>> sandboxes_;
  bool opened_ = false;
  bool closing_ = false;
};

}  // namespace

std::unique_ptr<Runtime> make_simulated_runtime(io::Loop& loop, SimulatedRuntimeOptions options) {
  return std::make_unique<SimulatedRuntime>(loop, std::move(options));
}

}  // namespace dirigent::sandbox
