// SPDX-License-Identifier: MIT
//
// What does a cold start cost with each runtime, and how much of it is ours? In microseconds, order to first answered
// request of the builtin hello function, alone (with a pause between) and as a rate with eight at a time.
//
// Floors of the same run: "bare crun/runc" prepares nothing but the network and runs the program with the very same
// configuration; "bare containerd" makes the very same sequence of gRPC calls. Needs root. bench/runtimes.sh starts a
// containerd for it, and gives it namespaces of its own. Prints key=value lines.
//
// With `leftovers`: what do COUNT starts and removals, eight at a time, leave on the machine, and does removing delay a
// start? Counts before and after, and exits with 1 when anything is left.
//
//   runtimes [leftovers] COUNT [CONTAINERD_ADDRESS] [VARIANT...]
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "census.h"
#include "dirigent/base/histogram.h"
#include "subjects.h"

namespace {

using namespace dirigent;
using namespace dirigent::bench;

constexpr std::size_t kAtATime = 8;
constexpr Duration kPause = 60ms;  // a cold start comes alone, not in a tight loop
constexpr std::size_t kRemovalsMeanwhile = 4;
constexpr Duration kSettleMax = 20s;

struct Outcome {
  Histogram whole, create, network, start, ready, removal;
  double rate = 0;
  std::string problem;
};

void print(const std::string& variant, const Outcome& outcome) {
  if (!outcome.problem.empty()) {
    std::printf("benchmark=runtimes variant=%s skipped=\"%s\"\n", variant.c_str(), outcome.problem.c_str());
    return;
  }
  const auto us = [](const Histogram& times, double q) { return static_cast<long long>(times.quantile(q) / 1000); };
  std::printf("benchmark=runtimes variant=%s n=%llu p50_us=%lld p99_us=%lld create_us=%lld network_us=%lld start_us=%lld "
              "ready_us=%lld removal_us=%lld at_once=%zu rate_per_s=%.1f\n",
              variant.c_str(), static_cast<unsigned long long>(outcome.whole.count()), us(outcome.whole, 0.5),
              us(outcome.whole, 0.99), us(outcome.create, 0.5), us(outcome.network, 0.5), us(outcome.start, 0.5),
              us(outcome.ready, 0.5), us(outcome.removal, 0.5), kAtATime, outcome.rate);
  std::fflush(stdout);
}

io::Task<void> one(io::Loop& loop, Subject& subject, std::uint64_t number, Outcome& outcome, bool record) {
  const Instant began = io::Loop::now();
  StartPhases phases;
  Status started = co_await subject.start(number, phases);
  if (!started) co_return started;
  const Instant running = io::Loop::now();
  for (;;) {
    auto answered = co_await subject.answers(number);
    if (answered && *answered) break;
    if (io::Loop::now() - running > 10s) co_return failure(ErrorCode::timed_out, "no answer");
    static_cast<void>(co_await io::sleep_for(loop, 300us));
  }
  const Instant answered_at = io::Loop::now();
  if (record) {
    outcome.whole.record(answered_at - began);
    outcome.create.record(phases.create);
    outcome.network.record(phases.network);
    outcome.start.record(phases.start);
    outcome.ready.record(answered_at - running);
  }
  Status removed = co_await subject.remove(number);
  if (record) outcome.removal.record(io::Loop::now() - answered_at);
  co_return removed;
}

io::Task<void> stream(io::Loop& loop, Subject& subject, std::uint64_t first, std::size_t count, Outcome& outcome, std::size_t& left) {
  for (std::size_t i = 0; i < count && outcome.problem.empty(); ++i) {
    Status done = co_await one(loop, subject, first + i, outcome, false);
    if (!done) outcome.problem = done.error().message;
  }
  --left;
  co_return Status{};
}

io::Action measure(io::Loop& loop, Subject& subject, int count, Outcome& outcome) {
  Status opened = co_await subject.open();
  if (!opened) {
    outcome.problem = opened.error().message;
    loop.stop();
    co_return;
  }
  static_cast<void>(co_await io::sleep_for(loop, 300ms));
  std::uint64_t number = 1;
  for (int i = 0; i < count && outcome.problem.empty(); ++i) {
    Status done = co_await one(loop, subject, number++, outcome, true);
    if (!done) outcome.problem = done.error().message;
    static_cast<void>(co_await io::sleep_for(loop, kPause));
  }
  {
    io::TaskGroup group(loop, "streams");
    const auto each = static_cast<std::size_t>(std::max(1, count / 4));
    std::size_t left = kAtATime;
    const Instant began = io::Loop::now();
    for (std::size_t i = 0; i < kAtATime; ++i) group.spawn(stream(loop, subject, 1'000'000 * (i + 1), each, outcome, left));
    co_await group.wait();
    outcome.rate = static_cast<double>(each * kAtATime) / std::chrono::duration<double>(io::Loop::now() - began).count();
  }
  static_cast<void>(co_await subject.close());
  loop.stop();
}

// What leaving nothing behind is measured with.
struct Leftovers {
  std::string containerd;
  std::vector<std::string> directories;
  Census before, after;
  Duration settled{};  // after the last removal
  std::vector<std::string> left;
  Histogram alone, meanwhile;  // starts with nothing else going on, and while others are being removed
  double rate = 0;
  std::string problem;
};

Census look(const Leftovers& leftovers) {
  return take_census(leftovers.containerd, leftovers.directories, "/dirigent/bench");
}

// The kernel removes namespaces and links behind the last reference, and runtimes take their stock back: what is there
// still after kSettleMax is left over.
io::Task<void> settle(io::Loop& loop, Leftovers& leftovers) {
  const Instant began = io::Loop::now();
  for (;;) {
    leftovers.after = look(leftovers);
    leftovers.left = left_over(leftovers.before, leftovers.after, 12);
    leftovers.settled = io::Loop::now() - began;
    if (leftovers.left.empty() || leftovers.settled > kSettleMax) co_return Status{};
    static_cast<void>(co_await io::sleep_for(loop, 250ms));
  }
}

io::Task<void> many(io::Loop& loop, Subject& subject, std::uint64_t first, std::size_t count, Leftovers& leftovers) {
  io::TaskGroup group(loop, "streams");
  Outcome outcome;
  std::size_t left = kAtATime;
  const Instant began = io::Loop::now();
  for (std::size_t i = 0; i < kAtATime; ++i)
    group.spawn(stream(loop, subject, first + 100'000 * i, count / kAtATime, outcome, left));
  co_await group.wait();
  leftovers.rate = static_cast<double>(count) / std::chrono::duration<double>(io::Loop::now() - began).count();
  if (!outcome.problem.empty()) co_return failure(ErrorCode::unavailable, "{}", outcome.problem);
  co_return Status{};
}

io::Task<void> remove_one(Subject& subject, std::uint64_t number) { return subject.remove(number); }

// Starts alone and starts while four others are being removed, in turn.
io::Task<void> compare_starts(io::Loop& loop, Subject& subject, std::size_t rounds, Leftovers& leftovers) {
  std::uint64_t number = 5'000'000;
  for (std::size_t round = 0; round < rounds; ++round) {
    Outcome alone;
    Status done = co_await one(loop, subject, ++number, alone, true);
    if (!done) co_return done;
    leftovers.alone.merge(alone.whole);
    static_cast<void>(co_await io::sleep_for(loop, kPause));
    std::vector<std::uint64_t> others;
    for (std::size_t i = 0; i < kRemovalsMeanwhile; ++i) {
      StartPhases phases;
      Status started = co_await subject.start(++number, phases);
      if (!started) co_return started;
      others.push_back(number);
    }
    static_cast<void>(co_await io::sleep_for(loop, kPause));
    Outcome meanwhile;
    io::TaskGroup group(loop, "removals");
    for (const auto other : others) group.spawn(remove_one(subject, other));
    done = co_await one(loop, subject, ++number, meanwhile, true);
    co_await group.wait();
    if (!done) co_return done;
    leftovers.meanwhile.merge(meanwhile.whole);
    static_cast<void>(co_await io::sleep_for(loop, kPause));
  }
  co_return Status{};
}

// What is made once (the first connection, threads) and a stock, which is kept at what was once needed and has a bound, is
// no leftover of a sandbox: many starts and removals, and then more sandboxes at a time than a stock and its users will be.
io::Task<void> fill_stock(io::Loop& loop, Subject& subject, std::size_t count, Leftovers& leftovers) {
  Status ran = co_await many(loop, subject, 2'000'000, count, leftovers);
  std::vector<std::uint64_t> held;
  for (std::uint64_t number = 1; ran && number <= 10 * kAtATime; ++number) {
    StartPhases phases;
    ran = co_await subject.start(number, phases);
    if (ran) held.push_back(number);
  }
  for (const auto number : held) {
    Status removed = co_await subject.remove(number);
    if (ran) ran = removed;
  }
  if (!ran) co_return ran;
  static_cast<void>(co_await io::sleep_for(loop, 3s));
  leftovers.before = look(leftovers);
  co_return Status{};
}

// `rehearsal` is another one of the same: what is made once on a machine (the directories of containerd's namespace) is
// no leftover.
io::Task<void> look_for_leftovers(io::Loop& loop, std::unique_ptr<Subject> rehearsal, std::unique_ptr<Subject> subject,
                                  std::size_t count, Leftovers& leftovers) {
  Status opened = co_await rehearsal->open();
  if (!opened) co_return opened;
  opened = co_await many(loop, *rehearsal, 1'000'000, kAtATime, leftovers);
  static_cast<void>(co_await rehearsal->close());
  rehearsal.reset();
  if (!opened) co_return opened;
  const Census closed = look(leftovers);
  opened = co_await subject->open();
  if (!opened) co_return opened;
  Status warmed = co_await fill_stock(loop, *subject, count / 4 / kAtATime * kAtATime, leftovers);
  if (warmed) warmed = co_await many(loop, *subject, 3'000'000, count, leftovers);
  if (warmed) warmed = co_await settle(loop, leftovers);
  if (warmed) warmed = co_await compare_starts(loop, *subject, 40, leftovers);
  static_cast<void>(co_await subject->close());
  subject.reset();
  if (!warmed) co_return warmed;
  for (auto& name : left_over(closed, look(leftovers), 6)) leftovers.left.push_back("after close, " + name);
  co_return Status{};
}

io::Action run_leftovers(io::Loop& loop, std::unique_ptr<Subject> rehearsal, std::unique_ptr<Subject> subject,
                         std::size_t count, Leftovers& leftovers) {
  Status done = co_await look_for_leftovers(loop, std::move(rehearsal), std::move(subject), count, leftovers);
  if (!done) leftovers.problem = done.error().message;
  loop.stop();
}

bool print(const std::string& variant, std::size_t count, const Leftovers& leftovers) {
  if (!leftovers.problem.empty()) {
    std::printf("benchmark=leftovers variant=%s skipped=\"%s\"\n", variant.c_str(), leftovers.problem.c_str());
    return true;
  }
  const auto us = [](const Histogram& times, double q) { return static_cast<long long>(times.quantile(q) / 1000); };
  std::printf(
      "benchmark=leftovers variant=%s n=%zu at_once=%zu rate_per_s=%.1f settled_ms=%lld left=%zu alone_p50_us=%lld "
      "alone_p99_us=%lld "
      "during_removals_p50_us=%lld during_removals_p99_us=%lld\n  before %s\n  after  %s\n",
      variant.c_str(), count, kAtATime, leftovers.rate, static_cast<long long>(leftovers.settled / 1ms),
      leftovers.left.size(), us(leftovers.alone, 0.5), us(leftovers.alone, 0.99), us(leftovers.meanwhile, 0.5),
      us(leftovers.meanwhile, 0.99), to_text(leftovers.before).c_str(), to_text(leftovers.after).c_str());
  for (const auto& name : leftovers.left) std::printf("  left   %s\n", name.c_str());
  std::fflush(stdout);
  return leftovers.left.empty();
}

}  // namespace

int main(int argc, char** argv) {
  const bool leftovers_mode = argc > 1 && std::strcmp(argv[1], "leftovers") == 0;
  if (leftovers_mode) {
    --argc;
    ++argv;
  }
  const int count = argc > 1 ? std::atoi(argv[1]) : 100;
  const std::string address = argc > 2 ? argv[2] : "";
  if (::geteuid() != 0) {
    std::fprintf(stderr, "runtimes makes namespaces and links: run it as root\n");
    return 2;
  }
  std::vector<std::string> variants(argv + std::min(argc, 3), argv + argc);
  if (variants.empty() && leftovers_mode)
    variants = {"process", "oci_crun", "oci_runc", "containerd_crun", "containerd_runc"};
  if (variants.empty())
    variants = {"process", "bare_crun", "oci_crun", "bare_runc", "oci_runc", "bare_containerd_crun", "containerd_crun",
                "containerd_shared_crun", "bare_containerd_runc", "containerd_runc"};
  bool clean = true;
  for (const auto& variant : variants) {
    io::Loop loop;
    auto subject = make_subject(loop, variant, address, kAtATime);
    io::TaskGroup group(loop, "bench");
    Outcome outcome;
    Leftovers leftovers;
    if (leftovers_mode) {
      leftovers.containerd = variant.starts_with("containerd") ? address : "";
      leftovers.directories = {kRunDirectory, "/run/containerd"};
      if (!address.empty()) leftovers.directories.push_back(std::filesystem::path(address).parent_path());
      group.spawn(run_leftovers(loop, make_subject(loop, variant, address, kAtATime), std::move(subject),
                                static_cast<std::size_t>(count) / kAtATime * kAtATime, leftovers));
    } else {
      group.spawn(measure(loop, *subject, count, outcome));
    }
    loop.run();
    group.drain_now();
    if (leftovers_mode)
      clean = print(variant, static_cast<std::size_t>(count) / kAtATime * kAtATime, leftovers) && clean;
    else
      print(variant, outcome);
  }
  return clean ? 0 : 1;
}
