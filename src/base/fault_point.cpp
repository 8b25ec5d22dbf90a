// SPDX-License-Identifier: MIT
#include "dirigent/base/fault_point.h"

#if DIRIGENT_HAS_FAULT_POINTS

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iterator>

#include "dirigent/base/text.h"

namespace dirigent::fault {

namespace {

constexpr std::int64_t kCountMax = 0xffff;

// The point that is armed, times 65,536, plus how often it has still to be reached. A lock would not do: a signal handler
// writes it.
std::atomic<std::uint64_t> armed{std::uint64_t{kNone} << 16};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

void arm(std::size_t index, std::uint64_t count) { armed.store((std::uint64_t{index} << 16) | count); }

void on_signal(int, siginfo_t* info, void*) {
  const auto value = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(info->si_value.sival_ptr));
  if (info->si_code == SI_QUEUE && (value >> 16) <= kNone && (value & 0xffff) != 0) armed.store(value);
}

std::string unknown(std::string_view text) {
  std::string names;
  for (const auto name : kPoints) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  return fmt::format("DIRIGENT_FAULT: \"{}\" is no fault point (write NAME, NAME:N with N in 1..{}, or none; there are: {})", text, kCountMax, names);
}

}  // namespace

std::optional<std::string> arm_from_environment() {
  const char* variable = std::getenv("DIRIGENT_FAULT");
  if (variable == nullptr) return std::nullopt;
  const std::string_view text = variable;
  const std::string_view name = text.substr(0, text.find(':'));
  const auto count = name.size() == text.size() ? std::optional<std::int64_t>(1) : parse_integer(text.substr(name.size() + 1));
  if (text != "none") {
    if (index_of(name) == kNone || !count || *count < 1 || *count > kCountMax) return unknown(text);
    arm(index_of(name), static_cast<std::uint64_t>(*count));
  }
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (::sigaction(SIGRTMIN + 7, &action, nullptr) != 0) return "DIRIGENT_FAULT: cannot listen for the signal that arms points";
  return std::nullopt;
}

void reach(std::size_t index) {
  std::uint64_t now = armed.load(std::memory_order_relaxed);
  while (now >> 16 == index) {
    if ((now & 0xffff) <= 1) {
      char text[128];
      const auto end = fmt::format_to_n(text, std::size(text), "dirigent: killed at fault point {}\n", kPoints[index]);
      [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, std::min(end.size, std::size(text)));
      ::kill(::getpid(), SIGKILL);
      for (;;) ::pause();
    }
    if (armed.compare_exchange_weak(now, now - 1)) return;
  }
}

}  // namespace dirigent::fault

#endif
