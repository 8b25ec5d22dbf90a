// SPDX-License-Identifier: MIT
//
// `dirigent ctl top`: the busiest functions, again and again.
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "cli/ctl/top_table.h"
#include "cli/ctl/trace_views.h"
#include "cli/ctl/verb.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

volatile std::sig_atomic_t g_interrupted = 0;

// The whole screen and single keys while it lives; the terminal as it was afterwards, also after an interrupt.
class Screen {
 public:
  Screen() : is_screen_(::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1) {
    if (!is_screen_) return;
    ::tcgetattr(STDIN_FILENO, &before_);
    termios keys = before_;
    keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &keys);
    struct sigaction action {};
    action.sa_handler = [](int) { g_interrupted = 1; };  // without SA_RESTART: the wait for a key ends
    ::sigaction(SIGINT, &action, &interrupt_before_);
    ::sigaction(SIGTERM, &action, &terminate_before_);
    write_out("\x1b[?1049h");
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen() {
    if (!is_screen_) return;
    write_out("\x1b[?1049l");
    ::sigaction(SIGINT, &interrupt_before_, nullptr);
    ::sigaction(SIGTERM, &terminate_before_, nullptr);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  [[nodiscard]] bool is_screen() const { return is_screen_; }
  // False: the user has seen enough.
  bool wait(Duration interval) const {
    pollfd key{STDIN_FILENO, POLLIN, 0};
    const int ready = ::poll(&key, is_screen_ ? 1 : 0, static_cast<int>(interval / 1ms));
    if (g_interrupted != 0) return false;
    if (ready <= 0) return true;
    char c = 0;
    const ssize_t size = ::read(STDIN_FILENO, &c, 1);
    return size == 1 && c != 'q' && c != 'Q';
  }

 private:
  static void write_out(std::string_view text) {
    [[maybe_unused]] const ssize_t ignored = ::write(STDOUT_FILENO, text.data(), text.size());
  }
  const bool is_screen_;
  termios before_{};
  struct sigaction interrupt_before_ {};
  struct sigaction terminate_before_ {};
};

struct TopOptions {
  TopOrder order = TopOrder::rate;
  std::size_t limit = 20;
  Duration interval = 2s;
  Duration window = 10s;
};

Result<TopOptions> top_options(const Arguments& arguments) {
  TopOptions options;
  auto order = parse_top_order(arguments.value("sort").value_or("rate"));
  if (!order) return failure(order.error().within("--sort"));
  options.order = *order;
  const auto limit = parse_integer(arguments.value("limit").value_or("20"));
  if (!limit || *limit < 1 || *limit > 100'000)
    return failure(ErrorCode::invalid_argument, "--limit is not a number in 1..100000");
  options.limit = static_cast<std::size_t>(*limit);
  for (auto [name, to] : {std::pair{"interval", &options.interval}, std::pair{"window", &options.window}}) {
    const auto text = arguments.value(name);
    if (!text) continue;
    auto duration = parse_duration(*text);
    if (!duration) return failure(duration.error().within(fmt::format("--{}", name)));
    if (*duration < 100ms || *duration > 1h)
      return failure(ErrorCode::invalid_argument, "--{} is not 100ms to 1h", name);
    *to = *duration;
  }
  return options;
}

// What one part of the control plane says, read.
template <class Read>
auto ask_control(VerbContext& context, const char* path, Read read)
    -> Outcome<typename decltype(read(""))::value_type> {
  auto body = context.client.call("GET", path);
  if (!body) return tl::unexpected(body.error());
  auto rows = read(*body);
  if (!rows) return tl::unexpected(failure_of(rows.error()));
  return std::move(*rows);
}

Outcome<TopFrame> look(VerbContext& context, const TopOptions& options) {
  auto planes = planes_with_admin(context);
  if (!planes) return tl::unexpected(planes.error());
  std::vector<std::vector<RecentRow>> recent;
  Failure last;
  for (const DataPlaneRow& plane : *planes) {
    auto body = ask_plane(context, plane, fmt::format("/v1/recent?window_ms={}", options.window / 1ms));
    if (!body) {
      last = body.error();
      if (planes->size() > 1) context.terminal.error(last.error.message, last.hints);
      continue;
    }
    auto rows = read_recent(*body);
    if (!rows) return tl::unexpected(failure_of(rows.error()));
    recent.push_back(std::move(*rows));
  }
  if (recent.empty()) return tl::unexpected(std::move(last));
  auto functions = ask_control(context, "/v1/functions?summary=1", read_functions);
  if (!functions) return tl::unexpected(functions.error());
  auto nodes = ask_control(context, "/v1/nodes", read_nodes);
  if (!nodes) return tl::unexpected(nodes.error());
  auto cluster = ask_control(context, "/v1/cluster", read_cluster);
  if (!cluster) return tl::unexpected(cluster.error());
  return TopFrame{std::move(*cluster), std::move(*nodes), top_rows(recent, *functions, options.order)};
}

int top(VerbContext& context) {
  auto options = top_options(context.arguments);
  if (!options) return context.misused(options.error().message);
  const bool once = context.arguments.is_on("once");
  if (context.output != Output::table && context.output != Output::json)
    return context.misused("top prints a table or json");
  auto frame = look(context, *options);
  if (!frame) return context.fail(frame.error());
  const auto show = [&](std::string_view before) {
    context.terminal.write(context.output == Output::json
                               ? top_json(*frame)
                               : std::string(before) + printable(draw_top(*frame, options->limit, context.headers)));
  };
  if (once || context.output == Output::json) {
    show("");
    return 0;
  }
  Failure failed;
  {
    const Screen screen;
    do {
      show(screen.is_screen() ? "\x1b[H\x1b[2J" : "\n");
      if (screen.is_screen()) context.terminal.write("\nq quits\n");
      if (!screen.wait(options->interval)) return 0;
      frame = look(context, *options);
    } while (frame);
    failed = frame.error();
  }
  return context.fail(failed);
}

}  // namespace

std::vector<Verb> top_verbs() {
  return {
      {"top",
       {},
       "",
       0,
       0,
       "show the busiest functions, again and again",
       {{"once", 0, "", "one look, for scripts (also -o json)"},
        {"interval", 0, "DURATION", "between two looks [2s]"},
        {"window", 0, "DURATION", "how far back rates and quantiles reach [10s]"},
        {"sort", 0, "ORDER", "rate, p99, errors or waiting [rate]", false, {"rate", "p99", "errors", "waiting"}},
        {"limit", 0, "N", "so many functions [20]"}},
       WordKind::none,
       top},
  };
}

}  // namespace dirigent::cli
