// SPDX-License-Identifier: MIT
//
// How much of a cold start is the kernel's, and how much is ours? In microseconds, order to first answered request.
//
//   cold_floor [N] [PAUSE_MS]      N starts of each, PAUSE_MS (60) apart: a cold start comes alone, not in a tight loop
//
// The floor (floor.h) without pools, then the process runtime with everything on: the builtin function and the floor's
// own function in a rootfs, from parked cells and without any. Needs root. Prints key=value lines.
#include <arpa/inet.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "dirigent/base/histogram.h"
#include "dirigent/io/loop.h"
#include "dirigent/sandbox/process_runtime.h"
#include "floor.h"

namespace {

using namespace dirigent;

struct Settings {
  int count = 200;
  Duration pause = 60ms;
};

void print(const char* what, const Histogram& times) {
  std::printf("benchmark=cold_floor variant=%s n=%llu p50_us=%lld p99_us=%lld max_us=%lld mean_us=%.0f\n", what,
              static_cast<unsigned long long>(times.count()), static_cast<long long>(times.quantile(0.5) / 1000),
              static_cast<long long>(times.quantile(0.99) / 1000), static_cast<long long>(times.max() / 1000),
              times.mean() / 1000);
}

int run_floor(const Settings& settings, const std::string& root, std::uint32_t pool, const char* what) {
  auto floor = bench::Floor::open("floor", root, pool);
  if (!floor) {
    std::fprintf(stderr, "%s\n", floor.error().message.c_str());
    return 1;
  }
  Histogram times;
  for (int i = 0; i < settings.count; ++i) {
    std::this_thread::sleep_for(settings.pause);
    auto took = (*floor)->start();
    if (!took) {
      std::fprintf(stderr, "%s\n", took.error().message.c_str());
      return 1;
    }
    times.record(*took);
    (*floor)->stop();
  }
  print(what, times);
  return 0;
}

io::Task<void> measure(io::Loop& loop, sandbox::Runtime& runtime, Settings settings, RevisionSpec spec, const char* what,
                       int& status) {
  Status opened = co_await runtime.open();
  if (!opened) {
    std::fprintf(stderr, "%s\n", opened.error().message.c_str());
    status = 1;
    co_return opened;
  }
  static_cast<void>(co_await io::sleep_for(loop, 500ms));
  Histogram whole;
  Histogram launches;
  for (int i = 0; i < settings.count; ++i) {
    StartSandbox order;
    order.id = SandboxId{static_cast<std::uint64_t>(i + 1)};
    order.function = FunctionName{"hello"};
    order.revision = RevisionNumber{1};
    order.spec = spec;
    const auto began = io::Loop::now();
    const auto id = order.id;
    auto launched = co_await runtime.launch(std::move(order));
    launches.record(io::Loop::now() - began);
    if (!launched) {
      std::fprintf(stderr, "%s\n", launched.error().message.c_str());
      status = 1;
      break;
    }
    std::uint32_t address = 0;
    const std::string& direct = launched->address.direct;
    ::inet_pton(AF_INET, direct.substr(0, direct.find(':')).c_str(), &address);
    if (!bench::get_hello(address)) status = 1;
    whole.record(io::Loop::now() - began);
    static_cast<void>(co_await runtime.remove(id, Duration::zero()));
    static_cast<void>(co_await io::sleep_for(loop, settings.pause));
  }
  static_cast<void>(co_await runtime.close());
  print(what, whole);
  print((std::string(what) + "_launch_only").c_str(), launches);
  co_return Status{};
}

io::Action measure_and_stop(io::Loop& loop, sandbox::Runtime& runtime, Settings settings, RevisionSpec spec, const char* what,
                            int& status) {
  Status measured = co_await measure(loop, runtime, settings, std::move(spec), what, status);
  loop.stop();
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (argc > 1) settings.count = std::atoi(argv[1]);
  if (argc > 2) settings.pause = std::chrono::milliseconds(std::atoi(argv[2]));
  if (::geteuid() != 0) {
    std::fprintf(stderr, "cold_floor makes namespaces and links: run it as root\n");
    return 2;
  }
  const bench::HelloRoot root;
  int status = run_floor(settings, root.path(), 0, "kernel_floor") | run_floor(settings, root.path(), 4, "pooled_floor");
  RevisionSpec builtin;
  builtin.image = "builtin:hello";
  RevisionSpec rootfs;
  rootfs.image = "dir:" + root.path();
  rootfs.arguments = {"/hello"};
  struct Variant {
    const char* name;
    const RevisionSpec& spec;
    std::uint32_t parked;
  };
  for (const Variant& variant : {Variant{"runtime_parked", builtin, 8}, Variant{"runtime_rootfs_parked", rootfs, 8},
                                 Variant{"runtime_unparked", builtin, 0}}) {
    io::Loop loop;
    sandbox::ProcessRuntimeOptions options;
    options.node = NodeId{fmt::format("cold-{}", ::getpid())};
    options.parked = variant.parked;
    options.parked_max = options.parked;
    auto runtime = sandbox::make_process_runtime(loop, options);
    io::TaskGroup group(loop, "bench");
    group.spawn(measure_and_stop(loop, *runtime, settings, variant.spec, variant.name, status));
    loop.run();
    group.drain_now();
  }
  return status;
}
