// SPDX-License-Identifier: MIT
#include "dirigent/io/blocking_pool.h"

#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "http_fixture.h"

using namespace dirigent;
using namespace dirigent::io;
using namespace dirigent::io::test;

TEST_CASE("blocking pool: work runs elsewhere and its result comes back to the loop that asked") {
  Loop loop;
  BlockingPool pool(2, "helpers");
  const auto here = std::this_thread::get_id();
  auto ask = [&]() -> Task<std::string> {
    std::thread::id there;
    auto work = [&there, text = std::make_unique<std::string>("moved only")] {
      there = std::this_thread::get_id();
      return *text;
    };
    std::string answer = co_await pool.run(std::move(work));
    CHECK(there != here);
    CHECK(std::this_thread::get_id() == here);
    auto nothing = [] {};
    co_await pool.run(nothing);
    co_return answer;
  };
  CHECK(run_task(loop, ask()) == std::string("moved only"));
}

TEST_CASE("blocking pool: an exception is thrown where the work was asked for") {
  Loop loop;
  BlockingPool pool(1, "helpers");
  auto ask = [&]() -> Task<std::string> {
    std::string caught;
    auto work = []() -> int { throw std::runtime_error("from the helper"); };
    try {
      co_await pool.run(work);
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    co_return caught;
  };
  CHECK(run_task(loop, ask()) == std::string("from the helper"));
}

TEST_CASE("blocking pool: many calls from many coroutines all come back") {
  Loop loop;
  BlockingPool pool(4, "helpers");
  TaskGroup group(loop, "test");
  int sum = 0;
  int left = 1000;
  auto ask = [&](int i) -> Action {
    auto work = [i] { return i; };
    sum += co_await pool.run(work);
    if (--left == 0) loop.stop();
  };
  for (int i = 0; i < 1000; ++i) group.spawn(ask(i));
  loop.run();
  group.drain_now();
  CHECK(sum == 999 * 1000 / 2);
}

TEST_CASE("blocking pool: a cancelled coroutine waits for its running call, so the call may use its variables") {
  Loop loop;
  BlockingPool pool(1, "helpers");
  std::mutex mutex;
  std::condition_variable changed;
  bool started = false;
  bool may_end = false;
  bool written = false;
  bool went_on = false;
  {
    TaskGroup group(loop, "test");
    auto ask = [&]() -> Action {
      int local = 0;
      auto work = [&] {
        std::unique_lock lock(mutex);
        started = true;
        changed.notify_all();
        changed.wait(lock, [&] { return may_end; });
        local = 7;
      };
      co_await pool.run(work);
      written = local == 7;
      auto more = [] {};
      co_await pool.run(more);
      went_on = true;
    };
    group.spawn(ask());
    loop.poll();
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return started; });
    }
    group.cancel();
    loop.poll();
    CHECK_FALSE(group.empty());
    {
      const std::lock_guard lock(mutex);
      may_end = true;
    }
    changed.notify_all();
    group.drain_now();
  }
  CHECK(written);
  CHECK_FALSE(went_on);
}

TEST_CASE("blocking pool: close lets queued work finish") {
  Loop loop;
  int done = 0;
  TaskGroup group(loop, "test");
  {
    BlockingPool pool(1, "helpers");
    auto ask = [&]() -> Action {
      auto work = [&] { ++done; };
      co_await pool.run(work);
    };
    for (int i = 0; i < 20; ++i) group.spawn(ask());
    loop.poll();
    pool.close();
    CHECK(pool.pending() == 0);
    CHECK(done == 20);
    group.drain_now();
  }
  CHECK(group.empty());
}
