// SPDX-License-Identifier: MIT
//
// `dirigent ctl trace`: what became of a call, of the last ones, or of those that come.
#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <set>
#include <thread>

#include "cli/ctl/phases.h"
#include "cli/ctl/trace_views.h"
#include "cli/ctl/verb.h"
#include "dirigent/base/text.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

constexpr auto kFollowInterval = std::chrono::milliseconds(300);

std::string clock_text(std::int64_t at_us) {
  const auto seconds = static_cast<std::time_t>(at_us / 1'000'000);
  std::tm broken{};
  localtime_r(&seconds, &broken);
  return fmt::format("{:02}:{:02}:{:02}.{:03}", broken.tm_hour, broken.tm_min, broken.tm_sec, at_us / 1000 % 1000);
}

std::string or_dash(std::string_view text) { return text.empty() ? "-" : std::string(text); }

std::string place_of(const CallRow& call) {
  return call.sandbox.empty() ? "-" : fmt::format("{}@{}", call.sandbox, call.node);
}

// One call on one line, for lists and for following.
std::string line_of(const CallRow& call) {
  const std::string name = !call.revision.empty() ? call.revision : or_dash(call.function);
  const std::string what = !call.reason.empty() ? call.reason : call.cold ? "cold" : "";
  return fmt::format("{}  {}  {:>10.2f} ms  {:<24}  {:<26}  {:<24}  {}", clock_text(call.started_us), call.status,
                     static_cast<double>(call.duration_us) / 1000, name, or_dash(call.call_id), place_of(call), what);
}

