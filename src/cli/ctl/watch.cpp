// SPDX-License-Identifier: MIT
//
// `dirigent ctl logs` and `dirigent ctl events`.
#include <algorithm>
#include <chrono>
#include <ctime>
#include <set>
#include <thread>
#include <tuple>

#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

constexpr auto kFollowInterval = std::chrono::milliseconds(300);
constexpr Duration kEventPoll = 30s;

std::string clock_text(std::int64_t at_us) {
  const auto seconds = static_cast<std::time_t>(at_us / 1'000'000);
  std::tm broken{};
  localtime_r(&seconds, &broken);
  return fmt::format("{:02}:{:02}:{:02}.{:03}", broken.tm_hour, broken.tm_min, broken.tm_sec, at_us / 1000 % 1000);
}

std::string json_line(const LogRow& row) {
  return fmt::format("{{\"at_us\":{},\"sandbox\":{},\"node\":{},\"stream\":{},\"text\":{}}}\n", row.at_us,
                     quoted_json(row.sandbox), quoted_json(row.node), quoted_json(row.stream), quoted_json(row.text));
}

void print_line(VerbContext& context, const LogRow& row) {
  if (context.output == Output::json) {
    context.terminal.write(json_line(row));
  } else {
    context.terminal.print("{} {} {} {} | {}\n", clock_text(row.at_us), row.sandbox.substr(0, 8), row.node,
                           row.stream == "stderr" ? "err" : "out", printable(row.text));
  }
}

Result<std::string> log_query(const Arguments& arguments) {
  const auto lines = arguments.value("tail").value_or("100");
  const auto number = parse_integer(lines);
  if (!number || *number < 1 || *number > 10'000)
    return failure(ErrorCode::invalid_argument, "--tail \"{}\" is not a number of lines in 1..10000", lines);
  std::string query = fmt::format("?lines={}", *number);
  if (const auto sandbox = arguments.value("sandbox")) query += "&sandbox=" + io::percent_encode(*sandbox);
  return query;
}

int logs(VerbContext& context) {
  auto path = context.function_path(context.word(0));
  if (!path) return context.fail(path.error());
  auto query = log_query(context.arguments);
  if (!query) return context.misused(query.error().message);
  std::int64_t from_us = 0;
  if (const auto since = context.arguments.value("since")) {
    auto ago = parse_duration(*since);
    if (!ago) return context.misused(ago.error().within("--since").message);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    from_us = std::chrono::duration_cast<std::chrono::microseconds>(now - *ago).count();
  }
  // Lines of one microsecond may come in two answers: remember those of the newest moment of each sandbox.
  using Key = std::tuple<std::string, std::int64_t, std::string>;
  std::set<Key> shown;
  const bool follow = context.arguments.is_on("follow");
  for (;;) {
    auto body = context.client.call("GET", fmt::format("{}/logs{}", *path, *query));
    if (!body) return context.fail(body.error());
    auto rows = read_logs(*body);
    if (!rows) return context.fail(rows.error());
    std::set<Key> seen;
    for (const LogRow& row : *rows) {
      if (row.at_us < from_us) continue;
      Key key{row.sandbox, row.at_us, row.text};
      if (!shown.contains(key)) print_line(context, row);
      seen.insert(std::move(key));
    }
    if (!follow) return 0;
    shown = std::move(seen);
    std::this_thread::sleep_for(kFollowInterval);
  }
}

void print_event(VerbContext& context, const EventRow& event) {
  if (context.output == Output::json) {
    context.terminal.print("{{\"sequence\":{},\"at_us\":{},\"kind\":{},\"text\":{}}}\n", event.sequence, event.at_us,
                           quoted_json(event.kind), quoted_json(event.text));
    return;
  }
  context.terminal.print("{}  {:<16}  {}\n", clock_text(event.at_us), printable(event.kind), printable(event.text));
  if (event.end && !event.end->detail.empty())
    context.terminal.print("                                {}\n", printable(event.end->detail));
}

int events(VerbContext& context) {
  auto path = context.function_path(context.word(0));
  if (!path) return context.fail(path.error());
  const bool follow = context.arguments.is_on("follow");
  std::uint64_t after = 0;
  Duration wait{};
  for (;;) {
    auto body =
        context.client.call("GET", fmt::format("{}/events?after={}&wait_ms={}", *path, after, wait / 1ms), {}, wait);
    if (!body) return context.fail(body.error());
    auto rows = read_events(*body);
    if (!rows) return context.fail(rows.error());
    for (const EventRow& event : *rows) {
      print_event(context, event);
      after = std::max(after, event.sequence);
    }
    if (!follow) return 0;
    wait = kEventPoll;
  }
}

}  // namespace

std::vector<Verb> watch_verbs() {
  return {
      {"logs", {}, "NAME", 1, 1, "show what a function has printed",
       {{"follow", 'f', "", "go on with new lines until interrupted"},
        {"tail", 0, "N", "so many of the newest lines [100]"},
        {"since", 0, "DURATION", "only lines younger than this"},
        {"sandbox", 0, "ID", "of one sandbox only"}},
       WordKind::function, logs},
      {"events", {}, "NAME", 1, 1, "show what has happened to a function",
       {{"follow", 'f', "", "go on with new events until interrupted"}}, WordKind::function, events},
  };
}

}  // namespace dirigent::cli
