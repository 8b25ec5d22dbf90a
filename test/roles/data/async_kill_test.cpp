// SPDX-License-Identifier: MIT
//
// A data plane (the real program, a process of its own) that is killed again and again while it accepts and runs
// asynchronous calls. The function counts what it is asked to do, by call id. Afterwards:
//   - every call that was answered with 202 has run and has its result, byte for byte;
//   - none ran again after its result had been seen;
//   - all others ran once more than needed at most as often as calls were in flight at the kills.
//
// DIRIGENT: the program. DIRIGENT_KILLS: how many kills (20), DIRIGENT_SEED: of the run.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "catch.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "fake_control.h"
#include "harness.h"
#include "setting.h"

using namespace dirigent;
using namespace dirigent::test;

namespace {

constexpr int kInflight = 16;
constexpr int kClients = 4;

// `dirigent data`, which ends with this process because its standard input does.
class Process {
 public:
  Process(const std::string& control, const std::string& directory) {
    int in[2];
    int out[2];
    REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    const std::string inflight = std::to_string(kInflight);
    std::vector<const char*> words{std::getenv("DIRIGENT"), "data", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
                                   "--control", control.c_str(), "--async-dir", directory.c_str(), "--async-backoff-min", "20ms",
                                   "--async-store-max", "64MiB", "--async-max-inflight", inflight.c_str(), "--shards", "2",
                                   "--print-addresses", "--exit-with-stdin", "--log-level", "error", nullptr};
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::execv(words[0], const_cast<char**>(words.data()));
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    stdin_ = in[1];
    std::string line;
    char byte = 0;
    while (::read(out[0], &byte, 1) == 1 && byte != '\n') line += byte;
    ::close(out[0]);
    address_ = word_behind(line, "\"invoke\":\"");
  }
  ~Process() { kill(); }

  [[nodiscard]] const std::string& address() const { return address_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
    ::close(stdin_);
  }

