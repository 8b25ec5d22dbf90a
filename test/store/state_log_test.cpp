// SPDX-License-Identifier: MIT
//
// The contract of StateLog, run against every implementation, and what only files can go through.
#include "dirigent/store/state_log.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "catch.h"
#include "temporary_directory.h"

using namespace dirigent;
using namespace dirigent::store;

namespace {

using Records = std::vector<std::pair<std::string, std::string>>;

// Starts this program again with one hidden test, because a fork alone does not take RocksDB's threads along. The
// child's test finds its directory with child_directory().
pid_t start_child(const char* test, const std::string& directory) {
  ::setenv("DIRIGENT_TEST_DIRECTORY", directory.c_str(), 1);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(60);  // survives execve: a child that hangs ends by itself
    ::execl("/proc/self/exe", "test_store", test, nullptr);
    ::_exit(127);
  }
  return child;
}

std::string child_directory() {
  const char* directory = std::getenv("DIRIGENT_TEST_DIRECTORY");
  return directory == nullptr ? "" : directory;
}

int exit_status_of(pid_t child) {
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

std::unique_ptr<StateLog> open_or_fail(const std::string& directory) {
  auto log = open_state_log(directory);
  if (!log) FAIL(log.error().message);
  return std::move(*log);
}

Status append_and_wait(StateLog& log, std::vector<Write> writes) {
  std::promise<Status> promise;
  log.append(std::move(writes), [&](Status status) { promise.set_value(std::move(status)); });
  return promise.get_future().get();
}

void check_contract(StateLog& log) {
  // Records come back in key order, and only those of the prefix.
  REQUIRE(append_and_wait(log, {{"b/2", "two"}, {"a/1", "one"}, {"b/10", "ten"}, {"c", std::string("\0\xff", 2)}}));
  CHECK(*log.read_all("b/") == Records{{"b/10", "ten"}, {"b/2", "two"}});
  CHECK(log.read_all("")->size() == 4);
  CHECK(log.read_all("")->back().second == std::string("\0\xff", 2));
  CHECK(log.read_all("d")->empty());

  // A delete deletes, of a record that is not there as well; within a batch the last word counts.
  REQUIRE(append_and_wait(log, {{"a/1", std::nullopt}, {"a/9", std::nullopt}, {"b/2", "x"}, {"b/2", "y"}}));
  CHECK(*log.read_all("a/") == Records{});
  CHECK(*log.read_all("b/2") == Records{{"b/2", "y"}});

  // An empty batch is durable too, and nobody has to listen.
  CHECK(append_and_wait(log, {}));
  log.append({{"silent", "1"}}, {});
  REQUIRE(append_and_wait(log, {{"after", "1"}}));
  CHECK(log.read_all("silent")->size() == 1);
}

void check_order_and_thread(StateLog& log) {
  std::mutex mutex;
  std::vector<int> order;
  std::set<std::thread::id> threads;
  for (int i = 0; i < 200; ++i) {
    log.append({{"order", std::to_string(i)}}, [&, i](Status status) {
      const std::lock_guard lock(mutex);
      if (status) order.push_back(i);
      threads.insert(std::this_thread::get_id());
    });
  }
  REQUIRE(append_and_wait(log, {{"last", ""}}));
  const std::lock_guard lock(mutex);
  CHECK(order.size() == 200);
  CHECK(std::is_sorted(order.begin(), order.end()));
  CHECK(threads.size() == 1);
  CHECK(threads.count(std::this_thread::get_id()) == 0);
}

// A reader never sees half of a batch.
void check_atomicity(StateLog& log) {
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) {
      const std::string value = std::to_string(i);
      (void)append_and_wait(log, {{"pair/a", value}, {"pair/b", value}});
    }
  });
  std::size_t torn = 0;
  for (int i = 0; i < 300; ++i) {
    const auto pair = log.read_all("pair/");
    if (pair && pair->size() == 2 && (*pair)[0].second != (*pair)[1].second) ++torn;
    if (pair && pair->size() == 1) ++torn;
  }
  stop = true;
  writer.join();
  CHECK(torn == 0);
}

