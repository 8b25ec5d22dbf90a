// SPDX-License-Identifier: MIT
#include "dirigent/io/blocking_pool.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dirigent/base/assert.h"

namespace dirigent::io {

struct BlockingPool::State {
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::unique_ptr<Job>> queue;
  std::size_t running = 0;
  bool closed = false;
  std::vector<std::thread> threads;
};

BlockingPool::BlockingPool(std::size_t threads, std::string_view name) : state_(std::make_unique<State>()) {
  ASSERT(threads > 0 && name.size() <= 15, "{} threads, name {}", threads, name);
  // Signals stay unblocked: a program that a helper starts would inherit the mask, and SignalWatcher is content with any
  // thread.
  state_->threads.reserve(threads);
  for (std::size_t i = 0; i < threads; ++i) {
    state_->threads.emplace_back([state = state_.get()] { work_off(*state); });
    pthread_setname_np(state_->threads.back().native_handle(), std::string(name).c_str());
  }
}

BlockingPool::~BlockingPool() { close(); }

void BlockingPool::submit(std::unique_ptr<Job> job) {
  {
    const std::lock_guard lock(state_->mutex);
    ASSERT(!state_->closed, "work was given to a closed pool");
    state_->queue.push_back(std::move(job));
  }
  state_->changed.notify_one();
}

void BlockingPool::work_off(State& state) {
  std::unique_lock lock(state.mutex);
  for (;;) {
    state.changed.wait(lock, [&] { return state.closed || !state.queue.empty(); });
    if (state.queue.empty()) return;
    std::unique_ptr<Job> job = std::move(state.queue.front());
    state.queue.pop_front();
    ++state.running;
    lock.unlock();
    Job& next = *job;
    next.perform(std::move(job));
    lock.lock();
    --state.running;
  }
}

std::size_t BlockingPool::pending() const {
  const std::lock_guard lock(state_->mutex);
  return state_->queue.size() + state_->running;
}

void BlockingPool::close() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->closed = true;
  }
  state_->changed.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
  state_->threads.clear();
}

}  // namespace dirigent::io
