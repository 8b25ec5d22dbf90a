// SPDX-License-Identifier: MIT
//
// What cells and the spawner report, and how a cell ends: always by way of ended(), once, whoever began it.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "dirigent/base/log.h"
#include "sandbox/process/runtime_impl.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kLastOutputBytesMax = 4096;
constexpr Duration kFirstSettlePause = 4ms;  // then four times as long each time ...
constexpr Duration kLastSettlePause = 4s;    // ... to this

}  // namespace

void ProcessRuntime::read_spawner() {
  spawner_socket_.async_wait(asio::posix::descriptor_base::wait_read, [this](std::error_code error) {
    if (error) return;
    std::string bytes;
    for (;;) {
      const long size = wire::receive_message(spawner_.socket(), bytes, nullptr, false);
      if (size == -EAGAIN) break;
      if (size <= 0) {
        spawner_died();
        return;
      }
      on_spawner_message(bytes);
    }
    read_spawner();
  });
}

void ProcessRuntime::on_spawner_message(const std::string& bytes) {
  wire::Reader in(bytes);
  const wire::Kind kind = in.kind();
  const auto found = by_serial_.find(in.u32());
  if (found == by_serial_.end()) return;
  const CellPtr cell = found->second;
  if (kind == wire::Kind::forked) {
    cell->pid = in.u32();
    cell->forked.set();
  } else if (kind == wire::Kind::not_forked) {
    cell->is_forked = false;
    cell->has_failed = true;
    cell->error = Error{ErrorCode::unavailable, in.text()};
    cell->forked.set();
  } else if (kind == wire::Kind::exited) {
    ended(cell, static_cast<int>(in.u32()));
  }
}

// Every cell dies with its parent, so all that is left is to say so and to start another.
void ProcessRuntime::spawner_died() {
  if (closing_) return;
  log_error("sandbox", "the spawner has died: its {} cells are lost, starting another", by_serial_.size());
  spawner_socket_.release();
  spawner_.stop();
  std::vector<CellPtr> cells;
  for (const auto& [serial, cell] : by_serial_) cells.push_back(cell);
  for (const auto& cell : cells) {
    if (cell->state == CellState::ended) continue;
    cell->has_failed = true;
    cell->error = Error{ErrorCode::unavailable, "the worker's spawner process has died"};
    cell->forked.set();
    ended(cell, std::nullopt);
  }
  if (Status status = start_spawner(); !status) {
    log_error("sandbox", "{}", status.error().message);
    return;
  }
  spawner_socket_.assign(spawner_.socket());
  read_spawner();
  refill();
}

void ProcessRuntime::read_control(const CellPtr& cell) {
  cell->control.async_wait(asio::posix::descriptor_base::wait_read, [this, cell](std::error_code error) {
    if (error || cell->state == CellState::ended) return;
    if (drain_control(cell)) read_control(cell);
  });
}

// False when the cell's end of the socket is closed.
bool ProcessRuntime::drain_control(const CellPtr& cell) {
  std::string bytes;
  for (;;) {
    const long size = wire::receive_message(cell->control.native_handle(), bytes, nullptr, false);
    if (size == -EAGAIN) return true;
    if (size <= 0) return false;
    on_cell_message(cell, bytes);
  }
}

void ProcessRuntime::on_cell_message(const CellPtr& cell, const std::string& bytes) {
  wire::Reader in(bytes);
  switch (in.kind()) {
    case wire::Kind::parked:
      cell->changed->set();
      break;
    case wire::Kind::started:
      cell->root_us = in.u32();
      cell->start_us = in.u32();
      if (cell->state == CellState::ordered) cell->state = CellState::running;
      cell->changed->set();
      break;
    case wire::Kind::failed: {
      const bool not_found = in.u8() != 0;
      cell->has_failed = true;
      cell->error = Error{not_found ? ErrorCode::not_found : ErrorCode::unavailable, in.text()};
      cell->changed->set();
      break;
    }
    case wire::Kind::ended:
      cell->exit_code = static_cast<int>(in.u32());
      cell->signal = static_cast<int>(in.u32());
      break;
    default:
      break;
  }
}

void ProcessRuntime::read_output(const CellPtr& cell, int stream) {
  cell->output[stream].async_wait(asio::posix::descriptor_base::wait_read, [this, cell, stream](std::error_code error) {
    if (error || cell->state == CellState::ended) return;
    if (drain_output(cell, stream)) read_output(cell, stream);
  });
}

// Reads what is there (a bounded amount: a chatty function must not keep the loop); false at the end of the stream.
bool ProcessRuntime::drain_output(const CellPtr& cell, int stream) {
  char buffer[16 * 1024];
  for (int turn = 0; turn < 8; ++turn) {
    const ssize_t size = ::read(cell->output[stream].native_handle(), buffer, sizeof buffer);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    if (size == 0) return false;
    cell->logs->append(stream == 1, std::string_view(buffer, static_cast<std::size_t>(size)), io::Loop::wall_now());
  }
  return true;
}

void ProcessRuntime::kill(const CellPtr& cell) {
  if (cell->state == CellState::ended || !cell->is_forked) return;
  // Only the spawner knows whether the process still has its number.
  static_cast<void>(spawner_.send(wire::Writer(wire::Kind::kill).u32(cell->serial)));
}

