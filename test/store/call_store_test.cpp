// SPDX-License-Identifier: MIT
//
// The contract of CallStore, run against every implementation, and what only files can go through: kills, torn ends,
// flipped bits, cut files, full disks, cleaning.
//
// DIRIGENT_MUTATIONS: how many mutations of the files (100); DIRIGENT_SEED: of the run.
#include "dirigent/store/call_store.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <set>

#include "calls.h"
#include "catch.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "setting.h"
#include "temporary_directory.h"

using namespace dirigent;
using namespace dirigent::store;
using dirigent::store::test::id_of;
using dirigent::store::test::small;
using dirigent::test::setting;

namespace {

std::unique_ptr<CallStore> open(CallStoreOptions options) {
  auto opened = open_call_store(std::move(options));
  INFO((opened ? std::string() : opened.error().message));
  REQUIRE(opened.has_value());
  return std::move(*opened);
}

Status write(CallStore& store, CallWrite change) {
  std::promise<Status> done;
  store.write(std::move(change), [&](Status status) { done.set_value(std::move(status)); });
  return done.get_future().get();
}

CallWrite new_call(const CallId& id, std::string request, std::string state) {
  CallWrite change;
  change.id = id;
  change.is_new = true;
  change[CallPart::request] = std::move(request);
  change[CallPart::state] = std::move(state);
  return change;
}

CallWrite end_of(const CallId& id, std::string result, std::string state) {
  CallWrite change;
  change.id = id;
  change[CallPart::state] = std::move(state);
  change[CallPart::result] = std::move(result);
  change.drops = mask_of(CallPart::request);
  return change;
}

CallWrite erasure(const CallId& id) {
  CallWrite change;
  change.id = id;
  change.erases = true;
  return change;
}

std::string bytes_of(std::size_t size, std::uint64_t seed) {
  Rng rng(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(rng.below(256));
  return bytes;
}

std::uint64_t disk_use(const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    struct stat there {};
    if (::stat(entry.path().c_str(), &there) == 0) bytes += static_cast<std::uint64_t>(there.st_blocks) * 512;
  }
  return bytes;
}

std::vector<std::filesystem::path> segments(const std::string& directory) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".calls") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

template <class Condition>
bool eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
    std::this_thread::yield();
  }
  return false;
}

}  // namespace

TEST_CASE("call store: parts are replaced, dropped and erased, in files and in memory") {
  TemporaryDirectory directory;
  const bool in_files = GENERATE(true, false);
  auto store = in_files ? open(small(directory.path("calls"))) : memory_call_store(16_MiB);
  const CallId id = id_of(1);
  const std::string request = bytes_of(1000, 1);
  REQUIRE(write(*store, new_call(id, request, "queued")));
  CHECK(store->read(id, CallPart::request) == request);
  CHECK(store->read(id, CallPart::state) == "queued");
  CHECK(store->read(id, CallPart::result).error().code == ErrorCode::not_found);
  REQUIRE(write(*store, end_of(id, "", "done")));
  CHECK(store->read(id, CallPart::request).error().code == ErrorCode::not_found);
  CHECK(store->read(id, CallPart::state) == "done");
  CHECK(store->read(id, CallPart::result) == "");
  CHECK(store->figures().calls == 1);
  store->forget(id, mask_of(CallPart::result));
  CHECK(store->read(id, CallPart::result).error().code == ErrorCode::not_found);
  CHECK(store->figures().calls == 1);
  REQUIRE(write(*store, erasure(id)));
  CHECK(store->figures().calls == 0);
  CHECK(store->figures().live_bytes == 0);
  CHECK(store->read(id_of(2), CallPart::state).error().code == ErrorCode::not_found);
}

