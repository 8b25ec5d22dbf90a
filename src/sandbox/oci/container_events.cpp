// SPDX-License-Identifier: MIT
//
// What running containers say, and how one ends: always by way of its pidfd and finish(), once, whoever began it.
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "dirigent/base/log.h"
#include "sandbox/oci/container_runtime.h"
#include "sandbox/oci/exit_status.h"

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kLastOutputBytesMax = 4096;

}  // namespace

void ContainerRuntime::watch(const ContainerPtr& container) {
  container->pidfd.async_wait(asio::posix::descriptor_base::wait_read, [this, container](std::error_code error) {
    if (error || container->state == ContainerState::ended) return;
    // A wake-up may be another descriptor's: one that was closed while a child about to execute still had a copy of it.
    pollfd ended{container->pidfd.native_handle(), POLLIN, 0};
    if (::poll(&ended, 1, 0) != 1) return watch(container);
    container->state = ContainerState::ended;
    group_.spawn(finish(container));
  });
}

void ContainerRuntime::read_output(const ContainerPtr& container, int stream) {
  container->output[stream].async_wait(asio::posix::descriptor_base::wait_read,
                                       [this, container, stream](std::error_code error) {
                                         if (error || !container->output[stream].is_open()) return;
                                         if (drain_output(container, stream)) read_output(container, stream);
                                       });
}

// Reads what is there (a bounded amount: a chatty function must not keep the loop); false at the end of the stream.
bool ContainerRuntime::drain_output(const ContainerPtr& container, int stream) {
  char buffer[16 * 1024];
  for (int turn = 0; turn < 8; ++turn) {
    const ssize_t size = ::read(container->output[stream].native_handle(), buffer, sizeof buffer);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    if (size == 0) return false;
    container->logs->append(stream == 1, std::string_view(buffer, static_cast<std::size_t>(size)), io::Loop::wall_now());
  }
  return true;
}

// By the pidfd: it is this process or none, and no daemon has to be asked.
void ContainerRuntime::kill(const ContainerPtr& container, int signal) {
  if (::syscall(SYS_pidfd_send_signal, container->pidfd.native_handle(), signal, nullptr, 0) != 0 && errno != ESRCH)
    log_warn("sandbox", "cannot send signal {} to sandbox {}: {}", signal, to_string(container->id),
             std::generic_category().message(errno));
}

io::Task<void> ContainerRuntime::finish(ContainerPtr container) {
  // Before the engine removes the cgroup.
  auto count = [this, name = container->name]() -> Result<std::uint64_t> { return cgroups_.memory_kills(name); };
  auto kills = co_await helpers_->run(std::move(count));
  auto status = co_await engine_->finish(container->name, container->pid);
  if (!status) {
    // No child of this worker, whose engine cannot know: the kernel may.
    auto ask = [container]() -> Result<ExitStatus> {
      const auto told = exit_status_of(container->pidfd.native_handle(), container->pid);
      return told ? Result<ExitStatus>(*told) : failure(ErrorCode::not_found, "the kernel does not tell");
    };
    if (auto told = co_await helpers_->run(std::move(ask))) status = *told;
  }
  if (!status) log_warn("sandbox", "sandbox {}: {}", to_string(container->id), status.error().message);
  // Its writers are gone now, the shim too that passes on what the function has written: this is all there will be.
  for (const int stream : {0, 1}) {
    if (container->output[stream].is_open()) drain_output(container, stream);
  }
  container->logs->finish(io::Loop::wall_now());
  container->end = describe_end(container, status);
  if (kills && *kills > 0) {
    container->end->cause = EndCause::out_of_memory;
    container->end->detail += ": it needed more memory than its limit";
  }
  std::error_code ignored;
  container->pidfd.close(ignored);
  for (const int stream : {0, 1}) container->output[stream].close(ignored);
  if (container->launched && on_end_) on_end_(container->id, *container->end);
  auto clean_up = [this, container]() -> Status {
    if (container->published_port != 0 && firewall_) firewall_->unpublish(container->published_port);
    cgroups_.remove(container->name);
    return {};
  };
  static_cast<void>(co_await helpers_->run(std::move(clean_up)));
  release(container);
  co_return Status{};
}

SandboxEnd ContainerRuntime::describe_end(const ContainerPtr& container, const Result<ExitStatus>& status) const {
  SandboxEnd end;
  end.last_output = container->logs->tail(kLastOutputBytesMax);
  std::string how = "ended, and nobody knows how";
  if (status) {
    end.exit_code = status->code;
    end.signal = status->signal;
    how = end.signal != 0 ? fmt::format("was ended by signal {} ({})", end.signal,
                                        ::sigabbrev_np(end.signal) != nullptr ? ::sigabbrev_np(end.signal) : "?")
                          : fmt::format("exited with {}", end.exit_code);
  }
  if (container->stop_requested) {
    end.cause = EndCause::requested;
    end.detail = fmt::format("the function {} after it was told to stop", how);
  } else {
    end.cause = EndCause::exited;
    end.detail = fmt::format("the function {}", how);
  }
  return end;
}

// The last of a container that has no process (any more).
void ContainerRuntime::release(const ContainerPtr& container) {
  if (container->gone.is_set()) return;
  container->state = ContainerState::ended;
  forget(container);
  if (container->place.network_namespace.is_open()) networks_->give_back(std::move(container->place));
  if (container->published_port != 0) published_ports_.push_back(container->published_port);
  container->image.reset();
  if (const auto found = by_id_.find(container->id); found != by_id_.end() && found->second == container) {
    if (options_.logs_kept > Duration::zero() && container->end) {
      kept_logs_.keep(container->id, container->logs, io::Loop::now() + options_.logs_kept);
    }
    by_id_.erase(found);
  }
  kept_logs_.forget_until(io::Loop::now());
  container->gone.set();
  if (by_id_.empty() && empty_) empty_->set();
}

}  // namespace dirigent::sandbox
