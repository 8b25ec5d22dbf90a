// SPDX-License-Identifier: MIT
//
// A store of calls on a disk that loses power: what was written and not synced is there in any part, or not at all.
//
// The calls that the store makes of the C library end up here first. They are carried out, and written down: at any of them
// the disk could be left with all that was synced, some sectors of what was not, and some names of files that were not.
// Such disks are put together from what was written down, in directories of their own, and opened.
//
// DIRIGENT_POWER_LOSSES: how many (60); DIRIGENT_SEED: of the run.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "calls.h"
#include "catch.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "dirigent/store/call_store.h"
#include "setting.h"
#include "temporary_directory.h"

using namespace dirigent;
using namespace dirigent::store;
using dirigent::store::test::id_of;
using dirigent::test::setting;

namespace {

constexpr std::size_t kSector = 512;

// What is known of the disk below one directory. Any thread.
class Disk {
 public:
  void watch(const std::string& directory) {
    const std::lock_guard lock(mutex_);
    directory_ = directory;
    files_.clear();
    current_.clear();
    durable_names_.clear();
    changes_.clear();
  }
  // Called at each step, before it is done, with the lock held.
  std::function<void()> at_step;

  void wrote(int fd, std::string_view bytes, off_t offset) {
    step(fd, [&](File& file) { file.unsynced.push_back({static_cast<std::size_t>(offset), std::string(bytes)}); });
  }
  void synced(int fd) {
    const std::string path = path_of(fd);
    const std::lock_guard lock(mutex_);
    if (path.empty() || directory_.empty()) return;
    if (path == directory_) {
      for (const auto& change : changes_) apply(durable_names_, change);
      changes_.clear();
    } else if (path.starts_with(directory_ + "/")) {
      File& file = files_[id_of(inode_of(fd))];
      file.durable = content_of(fd);
      file.unsynced.clear();
    }
  }
  void will_sync(int fd) {
    step(fd, [](File&) {});
  }
  void renamed(const std::string& from, const std::string& to) {
    change([&](const std::string& prefix) -> std::optional<Change> {
      if (!to.starts_with(prefix)) return std::nullopt;
      return Change{from.substr(prefix.size()), to.substr(prefix.size()), id_of(inode_of(to))};
    });
  }
  static ino_t inode_of(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
  }
  void removed(const std::string& path, ino_t inode) {
    change([&](const std::string& prefix) -> std::optional<Change> {
      if (!path.starts_with(prefix)) return std::nullopt;
      current_.erase(inode);  // another file may get it, while the disk still has this one
      return Change{path.substr(prefix.size()), "", 0};
    });
  }

  // A disk as it could be found now. Names change in order; of those that are not synced the first few have. REQUIRES: the lock.
  std::map<std::string, std::string> after_power_loss(Rng& rng) const {
    auto names = durable_names_;
    const std::size_t survived = rng.below(changes_.size() + 1);
    for (std::size_t i = 0; i < survived; ++i) apply(names, changes_[i]);
    std::map<std::string, std::string> disk;
    for (const auto& [name, id] : names) {
      const auto file = files_.find(id);
      if (file == files_.end()) continue;
      std::string content = file->second.durable;
      for (const auto& write : file->second.unsynced) {
        const std::uint64_t fate = rng.below(4);  // nothing of it, all of it, or any of its sectors
        for (std::size_t at = 0; at < write.bytes.size();) {
          const std::size_t size = std::min(kSector - (write.offset + at) % kSector, write.bytes.size() - at);
          const bool survives = fate == 1 || (fate > 1 && rng.below(2) == 0);
          if (survives && write.offset + at + size <= content.size()) content.replace(write.offset + at, size, write.bytes, at, size);
          at += size;
        }
      }
      disk[name] = std::move(content);
    }
    return disk;
  }

 private:
  struct Write {
    std::size_t offset;
    std::string bytes;
  };
  struct File {
    std::string durable;
    std::vector<Write> unsynced;
  };
  struct Change {
    std::string from, to;  // "" = removed
    std::uint64_t file;
  };

