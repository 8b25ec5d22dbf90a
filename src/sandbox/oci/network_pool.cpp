// SPDX-License-Identifier: MIT
#include "sandbox/oci/network_pool.h"

#include <algorithm>

#include "dirigent/base/log.h"
#include "dirigent/base/random.h"

namespace dirigent::sandbox {

namespace {

// More at a time only wait for the kernel's lock of all links.
constexpr std::size_t kMakingMax = 2;
constexpr Duration kPauseAfterFailure = 500ms;

}  // namespace

NetworkPool::NetworkPool(io::Loop& loop, Network& network, std::uint32_t ready, const std::vector<std::uint32_t>& taken)
    : loop_(loop),
      network_(network),
      wanted_(ready),
      next_serial_(static_cast<std::uint32_t>(entropy_seed() & 0xffffff)),
      helpers_(std::make_unique<Helpers>(loop, kMakingMax)),
      group_(loop, "networks") {
  // 0 is the range's own name, 1 the gateway, the last one is left out as a broadcast address would be.
  for (std::uint32_t number = 2; number < kRangeSize - 1; ++number) {
    if (std::find(taken.begin(), taken.end(), number) == taken.end()) numbers_.push_back(number);
  }
  refill();
}

void NetworkPool::refill() {
  if (closing_) return;
  const std::size_t stock = io::Loop::now() >= refill_after_ ? wanted_ : 0;
  while (making_ < kMakingMax && ready_.size() + making_ < stock + waiters_.size() && !numbers_.empty()) {
    ++making_;
    group_.spawn(make_one());
  }
}

io::Task<void> NetworkPool::make_one() {
  if (numbers_.empty()) {
    --making_;
    co_return Status{};
  }
  const std::uint32_t number = numbers_.front();
  numbers_.pop_front();
  auto make = [this, serial = next_serial_++, number] { return make_network_place(network_, serial, number); };
  auto place = co_await helpers_->run(std::move(make));
  --making_;
  if (place) {
    ready_.push_back(std::move(*place));
  } else {
    numbers_.push_back(number);
    if (place.error().code == ErrorCode::cancelled) co_return Status{};
    last_error_ = place.error();
    if (io::Loop::now() >= refill_after_) log_warn("sandbox", "cannot make a network: {}", last_error_.message);
    refill_after_ = io::Loop::now() + kPauseAfterFailure;
  }
  if (!waiters_.empty()) {
    waiters_.front()->set();
    waiters_.pop_front();
  }
  refill();
  co_return Status{};
}

io::Task<NetworkPlace> NetworkPool::take(Instant deadline) {
  while (ready_.empty()) {
    if (numbers_.empty() && making_ == 0)
      co_return failure(ErrorCode::exhausted, "all {} sandbox addresses of this worker are in use", kRangeSize - 4);
    last_error_ = Error{};
    const auto turn = std::make_shared<Signal>(loop_);
    waiters_.push_back(turn);
    refill();
    Status waited;
    try {
      waited = co_await turn->wait(deadline);
    } catch (const std::system_error&) {
      waited = failure(ErrorCode::cancelled, "cancelled");
    }
    std::erase(waiters_, turn);
    if (!waited) co_return failure(waited.error().within("no network could be had"));
    if (ready_.empty() && !last_error_.message.empty()) co_return failure(last_error_);
  }
  NetworkPlace place = std::move(ready_.front());
  ready_.pop_front();
  refill();
  co_return place;
}

io::Task<void> NetworkPool::close() {
  closing_ = true;
  group_.cancel();
  co_await group_.wait();
  ready_.clear();
  // Finishes what the helpers are at: after it no namespace is made any more.
  helpers_.reset();
  co_return Status{};
}

}  // namespace dirigent::sandbox
