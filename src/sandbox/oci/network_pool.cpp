// SPDX-License-Identifier: MIT
#include "sandbox/oci/network_pool.h"

#include <fcntl.h>

#include <algorithm>

#include "dirigent/base/log.h"
#include "dirigent/base/random.h"

namespace dirigent::sandbox {

namespace {

// More at a time only wait for the kernel's lock of all links.
constexpr std::size_t kMakingMax = 2;
constexpr Duration kPauseAfterFailure = 500ms;

}  // namespace

NetworkPool::NetworkPool(io::Loop& loop, Network& network, CniNetwork* cni, std::uint32_t ready,
                         const std::vector<std::uint32_t>& taken)
    : loop_(loop),
      network_(network),
      cni_(cni),
      wanted_(ready),
      next_serial_(static_cast<std::uint32_t>(entropy_seed() & 0xffffff)),
      helpers_(std::make_unique<Helpers>(loop, kMakingMax)),
      removers_(cni == nullptr ? nullptr : std::make_unique<Helpers>(loop, kMakingMax)),
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
  auto make = [this, serial = next_serial_++, number] {
    return cni_ != nullptr ? make_cni_place(*cni_, number) : make_network_place(network_, serial, number);
  };
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

void NetworkPool::give_back(NetworkPlace place) {
  if (place.attachment.empty()) {
    // The kernel removes namespace and link behind the last descriptor.
    numbers_.push_back(place.number);
    return;
  }
  // Its number is used by nobody until its address is free again.
  removers_->submit([this, shared = std::make_shared<NetworkPlace>(std::move(place))] {
    if (Status removed = cni_->remove(shared->attachment, shared->path()); !removed)
      log_warn("sandbox", "the network of a sandbox stays allocated until the worker starts again: {}",
               removed.error().message);
    loop_.post([this, is_alive = std::weak_ptr<bool>(alive_), number = shared->number] {
      if (is_alive.expired()) return;
      numbers_.push_back(number);
      refill();
    });
  });
}

void NetworkPool::look_at(const NetworkPlace& place) {
  if (place.attachment.empty()) return;
  // A descriptor of its own: the sandbox may end meanwhile.
  auto copy = std::make_shared<NetworkPlace>();
  copy->network_namespace = io::FileDescriptor(::fcntl(place.network_namespace.get(), F_DUPFD_CLOEXEC, 3));
  removers_->submit([this, attachment = place.attachment, copy] {
    if (Status same = cni_->check(attachment, copy->path()); !same)
      log_warn("sandbox", "the network of a sandbox is not as it was: {}", same.error().message);
  });
}

void NetworkPool::take_back_all_but(std::vector<std::string> kept) {
  if (cni_ == nullptr) return;
  // What is made from now on is not of an earlier life.
  std::vector<std::string> old = cni_->attachments();
  std::erase_if(old, [&](const std::string& one) { return std::find(kept.begin(), kept.end(), one) != kept.end(); });
  removers_->submit([this, old = std::move(old)] { take_back(old); });
}

void NetworkPool::take_back(const std::vector<std::string>& attachments) {
  for (const auto& attachment : attachments) {
    if (Status removed = cni_->remove(attachment, ""); !removed)
      log_warn("sandbox", "cannot take back the network {} of an earlier life: {}", attachment,
               removed.error().message);
  }
}

io::Task<void> NetworkPool::close() {
  closing_ = true;
  group_.cancel();
  co_await group_.wait();
  // Finishes what the helpers are at: after it no namespace is made any more.
  helpers_.reset();
  if (cni_ != nullptr) {
    // The rest, also what was being made when the pool was closed, while the namespaces are still there.
    auto take_back_rest = [this]() -> Status {
      for (const auto& place : ready_) static_cast<void>(cni_->remove(place.attachment, place.path()));
      take_back(cni_->attachments());
      return {};
    };
    co_await removers_->run(std::move(take_back_rest));
    removers_.reset();
  }
  ready_.clear();
  co_return Status{};
}

}  // namespace dirigent::sandbox
