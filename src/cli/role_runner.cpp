// SPDX-License-Identifier: MIT
#include "cli/role_runner.h"

#include <unistd.h>

#include <asio/posix/stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include <array>
#include <csignal>

#include "cli/ctl/views.h"
#include "dirigent/base/log.h"
#include "dirigent/io/signals.h"

namespace dirigent::cli {

namespace {

constexpr asio::use_awaitable_t<asio::io_context::executor_type> use_task{};

class Runner {
 public:
  Runner(std::string_view name, const ProcessOptions& options, const BoundStarter& start, Terminal& terminal)
      : name_(name),
        options_(options),
        start_(start),
        terminal_(terminal),
        group_(loop_, "cli"),
        stop_timer_(loop_.context()) {
    stop_timer_.expires_at(std::chrono::steady_clock::time_point::max());
  }

  int run() {
    auto watcher = io::SignalWatcher::open(loop_, [this](int number) {
      log_info(name_, "{}: stopping, running requests get {} (a second signal ends at once)",
               number == SIGINT ? "interrupted" : "terminated", format_duration(options_.drain_time));
      stop();
    });
    if (!watcher) {
      terminal_.error(watcher.error().message);
      return 1;
    }
    if (options_.exit_with_stdin) group_.spawn(watch_stdin());
    group_.spawn(live());
    loop_.run();
    group_.drain_now();
    role_.reset();
    return status_;
  }

 private:
  void stop() {
    stopping_ = true;
    stop_timer_.cancel();
  }

  io::Action live() {
    const Instant began = io::Loop::now();
    auto started = co_await start_(loop_);
    if (!started) {
      terminal_.error(fmt::format("dirigent {} cannot start: {}", name_, started.error().message));
      status_ = traits(started.error().code).exit_code;
      loop_.stop();
      co_return;
    }
    role_ = std::move(*started);
    tell_start(io::Loop::now() - began);
    while (!stopping_) {
      std::error_code error;
      co_await stop_timer_.async_wait(asio::redirect_error(use_task, error));
    }
    co_await role_->stop(options_.drain_time);
    log_info(name_, "stopped");
    loop_.stop();
  }

  void tell_start(Duration took) {
    if (options_.print_addresses) terminal_.write(addresses_json(name_, *role_));
    if (name_ != "dev") {
      std::string text;
      for (const auto& [label, address] : role_->addresses()) text += fmt::format(", {} {}", label, address);
      for (const auto& [label, note] : role_->notes()) text += fmt::format(", {} {}", label, note);
      log_info(name_, "ready in {}{}", format_duration(took), text);
      return;
    }
    terminal_.talk("==> dirigent dev: control, data and worker in one process\n\n");
    for (const auto& [label, address] : role_->addresses()) {
      const bool is_unix = address.starts_with("unix:");
      terminal_.talk("  {:>11}   {}{}{}\n", label, is_unix || label == "rpc" ? "" : "http://", address,
                     label == "invoke" ? "/function/NAME" : "");
    }
    for (const auto& [label, note] : role_->notes()) terminal_.talk("  {:>11}   {}\n", label, note);
    terminal_.talk("\n==> ready in {}. Ctrl-C stops. Try:  dirigent ctl deploy hello --image builtin:hello\n\n",
                   format_duration(took));
  }

  // What stdin says does not matter, only when it ends. Files that cannot be waited for (/dev/null) count as ended.
  io::Action watch_stdin() {
    asio::posix::basic_stream_descriptor<asio::io_context::executor_type> input(loop_.context().get_executor());
    std::error_code error;
    input.assign(::dup(STDIN_FILENO), error);
    std::array<char, 256> buffer;
    while (!error) co_await input.async_read_some(asio::buffer(buffer), asio::redirect_error(use_task, error));
    if (error == asio::error::operation_aborted) co_return;
    log_info(name_, "stdin ended: stopping");
    stop();
  }

  std::string name_;
  const ProcessOptions& options_;
  const BoundStarter& start_;
  Terminal& terminal_;
  io::Loop loop_;
  io::TaskGroup group_;
  asio::steady_timer stop_timer_;
  std::unique_ptr<RunningRole> role_;
  bool stopping_ = false;
  int status_ = 0;
};

}  // namespace

std::string addresses_json(std::string_view role, const RunningRole& running) {
  std::string text = fmt::format("{{\"role\":\"{}\",\"pid\":{},\"addresses\":{{", role, ::getpid());
  bool first = true;
  for (const auto& [label, address] : running.addresses()) {
    text += fmt::format("{}{}:{}", first ? "" : ",", quoted_json(label), quoted_json(address));
    first = false;
  }
  return text + "}}\n";
}

int run_role(std::string_view name, const ProcessOptions& options, const BoundStarter& start, Terminal& terminal) {
  set_log_level(options.log_level);
  set_log_format(options.log_format);
  Runner runner(name, options, start, terminal);
  return runner.run();
}

}  // namespace dirigent::cli