TEST_CASE("call store: what was written is there after a restart, what was erased is not") {
  TemporaryDirectory directory;
  StoreId number = 0;
  {
    auto store = open(small(directory.path("calls")));
    number = store->id();
    CHECK(number != 0);
    for (std::uint32_t i = 0; i < 300; ++i) REQUIRE(write(*store, new_call(id_of(i), bytes_of(5000, i), "queued" + std::to_string(i))));
    for (std::uint32_t i = 0; i < 300; i += 3) REQUIRE(write(*store, end_of(id_of(i), "answer", "done")));
    for (std::uint32_t i = 1; i < 300; i += 3) REQUIRE(write(*store, erasure(id_of(i))));
  }
  CHECK(segments(directory.path("calls")).size() > 3);
  auto store = open(small(directory.path("calls")));
  CHECK(store->id() == number);
  CHECK(store->damage().findings.empty());
  CHECK(store->damage().torn_bytes == 0);
  std::map<CallId, std::string> found;
  for (const auto& call : store->found()) {
    found[call.id] = call.state;
    CHECK(call.has_request == (call.state != "done"));
    CHECK(call.has_result == (call.state == "done"));
  }
  CHECK(found.size() == 200);
  for (std::uint32_t i = 0; i < 300; ++i) {
    if (i % 3 == 0) CHECK(found.at(id_of(i)) == "done");
    if (i % 3 == 1) CHECK_FALSE(found.contains(id_of(i)));
    if (i % 3 == 2) CHECK(store->read(id_of(i), CallPart::request) == bytes_of(5000, i));
  }
}

TEST_CASE("call store: a second process is refused by name, and may come when the first has gone") {
  TemporaryDirectory directory;
  auto store = open(small(directory.path("calls")));
  const auto second = open_call_store(small(directory.path("calls")));
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == ErrorCode::already_exists);
  CHECK(second.error().message.find(std::to_string(::getpid())) != std::string::npos);
  store.reset();
  CHECK(open_call_store(small(directory.path("calls"))).has_value());
}

TEST_CASE("call store: what waits is synced together, and alone when told so") {
  TemporaryDirectory directory;
  for (const bool group : {true, false}) {
    CallStoreOptions options = small(directory.path("calls") + (group ? "1" : "2"));
    options.group = group;
    auto store = open(options);
    std::promise<void> all;
    std::atomic<int> left{500};
    for (std::uint32_t i = 0; i < 500; ++i) {
      store->write(new_call(id_of(i), "x", "queued"), [&](Status status) {
        if (!status) std::abort();
        if (--left == 0) all.set_value();
      });
    }
    all.get_future().get();
    CHECK(store->figures().writes == 500);
    if (group) {
      CHECK(store->figures().groups < 400);
    } else {
      CHECK(store->figures().groups == 500);
    }
  }
}

TEST_CASE("call store: what may wait is written though nothing else comes, and in its place in the order") {
  TemporaryDirectory directory;
  {
    auto store = open(small(directory.path("calls")));
    for (std::uint32_t i = 0; i < 3; ++i) {
      CallWrite patient = new_call(id_of(i), "x", "queued");
      patient.may_wait = true;
      REQUIRE(write(*store, std::move(patient)));
    }
    CallWrite patient = new_call(id_of(9), "x", "first");
    patient.may_wait = true;
    store->write(std::move(patient), [](Status) {});
    REQUIRE(write(*store, new_call(id_of(9), "x", "second")));
    patient = new_call(id_of(10), "x", "last");
    patient.may_wait = true;
    store->write(std::move(patient), [](Status) {});
  }
  auto store = open(small(directory.path("calls")));
  const auto calls = store->found();
  CHECK(calls.size() == 5);
  CHECK(store->read(id_of(9), CallPart::state) == "second");
  CHECK(store->read(id_of(10), CallPart::state) == "last");
}

TEST_CASE("call store: a segment that was being made is nothing") {
  TemporaryDirectory directory;
  { REQUIRE(write(*open(small(directory.path("calls"))), new_call(id_of(1), "x", "queued"))); }
  const std::string unfinished = directory.path("calls/00000000000000000002.calls.new");
  std::ofstream(unfinished) << "anything";
  auto store = open(small(directory.path("calls")));
  CHECK(store->damage().findings.empty());
  CHECK_FALSE(std::filesystem::exists(unfinished));
  CHECK(store->read(id_of(1), CallPart::request) == "x");
}

