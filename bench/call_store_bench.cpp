// SPDX-License-Identifier: MIT
//
// What does it cost to promise that a call is kept, without anything around it? Unit: accepted calls per second and
// milliseconds until the promise, of 300-byte requests; a sync for each beside group commit, with so many callers at a
// time, on the same disk in the same run, between two measurements of the disk's own sync.
//
//   call_store_bench DIRECTORY [SECONDS]
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "dirigent/store/call_store.h"

using namespace dirigent;
using namespace dirigent::store;
using Clock = std::chrono::steady_clock;

namespace {

double milliseconds(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

void measure_disk(const std::string& directory, double seconds) {
  const std::string path = directory + "/floor";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ::posix_fallocate(fd, 0, 32 << 20) != 0) std::exit(1);
  const std::string bytes(400, 'x');
  std::vector<double> times;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (off_t at = 4096; Clock::now() < end && at < (31 << 20); at += 400) {
    if (::pwrite(fd, bytes.data(), bytes.size(), at) != 400) std::exit(1);
    const auto begun = Clock::now();
    ::fdatasync(fd);
    times.push_back(milliseconds(Clock::now() - begun));
  }
  ::close(fd);
  ::unlink(path.c_str());
  std::sort(times.begin(), times.end());
  double sum = 0;
  for (const double time : times) sum += time;
  fmt::print("bench=call_store what=disk syncs_per_s={:.0f} p50_ms={:.3f} p99_ms={:.3f}\n", 1000.0 * static_cast<double>(times.size()) / sum,
             times[times.size() / 2], times[times.size() * 99 / 100]);
}

void measure(const std::string& directory, bool group, std::size_t callers, double seconds) {
  CallStoreOptions options;
  options.directory = directory + (group ? "/group" : "/sync");
  options.group = group;
  std::filesystem::remove_all(options.directory);
  auto opened = open_call_store(options);
  if (!opened) {
    fmt::print(stderr, "{}\n", opened.error().message);
    std::exit(1);
  }
  CallStore& store = **opened;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t in_flight = 0;
  std::vector<double> times;
  const std::string request(300, 'r');
  const auto begun = Clock::now();
  const auto end = begun + std::chrono::duration<double>(seconds);
  std::array<std::uint8_t, 10> random{};
  for (std::uint32_t i = 0; Clock::now() < end; ++i) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return in_flight < callers; });
      ++in_flight;
    }
    for (std::size_t byte = 0; byte < 4; ++byte) random[byte] = static_cast<std::uint8_t>(i >> 8 * byte);
    CallWrite change;
    change.id = make_call_id(store.id(), random);
    change.is_new = true;
    change[CallPart::request] = request;
    change[CallPart::state] = std::string(100, 's');
    const auto at = Clock::now();
    store.write(std::move(change), [&, at](Status status) {
      if (!status) std::abort();
      const std::lock_guard lock(mutex);
      times.push_back(milliseconds(Clock::now() - at));
      --in_flight;
      changed.notify_one();
    });
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return in_flight == 0; });
  const double took = milliseconds(Clock::now() - begun) / 1000;
  std::sort(times.begin(), times.end());
  fmt::print("bench=call_store what={} callers={} accepted_per_s={:.0f} p50_ms={:.3f} p99_ms={:.3f} syncs={}\n", group ? "group" : "sync",
             callers, static_cast<double>(times.size()) / took, times[times.size() / 2], times[times.size() * 99 / 100], store.figures().groups);
  lock.unlock();
  opened->reset();
  std::filesystem::remove_all(options.directory);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: call_store_bench DIRECTORY [SECONDS]\n");
    return 2;
  }
  const std::string directory = argv[1];
  const double seconds = argc > 2 ? std::atof(argv[2]) : 2;
  std::filesystem::create_directories(directory);
  measure_disk(directory, 1);
  for (const std::size_t callers : {1, 32, 256, 2048}) {
    measure(directory, false, callers, seconds);
    measure(directory, true, callers, seconds);
  }
  measure_disk(directory, 1);
}
