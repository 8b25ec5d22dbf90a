// SPDX-License-Identifier: MIT
//
// How many sandboxes a second can one machine make and unmake, beside what a single-minded program reaches? In
// sandboxes/s; a sandbox counts when its function has answered a GET, and it is removed at once, so that teardown runs
// all the time.
//
//   cold_rate floor    CONCURRENCY SECONDS                 processes that do nothing else, each with a pool (floor.h)
//   cold_rate builtin  CONCURRENCY SECONDS [COUNT]         the process runtime, its builtin function
//   cold_rate rootfs   CONCURRENCY SECONDS [COUNT]         the process runtime, the floor's function in a rootfs
//
// With COUNT the run ends after that many, and the tenths of the run are printed one by one: what grows with the number
// of sandboxes made shows there. Needs root. Prints key=value lines; times in microseconds.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "dirigent/base/histogram.h"
#include "dirigent/io/loop.h"
#include "dirigent/sandbox/process_runtime.h"
#include "floor.h"

namespace {

using namespace dirigent;

struct Settings {
  std::string mode;
  int concurrency = 1;
  Duration duration = 3s;
  std::uint64_t count = 0;
};

void print(const Settings& settings, const char* part, const Histogram& times, Duration took) {
  std::printf("benchmark=cold_rate variant=%s concurrency=%d part=%s n=%llu per_second=%.0f p50_us=%lld p99_us=%lld max_us=%lld\n",
              settings.mode.c_str(), settings.concurrency, part, static_cast<unsigned long long>(times.count()),
              static_cast<double>(times.count()) / to_seconds(took), static_cast<long long>(times.quantile(0.5) / 1000),
              static_cast<long long>(times.quantile(0.99) / 1000), static_cast<long long>(times.max() / 1000));
  std::fflush(stdout);
}

// --- the floor ----------------------------------------------------------------------------------------------------

// What the processes of the floor share: they begin and end together, and each has a place for its times.
constexpr std::size_t kTimesMax = 1 << 17;
struct Shared {
  std::atomic<int> opened{0};
  std::atomic<bool> go{false};
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> made{0};
  std::uint32_t times_us[kTimesMax];
};

int floor_process(Shared& shared, int index, const std::string& root) {
  auto floor = bench::Floor::open(fmt::format("floor-{}", index), root, 4);
  if (!floor) {
    std::fprintf(stderr, "%s\n", floor.error().message.c_str());
    ++shared.opened;
    return 1;
  }
  ++shared.opened;
  while (!shared.go) ::usleep(500);
  while (!shared.over) {
    auto took = (*floor)->start();
    if (!took) {
      std::fprintf(stderr, "%s\n", took.error().message.c_str());
      return 1;
    }
    (*floor)->stop();
    const std::uint64_t place = shared.made++;
    if (place < kTimesMax) shared.times_us[place] = static_cast<std::uint32_t>(took->count() / 1000);
  }
  return 0;
}

int run_floor(const Settings& settings) {
  const bench::HelloRoot root;
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  auto& shared = *new (memory) Shared;
  std::vector<pid_t> pids;
  for (int i = 0; i < settings.concurrency; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(floor_process(shared, i, root.path()));
    pids.push_back(pid);
  }
  while (shared.opened < settings.concurrency) ::usleep(1000);
  const Instant began = io::Loop::now();
  shared.go = true;
  ::usleep(static_cast<useconds_t>(settings.duration / 1us));
  shared.over = true;
  const Duration took = io::Loop::now() - began;
  const std::uint64_t made = std::min<std::uint64_t>(shared.made, kTimesMax);
  int result = 0;
  for (const pid_t pid : pids) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    if (status != 0) result = 1;
  }
  Histogram times;
  for (std::uint64_t i = 0; i < made; ++i) times.record(std::chrono::microseconds(shared.times_us[i]));
  print(settings, "whole", times, took);
  return result;
}

// --- the runtime --------------------------------------------------------------------------------------------------

class RuntimeRun {
 public:
  RuntimeRun(const Settings& settings, RevisionSpec spec) : settings_(settings), spec_(std::move(spec)), group_(loop_, "bench") {
    sandbox::ProcessRuntimeOptions options;
    options.node = NodeId{fmt::format("cold-{}", ::getpid())};
    options.logs_kept = Duration::zero();
    runtime_ = sandbox::make_process_runtime(loop_, options);
  }