 private:
  static std::string word_behind(const std::string& text, const std::string& mark) {
    std::string plain = text;
    std::erase(plain, ' ');
    const std::size_t at = plain.find(mark);
    if (at == std::string::npos) return {};
    return plain.substr(at + mark.size(), plain.find('"', at + mark.size()) - at - mark.size());
  }
  pid_t pid_ = -1;
  int stdin_ = -1;
  std::string address_;
};

// What clients and the function have seen.
class Ledger {
 public:
  struct Call {
    std::string body;        // as it was sent; empty: its 202 has not been seen
    int runs = 0;
    int runs_when_seen = -1;  // when its result was seen
  };
  void accepted(const std::string& id, const std::string& body) {
    const std::lock_guard lock(mutex_);
    calls_[id].body = body;
    pending_.insert(id);
  }
  int ran(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return ++calls_[id].runs;
  }
  void seen(const std::string& id) {
    const std::lock_guard lock(mutex_);
    Call& call = calls_[id];
    call.runs_when_seen = call.runs;
    pending_.erase(id);
  }
  std::vector<std::string> pending() {
    const std::lock_guard lock(mutex_);
    return {pending_.begin(), pending_.end()};
  }
  std::string body_of(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return calls_[id].body;
  }
  std::map<std::string, Call> all() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, Call> calls_;
  std::set<std::string> pending_;
};

std::string random_body(Rng& rng) {
  std::string body(rng.below(20) == 0 ? 40'000 : 1 + rng.below(300), '\0');
  for (char& c : body) c = static_cast<char>(rng.below(256));
  return body;
}

// One in ten calls fails at its first attempt.
bool fails_once(const std::string& body) { return static_cast<unsigned char>(body[0]) < 26; }

// "" while the data plane cannot be reached.
std::string post(const std::string& address, const std::string& body) {
  try {
    Wire wire = Wire::connect(address);
    wire.write(fmt::format("POST /async-function/f HTTP/1.1\r\nHost: f\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.size()) + body);
    const Response response = read_response(wire);
    return response.complete && response.status == 202 ? response.header("X-Call-Id") : std::string();
  } catch (const std::exception&) {
    return {};
  }
}

// True when the result is there, and is right.
bool poll_result(const std::string& address, const std::string& id, Ledger& ledger, std::atomic<int>& wrong) {
  try {
    const Response response = fetch(address, get("/async-function/result/" + id));
    if (!response.complete || response.status == 202 || response.status == 503) return false;
    const bool is_right = response.status == 200 && response.header("X-Function-Status") == "200" && response.body == ledger.body_of(id);
    if (!is_right) {
      ++wrong;
      UNSCOPED_INFO("call " << id << ": " << response.status << " " << response.head);
    }
    ledger.seen(id);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

TEST_CASE("async: a data plane that is killed loses no accepted call, and runs none again that had ended") {
  INFO("DIRIGENT names the program; test/run_tests.py sets it");
  REQUIRE(std::getenv("DIRIGENT") != nullptr);
  const auto kills = setting("DIRIGENT_KILLS", 20);
  const auto seed = static_cast<std::uint64_t>(setting("DIRIGENT_SEED", static_cast<std::int64_t>(entropy_seed() >> 1)));
  INFO("again: DIRIGENT_SEED=" << seed << " DIRIGENT_KILLS=" << kills);
  std::string directory = (std::filesystem::temp_directory_path() / "dirigent-kill-XXXXXX").string();
  REQUIRE(::mkdtemp(directory.data()) != nullptr);

  Ledger ledger;
  FakeSandbox sandbox(FakeSandbox::answering([&](const Received& received) {
    const int run = ledger.ran(received.header("X-Call-Id"));
    if (run == 1 && fails_once(received.body)) return std::string("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    return ok(received.body);
  }));
  std::atomic<int> wrong{0};
  int accepted_before = 0;
  {
    FakeControlPlane control("f", {sandbox.address()});
    Rng rng(seed);
    for (std::int64_t round = 0; round < kills; ++round) {
      Process plane(control.address(), directory);
      REQUIRE_FALSE(plane.address().empty());
      std::atomic<bool> over{false};
      std::vector<std::thread> threads;
      for (int i = 0; i < kClients; ++i) {
        threads.emplace_back([&, own = Rng(rng())]() mutable {
          while (!over) {
            const std::string body = random_body(own);
            if (const std::string id = post(plane.address(), body); !id.empty()) ledger.accepted(id, body);
          }
        });
      }
      threads.emplace_back([&] {
        while (!over) {
          for (const std::string& id : ledger.pending()) {
            if (over) break;
            poll_result(plane.address(), id, ledger, wrong);
          }
        }
      });
      // The moment of the kill is what is being tried out, not something that is waited for.
      std::this_thread::sleep_for(std::chrono::microseconds(20'000 + rng.below(250'000)));
      plane.kill();
      over = true;
      for (std::thread& thread : threads) thread.join();
    }
    accepted_before = static_cast<int>(ledger.all().size());
    Process plane(control.address(), directory);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (!ledger.pending().empty() && std::chrono::steady_clock::now() < deadline) {
      for (const std::string& id : ledger.pending()) poll_result(plane.address(), id, ledger, wrong);
    }
    plane.kill();
  }
  int lost = 0;
  int again = 0;
  int duplicates = 0;
  int accepted = 0;
  for (const auto& [id, call] : ledger.all()) {
    if (call.body.empty()) continue;  // its 202 was cut off by the kill: it may have run, or not
    ++accepted;
    if (call.runs_when_seen < 1) ++lost;
    if (call.runs_when_seen >= 0 && call.runs > call.runs_when_seen) ++again;
    duplicates += std::max(0, call.runs - (fails_once(call.body) ? 2 : 1));
  }
  fmt::print("async kill test: kills={} accepted={} lost={} run_again_after_end={} duplicates={} in_flight_at_most={} seed={}\n",
             kills, accepted, lost, again, duplicates, kills * kInflight, seed);
  CHECK(accepted > 0);
  CHECK(accepted_before >= accepted);
  CHECK(lost == 0);
  CHECK(again == 0);
  CHECK(wrong == 0);
  CHECK(duplicates <= kills * kInflight);
  std::filesystem::remove_all(directory);
}