  template <class Work>
  void step(int fd, Work work) {
    const std::string path = path_of(fd);
    const std::lock_guard lock(mutex_);
    if (directory_.empty() || !path.starts_with(directory_ + "/")) return;
    if (at_step) at_step();
    work(files_[id_of(inode_of(fd))]);
  }
  template <class Make>
  void change(Make make) {
    const std::lock_guard lock(mutex_);
    if (directory_.empty()) return;
    if (auto made = make(directory_ + "/")) changes_.push_back(std::move(*made));
  }
  static void apply(std::map<std::string, std::uint64_t>& names, const Change& change) {
    names.erase(change.from);
    if (!change.to.empty()) names[change.to] = change.file;
  }
  static std::string path_of(int fd) {
    char buffer[4096];
    const ssize_t size = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), buffer, sizeof buffer);
    return size < 0 ? std::string() : std::string(buffer, static_cast<std::size_t>(size));
  }
  static ino_t inode_of(int fd) {
    struct stat status {};
    return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
  }
  std::uint64_t id_of(ino_t inode) { return current_.try_emplace(inode, ++next_id_).first->second; }
  static std::string content_of(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return {};
    std::string content(static_cast<std::size_t>(status.st_size), '\0');
    const ssize_t size = ::pread(fd, content.data(), content.size(), 0);
    content.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return content;
  }

  std::mutex mutex_;
  std::string directory_;
  std::uint64_t next_id_ = 0;
  std::map<ino_t, std::uint64_t> current_;  // which of the files has this inode now
  std::map<std::uint64_t, File> files_;
  std::map<std::string, std::uint64_t> durable_names_;
  std::vector<Change> changes_;
};

Disk& disk() {
  static Disk one;
  return one;
}

template <class Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

int sync(int (*call)(int), int fd) {
  disk().will_sync(fd);
  const int done = call(fd);
  if (done == 0) disk().synced(fd);
  return done;
}

}  // namespace

// The program's own functions go before those of the C library.
extern "C" {
// With large files this is called pwrite64, in the store as well as here.
ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  static const auto call = real<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite64");
  disk().wrote(fd, {static_cast<const char*>(bytes), size}, offset);
  return call(fd, bytes, size, offset);
}
int fdatasync(int fd) {
  static const auto call = real<int (*)(int)>("fdatasync");
  return sync(call, fd);
}
int fsync(int fd) {
  static const auto call = real<int (*)(int)>("fsync");
  return sync(call, fd);
}
int rename(const char* from, const char* to) noexcept {
  static const auto call = real<int (*)(const char*, const char*)>("rename");
  const int done = call(from, to);
  if (done == 0) disk().renamed(from, to);
  return done;
}
int unlink(const char* path) noexcept {
  static const auto call = real<int (*)(const char*)>("unlink");
  const ino_t inode = Disk::inode_of(path);
  const int done = call(path);
  if (done == 0) disk().removed(path, inode);
  return done;
}
}

namespace {

CallStoreOptions small(const std::string& directory) { return store::test::small(directory, 64_KiB); }

enum class Phase { none, queued, done, erased };

// What is known of a call: what was acknowledged last, and what has been asked for since.
struct Known {
  Phase durable = Phase::none;
  Phase asked = Phase::none;
};

std::string request_of(std::uint32_t i) { return std::string(20 + i * 37 % 3000, static_cast<char>('a' + i % 26)); }
std::string result_of(std::uint32_t i) { return std::string(10 + i * 11 % 900, static_cast<char>('A' + i % 26)); }

struct Loss {
  std::map<std::string, std::string> files;
  std::map<std::uint32_t, Known> calls;
};

CallWrite change_to(Phase phase, std::uint32_t i, const CallId& id) {
  CallWrite change;
  change.id = id;
  if (phase == Phase::queued) {
    change.is_new = true;
    change[CallPart::request] = request_of(i);
    change[CallPart::state] = "queued";
  } else if (phase == Phase::done) {
    change.may_wait = true;
    change.drops = mask_of(CallPart::request);
    change[CallPart::state] = "done";
    change[CallPart::result] = result_of(i);
  } else {
    change.erases = true;
  }
  return change;
}

// Calls are accepted, ended and erased, a few at a time, while power is lost at random steps.
std::vector<Loss> run(const std::string& directory, std::int64_t losses_wanted, Rng& rng) {
  std::vector<Loss> losses;
  std::mutex mutex;
  std::map<std::uint32_t, Known> calls;
  std::atomic<std::uint32_t> unanswered{0};
  disk().watch(directory);
  auto opened = open_call_store(small(directory));
  REQUIRE(opened.has_value());
  CallStore& store = **opened;
  std::uint64_t steps_until_loss = 1;
  disk().at_step = [&] {
    if (--steps_until_loss > 0) return;
    steps_until_loss = 1 + rng.below(60);
    const std::lock_guard lock(mutex);
    losses.push_back({disk().after_power_loss(rng), calls});
  };
  Rng choices(rng());
  std::vector<std::uint32_t> queued;
  std::vector<std::uint32_t> done;
  const auto ask = [&](std::uint32_t i, Phase phase) {
    {
      const std::lock_guard lock(mutex);
      calls[i].asked = phase;
    }
    ++unanswered;
    store.write(change_to(phase, i, id_of(i, store.id())), [&, i, phase](Status status) {
      if (status) {
        const std::lock_guard lock(mutex);
        calls[i].durable = phase;
      }
      --unanswered;
      unanswered.notify_all();
    });
  };
  for (std::uint32_t next = 0; next < 1'000'000; ++next) {
    {
      const std::lock_guard lock(mutex);
      if (static_cast<std::int64_t>(losses.size()) >= losses_wanted) break;
    }
    ask(next, Phase::queued);
    queued.push_back(next);
    if (queued.size() > 40) {
      const std::size_t at = choices.below(queued.size() - 8);
      ask(queued[at], Phase::done);
      done.push_back(queued[at]);
      queued.erase(queued.begin() + static_cast<std::ptrdiff_t>(at));
    }
    if (done.size() > 20) {
      ask(done.front(), Phase::erased);
      done.erase(done.begin());
    }
    if (next % 50 == 0) store.tidy();
    for (auto waiting = unanswered.load(); waiting > 12; waiting = unanswered.load()) unanswered.wait(waiting);
  }
  opened->reset();
  disk().at_step = nullptr;
  disk().watch("");
  return losses;
}

}  // namespace