std::string trimmed_right(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

void show_in_full(VerbContext& context, const CallRow& call) {
  std::string text = fmt::format("call {}  {}  status {}{}  at {}\n", call.call_id,
                                 or_dash(call.revision.empty() ? call.function : call.revision), call.status,
                                 call.reason.empty() ? "" : " (" + call.reason + ")", clock_text(call.started_us));
  text += fmt::format(
      "  {}   {} bytes in, {} bytes out{}\n",
      call.sandbox.empty() ? "no sandbox had it" : fmt::format("sandbox {} on node {}", call.sandbox, call.node),
      call.bytes_in, call.bytes_out,
      call.sandboxes_tried > 1 ? fmt::format(", {} sandboxes tried", call.sandboxes_tried) : "");
  std::vector<Phase> phases;
  for (const auto& [name, ms] : call.phases_ms) phases.push_back({name, ms, ""});
  if (!phases.empty()) phases.push_back({"cold", 0, call.cold ? call.node : "no"});
  text += draw_phases(phases);
  const double total_ms = static_cast<double>(call.duration_us) / 1000;
  double to_head_ms = 0;
  for (const auto& [name, ms] : call.phases_ms) to_head_ms += ms;
  text += phases.empty() ? fmt::format("  {:.2f} ms from its head to the end of the answer\n", total_ms)
                         : fmt::format("  {:.2f} ms to the end of the answer, {:.2f} ms of them behind its head\n",
                                       total_ms, std::max(0.0, total_ms - to_head_ms));
  context.terminal.write(printable(text));
}

Result<std::string> filters(const Arguments& arguments) {
  std::string query;
  if (const auto name = arguments.value("function")) {
    auto function = parse_function_name(*name);
    if (!function) return failure(function.error().within("--function"));
    query += "&function=" + io::percent_encode(function->value);
  }
  if (arguments.is_on("errors")) query += "&errors=true";
  if (arguments.is_on("cold")) query += "&cold=true";
  return query;
}

// The calls that match, of every data plane, in the order of time. A data plane that cannot be asked is told on stderr,
// and fails the command only when no other answers.
Outcome<std::vector<CallRow>> ask_all(VerbContext& context, const std::vector<DataPlaneRow>& planes,
                                      const std::string& query, std::map<std::string, std::string>& cursors) {
  std::vector<CallRow> calls;
  std::size_t answered = 0;
  Failure last;
  for (const DataPlaneRow& plane : planes) {
    std::string target = "/v1/calls?" + query;
    if (const auto cursor = cursors.find(plane.id); cursor != cursors.end())
      target += (query.empty() ? "limit=10000&after=" : "&limit=10000&after=") + cursor->second;
    auto body = ask_plane(context, plane, std::move(target));
    if (!body) {
      last = body.error();
      if (planes.size() > 1) context.terminal.error(last.error.message, last.hints);
      continue;
    }
    auto answer = read_calls(*body);
    if (!answer) return tl::unexpected(failure_of(answer.error()));
    ++answered;
    cursors[plane.id] = answer->cursor;
    std::move(answer->calls.begin(), answer->calls.end(), std::back_inserter(calls));
  }
  if (answered == 0) return tl::unexpected(std::move(last));
  std::stable_sort(calls.begin(), calls.end(), [](const CallRow& a, const CallRow& b) {
    return a.started_us + a.duration_us < b.started_us + b.duration_us;
  });
  return calls;
}

void show_line(VerbContext& context, const CallRow& call) {
  if (context.output == Output::json) {
    context.terminal.write(call.json + "\n");
  } else if (context.output == Output::name) {
    context.terminal.write(printable(call.call_id) + "\n");
  } else {
    context.terminal.write(printable(trimmed_right(line_of(call))) + "\n");
  }
}

int trace_one(VerbContext& context, const std::vector<DataPlaneRow>& planes, const std::string& query) {
  std::map<std::string, std::string> cursors;
  auto calls = ask_all(context, planes, query + "&id=" + io::percent_encode(context.word(0)), cursors);
  if (!calls) return context.fail(calls.error());
  if (calls->empty()) {
    // Not the code of a missing function, which has hints of its own.
    return context.fail(
        Failure{Error{ErrorCode::unavailable, fmt::format("no call \"{}\" among the last ones of {}", context.word(0),
                                                          planes.size() == 1 ? "the data plane" : "the data planes")},
                {"a data plane remembers its last 10,000 calls", "list some:  dirigent ctl trace"},
                traits(ErrorCode::not_found).exit_code});
  }
  for (const CallRow& call : *calls) {
    if (context.output == Output::table || context.output == Output::wide) {
      show_in_full(context, call);
    } else {
      show_line(context, call);
    }
  }
  return 0;
}

int trace(VerbContext& context) {
  auto query = filters(context.arguments);
  if (!query) return context.misused(query.error().message);
  const bool follow = context.arguments.is_on("follow");
  const auto tail = parse_integer(context.arguments.value("tail").value_or(follow ? "0" : "20"));
  if (!tail || *tail < 0 || *tail > 10'000) return context.misused("--tail is not a number of calls in 0..10000");
  if (follow && !context.arguments.words().empty())
    return context.misused("trace shows one call, or follows: not both");
  auto planes = planes_with_admin(context);
  if (!planes) return context.fail(planes.error());
  if (!context.arguments.words().empty()) return trace_one(context, *planes, *query);

  std::map<std::string, std::string> cursors;
  auto calls = ask_all(context, *planes, fmt::format("limit={}{}", std::max<std::int64_t>(*tail, 1), *query), cursors);
  if (!calls) return context.fail(calls.error());
  const auto wanted = static_cast<std::size_t>(*tail);
  if (calls->size() > wanted) calls->erase(calls->begin(), calls->end() - static_cast<std::ptrdiff_t>(wanted));
  for (const CallRow& call : *calls) show_line(context, call);
  if (calls->empty() && !follow && !context.quiet) context.terminal.talk("no call yet that matches\n");
  while (follow) {
    std::this_thread::sleep_for(kFollowInterval);
    // The cursor says where to go on; what the limit of the first answer was does not matter any more.
    calls = ask_all(context, *planes, query->empty() ? "" : query->substr(1), cursors);
    if (!calls) return context.fail(calls.error());
    for (const CallRow& call : *calls) show_line(context, call);
  }
  return 0;
}

}  // namespace

std::vector<Verb> trace_verbs() {
  return {
      {"trace",
       {},
       "[ID]",
       0,
       1,
       "show what became of a call, or of the last ones",
       {{"follow", 'f', "", "go on with new calls until interrupted"},
        {"tail", 0, "N", "so many of the last calls [20; with --follow 0]"},
        {"function", 0, "NAME", "of one function only"},
        {"errors", 0, "", "only what went wrong"},
        {"cold", 0, "", "only those that waited for a sandbox to start"}},
       WordKind::none,
       trace},
  };
}

}  // namespace dirigent::cli