TEST_CASE("call store: above its limit it refuses new calls, not the ends of those it has") {
  TemporaryDirectory directory;
  CallStoreOptions options = small(directory.path("calls"));
  options.bytes_max = 2_MiB;
  auto store = open(options);
  std::uint32_t accepted = 0;
  Status refused;
  while (refused && accepted < 1000) {
    refused = write(*store, new_call(id_of(accepted), bytes_of(10'000, accepted), "queued"));
    if (refused) ++accepted;
  }
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::exhausted);
  CHECK(accepted > 100);
  CHECK(store->figures().disk_bytes <= 2u << 20);
  for (std::uint32_t i = 0; i < accepted; ++i) REQUIRE(write(*store, end_of(id_of(i), "short", "done")));
  store->tidy();
  CHECK(eventually([&] { return bool(write(*store, new_call(id_of(5000), bytes_of(10'000, 1), "queued"))); }));
  for (std::uint32_t i = 0; i < accepted; ++i) CHECK(store->read(id_of(i), CallPart::result) == "short");
}

TEST_CASE("call store: what is over leaves the disk, what is needed stays") {
  TemporaryDirectory directory;
  CallStoreOptions options = small(directory.path("calls"));
  options.clean_after = 1ms;
  std::set<std::uint32_t> kept;
  {
    auto store = open(options);
    for (std::uint32_t i = 0; i < 1000; ++i) {
      REQUIRE(write(*store, new_call(id_of(i), bytes_of(8000, i), "queued")));
      if (i % 100 == 50) {
        kept.insert(i);
      } else if (i % 2 == 0) {
        REQUIRE(write(*store, erasure(id_of(i))));
      } else {
        store->forget(id_of(i), 0xff);
      }
    }
    CHECK(disk_use(directory.path("calls")) > 3'000'000);
    CHECK(eventually([&] {
      store->tidy();
      return disk_use(directory.path("calls")) < 3 * (256 << 10) + 16384;
    }));
    for (const std::uint32_t i : kept) CHECK(store->read(id_of(i), CallPart::request) == bytes_of(8000, i));
  }
  auto store = open(options);
  CHECK(store->damage().findings.empty());
  for (const std::uint32_t i : kept) CHECK(store->read(id_of(i), CallPart::request) == bytes_of(8000, i));
  // What was forgotten without a write is found again where its file is still there, what was erased is not.
  for (const auto& call : store->found()) {
    std::uint32_t number = call.id.bytes[4] | call.id.bytes[5] << 8;
    CHECK((kept.contains(number) || number % 2 == 1));
    REQUIRE(write(*store, erasure(call.id)));
  }
  CHECK(eventually([&] {
    store->tidy();
    return segments(directory.path("calls")).empty();
  }));
}

// --- damage ---------------------------------------------------------------------------------------------------------

namespace {

struct Known {
  std::string state, request, result;
};

// A store with calls in every state, over several files.
std::map<CallId, Known> fill(const std::string& directory, std::uint64_t seed) {
  Rng rng(seed);
  std::map<CallId, Known> known;
  CallStoreOptions options = small(directory);
  auto store = open(options);
  for (std::uint32_t i = 0; i < 150; ++i) {
    const CallId id = id_of(i, store->id());
    Known call{"queued-" + std::to_string(i), bytes_of(100 + rng.below(8000), rng()), ""};
    REQUIRE(write(*store, new_call(id, call.request, call.state)));
    if (rng.below(2) == 0) {
      call = {"done-" + std::to_string(i), "", bytes_of(rng.below(500), rng())};
      REQUIRE(write(*store, end_of(id, call.result, call.state)));
    }
    known[id] = call;
  }
  return known;
}

void mutate(const std::string& directory, Rng& rng, std::string& what) {
  const auto files = segments(directory);
  const auto& file = files[rng.below(files.size())];
  const auto size = std::filesystem::file_size(file);
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  switch (rng.below(4)) {
    case 0: case 1: {  // a flipped bit
      const auto at = static_cast<off_t>(rng.below(size));
      char byte = 0;
      REQUIRE(::pread(fd, &byte, 1, at) == 1);
      byte = static_cast<char>(byte ^ 1 << rng.below(8));
      REQUIRE(::pwrite(fd, &byte, 1, at) == 1);
      what = "flipped a bit at " + std::to_string(at);
      break;
    }
    case 2: {  // a file that has been cut
      const auto length = static_cast<off_t>(rng.below(size));
      REQUIRE(::ftruncate(fd, length) == 0);
      what = "cut to " + std::to_string(length);
      break;
    }
    case 3: {  // a torn end: what followed never reached the disk, or as garbage
      const auto at = rng.below(size);
      std::string garbage(std::min<std::uint64_t>(size - at, 1 + rng.below(20'000)), '\0');
      if (rng.below(2) == 0) garbage = bytes_of(garbage.size(), rng());
      REQUIRE(::pwrite(fd, garbage.data(), garbage.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(garbage.size()));
      what = "overwrote " + std::to_string(garbage.size()) + " bytes at " + std::to_string(at);
      break;
    }
  }
  what += " of " + file.filename().string() + " (" + std::to_string(size) + " bytes)";
  ::close(fd);
}

}  // namespace

TEST_CASE("call store: whatever happens to its files is recovered or told, never served") {
  const auto mutations = setting("DIRIGENT_MUTATIONS", 100);
  const auto seed = static_cast<std::uint64_t>(setting("DIRIGENT_SEED", static_cast<std::int64_t>(entropy_seed() >> 1)));
  TemporaryDirectory directory;
  const std::string original = directory.path() + "/original";
  const auto known = fill(original, seed);
  Rng rng(seed);
  std::int64_t harmless = 0;
  std::int64_t told = 0;
  for (std::int64_t i = 0; i < mutations; ++i) {
    std::filesystem::remove_all(directory.path("calls"));
    std::filesystem::copy(original, directory.path("calls"));
    std::string what;
    mutate(directory.path("calls"), rng, what);
    INFO("DIRIGENT_SEED=" << seed << " mutation " << i << ": " << what);
    auto store = open(small(directory.path("calls")));
    bool is_told = !store->damage().findings.empty() || store->damage().torn_bytes > 0;
    std::map<CallId, std::string> states;
    for (const auto& call : store->found()) states[call.id] = call.state;
    is_told = is_told || !store->damage().findings.empty();
    bool is_whole = true;
    for (const auto& [id, call] : known) {
      const auto state = states.find(id);
      const bool is_current = state != states.end() && state->second == call.state;
      is_whole = is_whole && is_current;
      for (const CallPart part : {CallPart::request, CallPart::result}) {
        const auto read = store->read(id, part);
        if (!read && read.error().code == ErrorCode::corrupt) {
          is_told = true;
          is_whole = false;
        }
        // What is served is what was written. An older state of a call may come back (its end was lost): its request then
        // is whole as well.
        const std::string& expected = part == CallPart::request ? call.request : call.result;
        if (read && is_current) CHECK(*read == expected);
        if (!read && is_current && !expected.empty()) is_whole = false;
      }
    }
    CHECK((is_whole || is_told));
    ++(is_whole ? harmless : told);
    // It goes on working.
    CHECK(write(*store, new_call(id_of(9999), "more", "queued")));
  }
  std::printf("call store mutations: %lld, %lld without loss, %lld told, 0 served wrongly, seed=%llu\n",
              static_cast<long long>(mutations), static_cast<long long>(harmless), static_cast<long long>(told),
              static_cast<unsigned long long>(seed));
}

TEST_CASE("call store: an unfinished write at the end is dropped, and writing goes on there") {
  TemporaryDirectory directory;
  { REQUIRE(write(*open(small(directory.path("calls"))), new_call(id_of(1), "request", "queued"))); }
  const auto file = segments(directory.path("calls")).front();
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  const std::string torn = "CALL" + bytes_of(500, 3);
  REQUIRE(::pwrite(fd, torn.data(), torn.size(), 4096 + 96) == static_cast<ssize_t>(torn.size()));
  ::close(fd);
  {
    auto store = open(small(directory.path("calls")));
    CHECK(store->damage().torn_bytes > 0);
    CHECK(store->damage().damaged_bytes == 0);
    CHECK(store->read(id_of(1), CallPart::request) == "request");
    REQUIRE(write(*store, new_call(id_of(2), "second", "queued")));
  }
  auto store = open(small(directory.path("calls")));
  CHECK(store->damage().torn_bytes == 0);
  CHECK(store->found().size() == 2);
}

// --- full disks -----------------------------------------------------------------------------------------------------

namespace {

// A tmpfs in a mount namespace of a child process, which runs `work` and says with its status whether all was well.
template <class Work>
int in_small_disk(const std::string& mount_point, const char* size, Work work) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string options = std::string("size=") + size;
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", mount_point.c_str(), "tmpfs", 0, options.c_str()) != 0) {
      ::_exit(77);
    }
    ::_exit(work());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("call store: on a full disk it refuses, keeps what it has, and works again when there is room") {
  TemporaryDirectory directory;
  const int status = in_small_disk(directory.path(), "3m", [&]() -> int {
    auto opened = open_call_store(small(directory.path("calls")));
    if (!opened) return 1;
    CallStore& store = **opened;
    std::uint32_t accepted = 0;
    Status last;
    while (last && accepted < 2000) {
      last = write(store, new_call(id_of(accepted), bytes_of(10'000, accepted), "queued"));
      if (last) ++accepted;
    }
    if (last || last.error().code != ErrorCode::exhausted) return 2;
    if (accepted < 100) return 3;
    // The ends of some of what was accepted still find room.
    for (std::uint32_t i = 0; i < 20; ++i) {
      if (!write(store, end_of(id_of(i), "answer", "done"))) return 4;
    }
    for (std::uint32_t i = 20; i < accepted; ++i) {
      if (store.read(id_of(i), CallPart::request) != bytes_of(10'000, i)) return 5;
    }
    if (::mount(nullptr, directory.path().c_str(), nullptr, MS_REMOUNT, "size=16m") != 0) return 6;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!write(store, new_call(id_of(9000), "x", "queued"))) {
      if (std::chrono::steady_clock::now() > deadline) return 7;
    }
    opened->reset();
    auto again = open_call_store(small(directory.path("calls")));
    if (!again) return 8;
    if ((*again)->found().size() != accepted + 1) return 9;
    return (*again)->damage().findings.empty() ? 0 : 10;
  });
  if (status == 77) {
    std::puts("skipped: a store of calls on a full disk (mounting a tmpfs needs CAP_SYS_ADMIN)");
    return;
  }
  CHECK(status == 0);
}

// --- kills ----------------------------------------------------------------------------------------------------------

TEST_CASE("call store: a killed process loses nothing that it was told is durable") {
  Rng rng(static_cast<std::uint64_t>(setting("DIRIGENT_SEED", 5)));
  TemporaryDirectory directory;
  std::uint32_t durable = 0;
  for (int round = 0; round < 10; ++round) {
    int pipe[2];
    REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
    const std::uint32_t first = durable + 1000 * static_cast<std::uint32_t>(round);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      auto opened = open_call_store(small(directory.path("calls")));
      if (!opened) ::_exit(1);
      for (std::uint32_t i = first;; ++i) {
        (*opened)->write(new_call(id_of(i), bytes_of(200, i), "queued"), [fd = pipe[1], i](Status status) {
          if (status && ::write(fd, &i, sizeof i) != sizeof i) ::_exit(2);
        });
        if (i % 64 == 0 && !write(**opened, new_call(id_of(0x40000000 + i), "x", "queued"))) ::_exit(3);
      }
    }
    ::close(pipe[1]);
    std::set<std::uint32_t> told;
    const std::size_t enough = 50 + rng.below(400);
    std::uint32_t number = 0;
    while (told.size() < enough && ::read(pipe[0], &number, sizeof number) == sizeof number) told.insert(number);
    ::kill(child, SIGKILL);
    while (::read(pipe[0], &number, sizeof number) == sizeof number) told.insert(number);
    ::close(pipe[0]);
    ::waitpid(child, nullptr, 0);
    REQUIRE(told.size() >= enough);
    auto store = open(small(directory.path("calls")));
    CHECK(store->damage().findings.empty());
    for (const std::uint32_t i : told) CHECK(store->read(id_of(i), CallPart::request) == bytes_of(200, i));
    for (const auto& call : store->found()) REQUIRE(write(*store, erasure(call.id)));
    durable = *told.rbegin();
  }
}