  int run() {
    group_.spawn(everything());
    loop_.run();
    group_.drain_now();
    return failed_ ? 1 : 0;
  }

 private:
  io::Task<void> everything() {
    Status opened = co_await runtime_->open();
    if (!opened) {
      std::fprintf(stderr, "%s\n", opened.error().message.c_str());
      failed_ = true;
      loop_.stop();
      co_return Status{};
    }
    // The first second tells the runtime how much is wanted; it is not measured.
    until_ = io::Loop::now() + 1500ms;
    co_await makers();
    for (Histogram* times : {&whole_, &part_}) *times = Histogram();
    began_ = part_began_ = io::Loop::now();
    until_ = settings_.count > 0 ? Instant::max() : began_ + settings_.duration;
    left_ = settings_.count;
    co_await makers();
    print(settings_, "whole", whole_, io::Loop::now() - began_);
    static_cast<void>(co_await runtime_->close());
    loop_.stop();
    co_return Status{};
  }

  io::Action makers() {
    io::TaskGroup group(loop_, "makers");
    for (int i = 0; i < settings_.concurrency; ++i) group.spawn(make_many());
    co_await group.wait();
  }

  io::Task<void> make_many() {
    while (!failed_ && io::Loop::now() < until_) {
      if (settings_.count > 0 && until_ == Instant::max() && left_-- == 0) {
        left_ = 0;
        break;
      }
      static_cast<void>(co_await make_one());
    }
    co_return Status{};
  }

  io::Task<void> make_one() {
    StartSandbox order;
    order.id = SandboxId{++ids_};
    order.function = FunctionName{"hello"};
    order.revision = RevisionNumber{1};
    order.spec = spec_;
    const Instant began = io::Loop::now();
    const auto id = order.id;
    auto launched = co_await runtime_->launch(std::move(order));
    Duration patience = 3ms;
    bool answers = false;
    while (launched && !answers && io::Loop::now() - began < 5s) {
      auto probed = co_await runtime_->probe(id, "/", patience);
      answers = probed && *probed;
      if (!answers) static_cast<void>(co_await io::sleep_for(loop_, 200us));
    }
    if (!answers) {
      std::fprintf(stderr, "sandbox %llu: %s\n", static_cast<unsigned long long>(id.value),
                   launched ? "no answer" : launched.error().message.c_str());
      failed_ = true;
    }
    const Duration took = io::Loop::now() - began;
    // Not waited for: whoever wants the next sandbox does not want to hear of the end of this one.
    group_.spawn(runtime_->remove(id, Duration::zero()));
    whole_.record(took);
    part_.record(took);
    if (settings_.count >= 10 && part_.count() == settings_.count / 10 && until_ == Instant::max()) {
      print(settings_, "tenth", part_, io::Loop::now() - part_began_);
      part_ = Histogram();
      part_began_ = io::Loop::now();
    }
    co_return Status{};
  }

  const Settings& settings_;
  RevisionSpec spec_;
  io::Loop loop_;
  std::unique_ptr<sandbox::Runtime> runtime_;
  io::TaskGroup group_;
  std::uint64_t ids_ = 0;
  std::uint64_t left_ = 0;
  Instant began_{};
  Instant part_began_{};
  Instant until_{};
  Histogram whole_;
  Histogram part_;
  bool failed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (argc > 1) settings.mode = argv[1];
  if (argc > 2) settings.concurrency = std::max(1, std::atoi(argv[2]));
  if (argc > 3) settings.duration = std::chrono::milliseconds(static_cast<std::int64_t>(std::atof(argv[3]) * 1000));
  if (argc > 4) settings.count = static_cast<std::uint64_t>(std::atoll(argv[4]));
  if (::geteuid() != 0) {
    std::fprintf(stderr, "cold_rate makes namespaces and links: run it as root\n");
    return 2;
  }
  if (settings.mode == "floor") return run_floor(settings);
  const bench::HelloRoot root;
  RevisionSpec spec;
  spec.image = "builtin:hello";
  if (settings.mode == "rootfs") {
    spec.image = "dir:" + root.path();
    spec.arguments = {"/hello"};
  } else if (settings.mode != "builtin") {
    std::fprintf(stderr, "cold_rate floor|builtin|rootfs CONCURRENCY SECONDS [COUNT]\n");
    return 2;
  }
  return RuntimeRun(settings, std::move(spec)).run();
}