void ProcessRuntime::ended(const CellPtr& cell, std::optional<int> wait_status) {
  if (cell->state == CellState::ended) return;
  if (cell->control.is_open()) drain_control(cell);
  for (const int stream : {0, 1}) {
    if (cell->output[stream].is_open()) drain_output(cell, stream);
  }
  cell->logs->finish(io::Loop::wall_now());
  cell->end = describe_end(cell, wait_status);
  const bool was_sandbox = cell->state == CellState::ordered || cell->state == CellState::running;
  if (!was_sandbox && !cell->has_failed) {
    cell->has_failed = true;
    cell->error = Error{ErrorCode::unavailable, "the cell ended before it was used: " + cell->end->detail};
  }
  cell->state = CellState::ended;
  forget(cell);
  std::erase(parked_, cell);
  std::error_code ignored;
  cell->control.close(ignored);
  cell->output[0].close(ignored);
  cell->output[1].close(ignored);
  cell->forked.set();
  cell->changed->set();
  if (cell->launched) tell_end(cell);
  // Without a status nobody knows that it has ended with all its processes.
  if (!wait_status) cell->lodging->is_whole = false;
  clean_up(cell);
}

SandboxEnd ProcessRuntime::describe_end(const CellPtr& cell, std::optional<int> wait_status) const {
  SandboxEnd end;
  end.last_output = cell->logs->tail(kLastOutputBytesMax);
  if (cell->exit_code) {
    end.exit_code = *cell->exit_code;
    end.signal = cell->signal;
  } else if (wait_status && WIFEXITED(*wait_status)) {
    end.exit_code = WEXITSTATUS(*wait_status);
  } else if (wait_status && WIFSIGNALED(*wait_status)) {
    end.signal = WTERMSIG(*wait_status);
    end.exit_code = 128 + end.signal;
  }
  const std::string how = end.signal != 0 ? fmt::format("was ended by signal {} ({})", end.signal,
                                                        ::sigabbrev_np(end.signal) ? ::sigabbrev_np(end.signal) : "?")
                                          : fmt::format("exited with {}", end.exit_code);
  if (cell->state != CellState::parking && cgroups_.memory_kills(cell->lodging->cgroup) > 0) {
    end.cause = EndCause::out_of_memory;
    end.detail = fmt::format("the function {}: it needed more memory than its limit", how);
  } else if (cell->stop_requested) {
    end.cause = EndCause::requested;
    end.detail = fmt::format("the function {} after it was told to stop", how);
  } else if (cell->has_failed) {
    end.cause = EndCause::start_failed;
    end.detail = cell->error.message;
  } else {
    end.cause = EndCause::exited;
    end.detail = fmt::format("the function {}", how);
  }
  return end;
}

void ProcessRuntime::tell_end(const CellPtr& cell) {
  if (on_end_) on_end_(cell->id, *cell->end);
}

// The last of a cell, on a helper thread: its published port, and a look at what it leaves behind. Its lodging is used
// again or taken down.
void ProcessRuntime::clean_up(const CellPtr& cell) {
  auto work = [this, cell, is_closing = closing_] {
    if (cell->published_port != 0 && firewall_) firewall_->unpublish(cell->published_port);
    const auto state = is_closing ? Lodgings::State::spoiled : lodgings_.inspect(*cell->lodging);
    if (state == Lodgings::State::spoiled) lodgings_.demolish(*cell->lodging);
    loop_.post([this, cell, state] {
      cell->image.reset();
      if (cell->published_port != 0) published_ports_.push_back(cell->published_port);
      by_serial_.erase(cell->serial);
      if (const auto found = by_id_.find(cell->id); found != by_id_.end() && found->second == cell) {
        keep_logs(cell);
        by_id_.erase(found);
      }
      vacated(cell->lodging, state);
      cell->gone.set();
      if (by_serial_.empty() && empty_) empty_->set();
      if (!closing_) refill();
    });
  };
  helpers_->submit(std::move(work));
}

void ProcessRuntime::vacated(const LodgingPtr& lodging, Lodgings::State state) {
  if (state == Lodgings::State::spoiled) {
    numbers_.push_back(lodging->number);
  } else if (state == Lodgings::State::clean || closing_) {
    vacant_.push_back(lodging);
  } else {
    group_.spawn(settle(lodging));
  }
}

// Waits until the kernel has closed the sockets of a cell that has ended: their other ends close within a few
// milliseconds when they see the end. What takes longer than the last look is not worth waiting for.
io::Task<void> ProcessRuntime::settle(LodgingPtr lodging) {
  auto state = Lodgings::State::busy;
  for (Duration pause = kFirstSettlePause; state == Lodgings::State::busy && pause <= kLastSettlePause; pause *= 4) {
    Status slept = co_await io::sleep_for(loop_, pause);
    auto look = [this, lodging]() -> Result<Lodgings::State> { return lodgings_.inspect(*lodging); };
    if (slept) {
      auto seen = co_await helpers_->run(std::move(look));
      if (seen) state = *seen;
      slept = seen ? Status{} : failure(seen.error());
    }
    if (!slept) {
      vacant_.push_back(lodging);  // the runtime is closing, which takes them all down
      co_return Status{};
    }
  }
  if (state == Lodgings::State::clean) {
    vacant_.push_back(std::move(lodging));
    refill();
    co_return Status{};
  }
  co_return co_await demolish(std::move(lodging));
}

io::Task<void> ProcessRuntime::demolish(LodgingPtr lodging) {
  auto work = [this, lodging]() -> Status {
    lodgings_.demolish(*lodging);
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(work)));
  numbers_.push_back(lodging->number);
  co_return Status{};
}

void ProcessRuntime::keep_logs(const CellPtr& cell) {
  if (options_.logs_kept > Duration::zero()) kept_logs_.keep(cell->id, cell->logs, io::Loop::now() + options_.logs_kept);
}

}  // namespace dirigent::sandbox