void check_many_threads(StateLog& log) {
  constexpr int kThreads = 4;
  constexpr int kEach = 2500;
  std::mutex mutex;
  std::condition_variable changed;
  int durable = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        log.append({{"many/" + std::to_string(t) + "/" + std::to_string(i), "v"}}, [&](Status status) {
          const std::lock_guard lock(mutex);
          if (status) ++durable;
          changed.notify_all();
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  {
    std::unique_lock lock(mutex);
    CHECK(changed.wait_for(lock, std::chrono::seconds(60), [&] { return durable == kThreads * kEach; }));
  }
  CHECK(log.lag() == 0);
  CHECK(log.read_all("many/")->size() == kThreads * kEach);
}

void check_all(StateLog& log) {
  check_contract(log);
  check_order_and_thread(log);
  CHECK(*log.read_all("order") == Records{{"order", "199"}});
  check_atomicity(log);
  check_many_threads(log);
}

}  // namespace

TEST_CASE("state log: memory keeps the contract") {
  const auto log = memory_state_log();
  check_all(*log);
}

TEST_CASE("state log: the forgetful one confirms every write, in order and on its own thread, and keeps nothing") {
  const auto log = forgetful_state_log();
  check_order_and_thread(*log);
  const auto kept = log->read_all("");
  REQUIRE(kept);
  CHECK(kept->empty());
}

TEST_CASE("state log: what is queued at the end is written first") {
  std::atomic<int> answered = 0;
  {
    const auto log = memory_state_log();
    for (int i = 0; i < 1000; ++i) log->append({{"k", "v"}}, [&](Status) { ++answered; });
  }
  CHECK(answered == 1000);
}

TEST_CASE("state log: a queue that grows beyond its limit refuses, in order, and then takes writes again") {
  const auto log = memory_state_log();
  std::promise<void> open_gate;
  std::promise<void> at_gate;
  log->append({{"gate", ""}}, [&](Status) {
    at_gate.set_value();
    open_gate.get_future().get();
  });
  at_gate.get_future().get();
  // 300 x 1 MiB are more than the 256 MiB that may wait.
  std::vector<bool> accepted;
  for (int i = 0; i < 300; ++i) {
    log->append({{"big", std::string(1 << 20, 'x')}}, [&](Status status) {
      accepted.push_back(status.has_value());
      if (!status) CHECK(status.error().code == ErrorCode::exhausted);
    });
  }
  CHECK(log->lag() == 300);
  open_gate.set_value();
  CHECK(append_and_wait(*log, {{"after", "1"}}));
  CHECK(accepted.size() == 300);
  CHECK(accepted.front());
  CHECK_FALSE(accepted.back());
}

#if DIRIGENT_ROCKSDB

TEST_CASE("state log: RocksDB keeps the contract") {
  const TemporaryDirectory directory;
  const auto log = open_or_fail(directory.path("parent/state"));
  struct stat made {};
  REQUIRE(::stat(directory.path("parent/state").c_str(), &made) == 0);
  CHECK((made.st_mode & 0777) == 0700);
  check_all(*log);
}

TEST_CASE("state log: what was durable is there when it is opened again") {
  const TemporaryDirectory directory;
  for (int round = 0; round < 3; ++round) {
    const auto log = open_or_fail(directory.path("parent/state"));
    CHECK(log->read_all("round/")->size() == static_cast<std::size_t>(round));
    REQUIRE(append_and_wait(*log, {{"round/" + std::to_string(round), "v"}, {"gone", std::nullopt}}));
  }
}

TEST_CASE("child: writes twenty records and hangs", "[.]") {
  const std::string directory = child_directory();
  if (directory.empty()) return;
  const auto log = open_or_fail(directory + "/parent/state");
  for (int i = 0; i < 20; ++i) REQUIRE(append_and_wait(*log, {{"k/" + std::to_string(i), "v"}}));
  std::ofstream(directory + "/pipe") << "all of them" << std::flush;
  ::pause();
}

TEST_CASE("state log: what was acknowledged survives the sudden end of the process") {
  const TemporaryDirectory directory;
  const std::string pipe = directory.path() + "/pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const pid_t child = start_child("child: writes twenty records and hangs", directory.path());
  pollfd end{::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC), POLLIN, 0};
  REQUIRE(end.fd >= 0);
  CHECK(::poll(&end, 1, 30'000) == 1);
  ::close(end.fd);
  // While it lives, its directory is taken, and the error says by whom.
  const auto locked = open_state_log(directory.path("parent/state"));
  ::kill(child, SIGKILL);
  CHECK(exit_status_of(child) == 1000 + SIGKILL);
  REQUIRE_FALSE(locked.has_value());
  CHECK(locked.error().code == ErrorCode::already_exists);
  INFO(locked.error().message);
  CHECK(locked.error().message.find(directory.path("parent/state")) != std::string::npos);
  CHECK(locked.error().message.find("process " + std::to_string(child)) != std::string::npos);

  const auto log = open_or_fail(directory.path("parent/state"));
  CHECK(log->read_all("k/")->size() == 20);
}

TEST_CASE("state log: a directory that is open already, or is none, is an error that names it") {
  const TemporaryDirectory directory;
  const auto log = open_or_fail(directory.path("parent/state"));
  const auto again = open_state_log(directory.path("parent/state"));
  REQUIRE_FALSE(again.has_value());
  CHECK(again.error().code == ErrorCode::already_exists);
  CHECK(again.error().message.find(directory.path("parent/state")) != std::string::npos);
  // The failed attempt has not taken the first one's lock away.
  CHECK(append_and_wait(*log, {{"a", "b"}}));

  const std::string file = directory.path() + "/file";
  std::ofstream(file) << "x";
  CHECK(open_state_log(file).error().code == ErrorCode::invalid_argument);
  CHECK_FALSE(open_state_log(file + "/below").has_value());
  CHECK(open_state_log("").error().code == ErrorCode::invalid_argument);
}

namespace {

// The newest write-ahead log of the directory.
std::string newest_log(const std::string& directory) {
  std::string newest;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".log") newest = std::max(newest, entry.path().string());
  }
  REQUIRE_FALSE(newest.empty());
  return newest;
}

// Writes 20 records in a process that ends without closing, so that they are in the write-ahead log only.
void write_and_vanish(const TemporaryDirectory& directory) {
  REQUIRE(exit_status_of(start_child("child: writes twenty records and vanishes", directory.path())) == 0);
}

}  // namespace

