// SPDX-License-Identifier: MIT
#include "sandbox/helpers.h"

namespace dirigent::sandbox {

io::Task<void> Signal::wait(Instant deadline) {
  Timer timer(loop_.context().get_executor());
  const Entry entry(waiters_, &timer);
  while (!set_) {
    if (io::Loop::now() >= deadline) co_return failure(ErrorCode::timed_out, "deadline passed");
    timer.expires_at(on_steady_clock(deadline));
    std::error_code error;
    co_await timer.async_wait(asio::redirect_error(use_task, error));
    if (error && !set_) {
      const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
      if (state.cancelled() != asio::cancellation_type::none) co_return failure(ErrorCode::cancelled, "cancelled");
    }
  }
  co_return Status{};
}

}  // namespace dirigent::sandbox
