// SPDX-License-Identifier: MIT
//
// The supply of parked cells. Everything slow about a sandbox (namespaces, a link, joining cgroups: the last waits for
// the kernel's grace periods, 7 to 11 ms each on a quiet machine) is done here, ahead of the order and several at a
// time.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "dirigent/base/log.h"
#include "sandbox/process/runtime_impl.h"

namespace dirigent::sandbox {

namespace {

// Cells being parked at a time: more only wait for the same locks of the kernel.
constexpr std::size_t kParkingMax = 8;
constexpr Duration kPauseAfterFailure = 500ms;
// A burst of launches has the machine for itself: the stock is made again when none has come for this long, unless less
// than this share of it is left.
constexpr Duration kQuiet = 20ms;
constexpr std::size_t kLowStock = 4;
// The busiest second of the last two periods is what the stock is kept for. Longer than a minute, so that who is called
// each minute by many clocks is prepared for the next one.
constexpr Duration kDemandPeriod = 90s;
// Lodgings kept although nobody lives in them, besides two for each parked cell; and how many of more are taken down in
// a second: the kernel holds up everybody who makes a link meanwhile.
constexpr std::size_t kVacantMin = 16;
constexpr std::size_t kDemolishedMax = 32;

struct Ends {
  int worker[3] = {-1, -1, -1};  // control, stdout, stderr
  int cell[3] = {-1, -1, -1};
};

Result<Ends> make_ends() {
  Ends ends;
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_failure(errno, "cannot make the control socket of a cell");
  ends.worker[0] = pair[0];
  ends.cell[0] = pair[1];
  for (int stream = 1; stream <= 2; ++stream) {
    if (::pipe2(pair, O_CLOEXEC) != 0) {
      const int error = errno;
      for (int i = 0; i < stream; ++i) {
        ::close(ends.worker[i]);
        ::close(ends.cell[i]);
      }
      return errno_failure(error, "cannot make the output pipes of a cell");
    }
    ends.worker[stream] = pair[0];
    ends.cell[stream] = pair[1];
    ::fcntl(pair[0], F_SETFL, O_NONBLOCK);
  }
  return ends;
}

}  // namespace

std::size_t ProcessRuntime::parked_wanted() const {
  const std::size_t demand = std::max(demand_[0], demand_[1]);
  return std::max<std::size_t>(options_.parked, std::min<std::size_t>(demand, options_.parked_max));
}

bool ProcessRuntime::may_stock() const {
  if (io::Loop::now() < refill_after_) return false;
  return !is_busy_ || kLowStock * (parked_.size() + parking_) < parked_wanted();
}

void ProcessRuntime::refill() {
  if (closing_) return;
  const std::size_t wanted = waiters_.size() + (may_stock() ? parked_wanted() : 0);
  while (parking_ < kParkingMax && parked_.size() + parking_ < wanted && can_park()) {
    const bool is_urgent = parking_ < waiters_.size();
    ++parking_;
    group_.spawn(park_one(is_urgent));
  }
}

bool ProcessRuntime::can_park() const { return !numbers_.empty() || !vacant_.empty(); }

io::Task<void> ProcessRuntime::park_one(bool is_urgent) {
  auto cell = std::make_shared<Cell>(loop_);
  cell->serial = next_serial_++;
  if (!vacant_.empty()) {
    cell->lodging = vacant_.front();
    vacant_.pop_front();
  } else if (!numbers_.empty()) {
    cell->lodging->number = numbers_.front();
    numbers_.pop_front();
    cell->lodging->cgroup = fmt::format("cell-{:x}", cell->serial);
  } else {
    --parking_;
    co_return Status{};
  }
  by_serial_[cell->serial] = cell;
  Status status;
  try {
    status = co_await park(cell, is_urgent);
  } catch (const std::system_error&) {
    status = failure(ErrorCode::cancelled, "cancelled");
  }
  --parking_;
  parked_or_not(cell, status);
  co_return Status{};
}

// Builds a new lodging, or gives a vacant one the next free address.
io::Task<void> ProcessRuntime::find_lodging(CellPtr cell) {
  const LodgingPtr lodging = cell->lodging;
  if (lodging->netns < 0) {
    auto build = [this, lodging, usual = usual_limits_] { return lodgings_.build(*lodging, usual); };
    co_return co_await helpers_->run(std::move(build));
  }
  std::uint32_t number = lodging->number;
  if (!numbers_.empty()) {
    number = numbers_.front();
    numbers_.pop_front();
  }
  lodging->is_whole = false;
  auto readdress = [this, lodging, number, usual = usual_limits_] { return lodgings_.readdress(*lodging, number, usual); };
  Status done = co_await helpers_->run(std::move(readdress));
  if (closing_) co_return done;  // cancelled: the helper may be at it still
  if (lodging->left_number != 0) numbers_.push_back(std::exchange(lodging->left_number, 0));
  if (!done && lodging->number != number) numbers_.push_back(number);
  co_return done;
}

io::Task<void> ProcessRuntime::park(CellPtr cell, bool is_urgent) {
  const Instant deadline = io::Loop::now() + options_.start_timeout;
  Status lodged = co_await find_lodging(cell);
  if (!lodged) co_return lodged;
  const auto networking = !network_                  ? wire::Networking::none
                          : cell->lodging->netns < 0 ? wire::Networking::fresh
                                                     : wire::Networking::kept;
  auto ends = make_ends();
  std::vector<int> fds;
  if (ends) fds.assign(ends->cell, ends->cell + 3);
  if (networking == wire::Networking::kept) fds.push_back(cell->lodging->netns);
  fds.insert(fds.end(), cell->lodging->cgroup_fds.begin(), cell->lodging->cgroup_fds.end());
  Status sent;
  if (ends) {
    wire::Writer message(wire::Kind::park);
    message.u32(cell->serial)
        .u8(static_cast<std::uint8_t>(full_ ? wire::Isolation::full : wire::Isolation::user))
        .u8(static_cast<std::uint8_t>(networking))
        .u8(is_urgent ? 1 : 0);
    sent = closing_ ? Status(failure(ErrorCode::cancelled, "closing")) : spawner_.send(message, fds);
    cell->control.assign(ends->worker[0]);
    cell->output[0].assign(ends->worker[1]);
    cell->output[1].assign(ends->worker[2]);
    cell->is_forked = sent.has_value();
    for (const int fd : ends->cell) ::close(fd);
  }
  cell->lodging->close_cgroups();
  if (!ends) co_return failure(ends.error());
  if (!sent) co_return sent;
  read_control(cell);
  read_output(cell, 0);
  read_output(cell, 1);
  auto forked = co_await cell->forked.wait(deadline);
  if (!forked) co_return failure(forked.error().within("the spawner did not answer"));
  if (cell->has_failed) co_return failure(cell->error);
  if (network_) {
    if (networking == wire::Networking::fresh) {
      auto connect = [this, cell] { return lodgings_.connect(*cell->lodging, cell->serial, cell->pid); };
      Status connected = co_await helpers_->run(std::move(connect));
      if (!connected) {
        // A cell that has given up takes its network with it, and knows better why.
        const auto told = cell->changed;
        static_cast<void>(co_await told->wait(io::Loop::now() + 200ms));
        co_return failure(cell->has_failed ? cell->error : connected.error());
      }
    }
    wire::Writer message(wire::Kind::network);
    cell->lodging->network.write(message);
    const int error = wire::send_message(cell->control.native_handle(), message.bytes());
    if (error != 0 && !cell->has_failed) co_return errno_failure(error, "cannot talk to a cell");
  }
  const auto changed = cell->changed;
  auto ready = co_await changed->wait(deadline);
  if (!ready) co_return failure(ready.error().within("a cell did not get ready"));
  if (cell->has_failed) co_return failure(cell->error);
  co_return Status{};
}

// Gives the cell to the first who waits, or to the stock; a failure goes to one waiter, who can tell what is wrong.
void ProcessRuntime::parked_or_not(const CellPtr& cell, const Status& status) {
  if (status && cell->state != CellState::ended && !closing_) {
    cell->state = CellState::parked;
    cell->lodging->is_whole = true;
    cell->changed = std::make_shared<Signal>(loop_);
    if (!waiters_.empty()) {
      const auto waiter = waiters_.front();
      waiters_.pop_front();
      waiter->cell = cell;
      waiter->signal.set();
    } else {
      parked_.push_back(cell);
    }
    refill();
    return;
  }
  const Error error = !status            ? status.error()
                      : cell->has_failed ? cell->error
                                         : Error{ErrorCode::cancelled, "the runtime is closing"};
  if (!cell->is_forked) ended(cell, std::nullopt);
  else kill(cell);
  if (closing_) return;
  if (io::Loop::now() >= refill_after_) log_warn("sandbox", "cannot park a cell: {}", error.message);
  refill_after_ = io::Loop::now() + kPauseAfterFailure;
  if (!waiters_.empty()) {
    const auto waiter = waiters_.front();
    waiters_.pop_front();
    waiter->error = error;
    waiter->signal.set();
  }
  refill();
}

// A function's n-th sandbox goes behind every other function's n-1-th: in a burst, one that wants hundreds does not keep
// those waiting that have none yet.
void ProcessRuntime::line_up(const std::shared_ptr<Waiter>& waiter) {
  for (const auto& [id, cell] : by_id_) waiter->rank += cell->function == waiter->function ? 1 : 0;
  for (const auto& other : waiters_) waiter->rank += other->function == waiter->function ? 1 : 0;
  const auto behind = [](std::size_t rank, const std::shared_ptr<Waiter>& other) { return rank < other->rank; };
  waiters_.insert(std::upper_bound(waiters_.begin(), waiters_.end(), waiter->rank, behind), waiter);
}

// One has begun, or one of those that take turns has been carried out.
void ProcessRuntime::note_launches() {
  if (closing_) return;
  busy_until_ = io::Loop::now() + kQuiet;
  if (!std::exchange(is_busy_, true)) group_.spawn(wait_until_quiet());
}

io::Task<void> ProcessRuntime::wait_until_quiet() {
  while (io::Loop::now() < busy_until_) {
    Status slept = co_await io::sleep_until(loop_, busy_until_);
    if (!slept) co_return Status{};
  }
  is_busy_ = false;
  refill();
  co_return Status{};
}

io::Task<ProcessRuntime::CellPtr> ProcessRuntime::take_cell(std::string function, Instant deadline) {
  ++recent_launches_;
  note_launches();
  if (!parked_.empty()) {
    CellPtr cell = parked_.front();
    parked_.pop_front();
    co_return cell;
  }
  if (!can_park())
    co_return failure(ErrorCode::exhausted, "all {} sandbox addresses of this worker are in use", kRangeSize - 4);
  const auto waiter = std::make_shared<Waiter>(loop_, std::move(function));
  line_up(waiter);
  refill();
  Status waited;
  try {
    waited = co_await waiter->signal.wait(deadline);
  } catch (const std::system_error&) {
    waited = failure(ErrorCode::cancelled, "cancelled");
  }
  if (waiter->cell) {
    if (waited) co_return waiter->cell;
    // Cancelled in the moment it was served: the cell is as good as new.
    if (waiter->cell->state == CellState::parked) parked_.push_front(waiter->cell);
    co_return failure(waited.error());
  }
  std::erase(waiters_, waiter);
  if (!waited) co_return failure(waited.error().within("no cell could be had"));
  co_return failure(waiter->error);
}

// Each second: what was launched in it sets the stock for the minutes to come.
io::Task<void> ProcessRuntime::tend_pool() {
  Instant period_end = io::Loop::now() + kDemandPeriod;
  for (;;) {
    Status slept = co_await io::sleep_for(loop_, 1s);
    if (!slept) co_return Status{};
    if (io::Loop::now() >= period_end) {
      demand_[1] = std::exchange(demand_[0], 0);
      period_end += kDemandPeriod;
    }
    demand_[0] = std::max(demand_[0], std::exchange(recent_launches_, 0));
    for (std::size_t surplus = parked_.size() > parked_wanted() ? parked_.size() - parked_wanted() : 0; surplus > 0;
         --surplus) {
      const CellPtr cell = parked_.back();
      parked_.pop_back();
      kill(cell);
    }
    const std::size_t vacant_wanted = kVacantMin + 2 * parked_wanted();
    for (std::size_t taken = 0; taken < kDemolishedMax && vacant_.size() > vacant_wanted; ++taken) {
      group_.spawn(demolish(vacant_.front()));
      vacant_.pop_front();
    }
    kept_logs_.forget_until(io::Loop::now());
    refill();
  }
}

}  // namespace dirigent::sandbox