TEST_CASE("call store: after a loss of power every acknowledged call is there, and nothing is served wrongly") {
  const auto wanted = setting("DIRIGENT_POWER_LOSSES", 60);
  const auto seed = static_cast<std::uint64_t>(setting("DIRIGENT_SEED", static_cast<std::int64_t>(entropy_seed() >> 1)));
  INFO("again: DIRIGENT_SEED=" << seed << " DIRIGENT_POWER_LOSSES=" << wanted);
  Rng rng(seed);
  TemporaryDirectory directory;
  std::size_t acknowledged = 0;
  std::size_t torn = 0;
  std::size_t segments = 0;
  std::int64_t count = 0;
  // A store that begins anew now and then: everything that was ever asked for is looked at after each loss.
  std::vector<Loss> losses;
  for (; count < wanted; ++count, losses.pop_back()) {
    if (losses.empty()) {
      std::filesystem::remove_all(directory.path("calls"));
      losses = run(directory.path("calls"), std::min<std::int64_t>(wanted - count, 60), rng);
    }
    CAPTURE(count);
    const Loss& loss = losses.back();
    const std::string after = directory.path("after");
    std::filesystem::remove_all(after);
    std::filesystem::create_directories(after);
    for (const auto& [name, content] : loss.files) std::ofstream(after + "/" + name, std::ios::binary) << content;
    segments += loss.files.size();
    auto opened = open_call_store(small(after));
    INFO((opened ? std::string() : opened.error().message));
    REQUIRE(opened.has_value());
    CallStore& store = **opened;
    std::map<CallId, std::string> found;
    for (const auto& call : store.found()) found.emplace(call.id, call.state);
    torn += store.damage().torn_bytes > 0 ? 1 : 0;
    for (const auto& finding : store.damage().findings) FAIL_CHECK(finding);
    for (const auto& [i, known] : loss.calls) {
      CAPTURE(i, static_cast<int>(known.durable), static_cast<int>(known.asked));
      const CallId id = id_of(i, store.id());
      const auto call = found.find(id);
      const Phase is = call == found.end() ? Phase::none : call->second == "queued" ? Phase::queued : Phase::done;
      acknowledged += known.durable == Phase::none ? 0 : 1;
      // As it was acknowledged, or further on the way that it has been asked to go since: no step back.
      const bool is_right = is == Phase::none ? known.durable == Phase::none || known.asked == Phase::erased : known.durable <= is && is <= known.asked;
      CHECK(is_right);
      if (is == Phase::queued) CHECK(store.read(id, CallPart::request) == request_of(i));
      if (is == Phase::done) CHECK(store.read(id, CallPart::result) == result_of(i));
      if (call != found.end()) found.erase(call);
    }
    CHECK(found.empty());  // nobody's calls
    // It goes on working.
    std::promise<Status> written;
    store.write(change_to(Phase::queued, 7, id_of(999'999'999, store.id())), [&](Status status) { written.set_value(std::move(status)); });
    CHECK(written.get_future().get());
  }
  CHECK(segments > static_cast<std::size_t>(count));  // disks had files, and cleaning made new ones
  std::printf("call store power losses: %lld, acknowledged calls looked at %zu, lost 0, with an unfinished write %zu, told as damage 0, seed=%llu\n", static_cast<long long>(count),
              acknowledged, torn, static_cast<unsigned long long>(seed));
}