TEST_CASE("child: writes twenty records and vanishes", "[.]") {
  const std::string directory = child_directory();
  if (directory.empty()) return;
  const auto log = open_or_fail(directory + "/parent/state");
  for (int i = 0; i < 20; ++i) {
    REQUIRE(append_and_wait(*log, {{"k/" + std::to_string(100 + i), std::string(100, 'v')}}));
  }
  ::_exit(0);
}

TEST_CASE("state log: a record cut off by a crash is dropped, those before it are kept") {
  const TemporaryDirectory directory;
  write_and_vanish(directory);
  const std::string file = newest_log(directory.path("parent/state"));
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 30);
  const auto log = open_or_fail(directory.path("parent/state"));
  CHECK(log->read_all("k/")->size() == 19);
}

TEST_CASE("state log: a flipped bit in the middle is reported and never ignored") {
  const TemporaryDirectory directory;
  write_and_vanish(directory);
  const std::string file = newest_log(directory.path("parent/state"));
  {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    const auto middle = static_cast<std::streamoff>(std::filesystem::file_size(file) / 2);
    bytes.seekg(middle);
    const char flipped = static_cast<char>(bytes.get() ^ 1);
    bytes.seekp(middle);
    bytes.put(flipped);
  }
  const auto log = open_state_log(directory.path("parent/state"));
  REQUIRE_FALSE(log.has_value());
  INFO(log.error().message);
  CHECK(log.error().code == ErrorCode::corrupt);
  CHECK(log.error().message.find(directory.path("parent/state")) != std::string::npos);
  CHECK(log.error().message.find("backup") != std::string::npos);
}

namespace {

constexpr int kCannotMount = 77;

// In a child, because the mount namespace is the process's own: nothing is left mounted, whatever happens.
bool mount_small_disk(const std::string& directory) {
  return ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("dirigent-test", directory.c_str(), "tmpfs", 0, "size=24m") == 0;
}

void fill_disk(const std::string& ballast) {
  std::ofstream file(ballast, std::ios::binary);
  const std::string block(64 << 10, 'b');
  while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
  }
}

}  // namespace

TEST_CASE("child: fills its disk and makes room again", "[.]") {
  const std::string directory = child_directory();
  if (directory.empty()) return;
  if (!mount_small_disk(directory)) ::_exit(kCannotMount);
  {
    const auto log = open_or_fail(directory + "/state");
    REQUIRE(append_and_wait(*log, {{"before", "1"}}));
    fill_disk(directory + "/ballast");
    Status refused;
    for (int i = 0; i < 100 && refused; ++i) {
      refused = append_and_wait(*log, {{"big/" + std::to_string(i), std::string(256 << 10, 'x')}});
    }
    REQUIRE_FALSE(refused.has_value());
    CAPTURE(refused.error().message);
    CHECK(refused.error().code == ErrorCode::exhausted);
    CHECK(refused.error().message.find("make room") != std::string::npos);

    // Opening anew has freed a little, but not for this: refused again, in the same way.
    const Status again = append_and_wait(*log, {{"again", std::string(23 << 20, 'x')}});
    REQUIRE_FALSE(again.has_value());
    CAPTURE(again.error().message);
    CHECK(again.error().code == ErrorCode::exhausted);

    std::filesystem::remove(directory + "/ballast");
    const Status after = append_and_wait(*log, {{"after", "1"}});
    if (!after) FAIL(after.error().message);
    CHECK(log->read_all("before")->size() == 1);
    CHECK(log->read_all("after")->size() == 1);
  }
  const auto reopened = open_or_fail(directory + "/state");
  CHECK(reopened->read_all("before")->size() == 1);
  CHECK(reopened->read_all("after")->size() == 1);
}

TEST_CASE("state log: a full disk is an error, and writing goes on when there is room") {
  const TemporaryDirectory directory;
  const int status = exit_status_of(start_child("child: fills its disk and makes room again", directory.path()));
  if (status == kCannotMount) {
    WARN("skipped: mounting a tmpfs needs CAP_SYS_ADMIN");
    return;
  }
  CHECK(status == 0);
}

#else

TEST_CASE("state log: a build without RocksDB says so") {
  const auto log = open_state_log("anywhere");
  REQUIRE_FALSE(log.has_value());
  CHECK(log.error().code == ErrorCode::unsupported);
}

#endif
