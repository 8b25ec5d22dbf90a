// SPDX-License-Identifier: MIT
//
// `dirigent ctl deploy`: registers, then tells the steps of the test start as they happen.
#include <algorithm>
#include <chrono>

#include "cli/ctl/deploy_body.h"
#include "cli/ctl/prefetch.h"
#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

// One long poll; short enough that a lost control plane is noticed.
constexpr Duration kPollTime = 5s;

std::string image_line(const std::string& image) {
  if (image.starts_with("builtin:")) return fmt::format("image {} (built in, no pull)", image);
  return fmt::format("image {}", image);
}

enum class Progress { going_on, ready, failed };

// Follows one deployment by its events.
class Follower {
 public:
  Follower(VerbContext& context, const DeployedRow& deployed, Instant started)
      : context_(context), deployed_(deployed), started_(started), after_(deployed.event_sequence) {}

  void step(Duration at, std::string_view text) {
    if (!context_.quiet) context_.terminal.talk("  {:6.3f}s  {}\n", to_seconds(at), printable(text));
  }

  // Until the traffic has moved, the test start has failed, or `patience` is over.
  Outcome<Progress> follow(Duration patience) {
    const Instant deadline = io::Loop::now() + patience;
    for (;;) {
      const Duration left = deadline - io::Loop::now();
      const auto wait = std::clamp<Duration>(left, 0ms, kPollTime);
      auto body = context_.client.call(
          "GET",
          fmt::format("/v1/functions/{}/events?after={}&wait_ms={}", deployed_.function.name, after_, wait / 1ms), {},
          wait);
      if (!body) return tl::unexpected(body.error());
      auto events = read_events(*body);
      if (!events) return tl::unexpected(failure_of(events.error()));
      for (const EventRow& event : *events) {
        after_ = std::max(after_, event.sequence);
        const Progress progress = take(event);
        if (progress != Progress::going_on) return progress;
      }
      if (events->empty()) {
        auto progress = look();
        if (!progress || *progress != Progress::going_on) return progress;
        if (left <= Duration::zero()) return Progress::going_on;
      }
    }
  }

  [[nodiscard]] Duration elapsed() const { return ready_at_; }
  [[nodiscard]] const std::optional<EndRow>& end() const { return end_; }
  [[nodiscard]] const std::string& last_text() const { return last_text_; }

 private:
  Progress take(const EventRow& event) {
    // Two clocks: the first event is taken to happen when the registration was answered.
    if (first_at_us_ == 0) {
      first_at_us_ = event.at_us;
      base_ = io::Loop::now() - started_;
      base_ = std::min(base_, registered_after_.value_or(base_));
    }
    ready_at_ = base_ + std::chrono::microseconds(std::max<std::int64_t>(0, event.at_us - first_at_us_));
    step(ready_at_, event.text.empty() ? event.kind : event.text);
    if (event.end) end_ = event.end;
    if (event.revision && *event.revision != deployed_.revision) return Progress::going_on;
    if (event.kind == "traffic") return Progress::ready;
    if (event.kind == "verify-failed" || event.kind == "deleted") {
      last_text_ = event.text;
      return Progress::failed;
    }
    return Progress::going_on;
  }

  // Without events: the state itself tells whether it is over, also when another deployment took its place.
  Outcome<Progress> look() {
    auto body = context_.client.call("GET", fmt::format("/v1/functions/{}", deployed_.function.name));
    if (!body) return tl::unexpected(body.error());
    auto function = read_function(*body);
    if (!function) return tl::unexpected(failure_of(function.error()));
    if (function->serving && *function->serving >= deployed_.revision) return Progress::ready;
    if (function->candidate && *function->candidate == deployed_.revision) return Progress::going_on;
    if (function->last_failure) end_ = function->last_failure;
    last_text_ =
        function->candidate ? fmt::format("revision {} took its place", *function->candidate) : "the test start failed";
    return Progress::failed;
  }

 public:
  std::optional<Duration> registered_after_;

 private:
  VerbContext& context_;
  const DeployedRow& deployed_;
  Instant started_;
  std::uint64_t after_;
  std::int64_t first_at_us_ = 0;
  Duration base_{};
  Duration ready_at_{};
  std::optional<EndRow> end_;
  std::string last_text_;
};

std::string name_of(const DeployedRow& deployed) {
  return revision_name(FunctionName{deployed.function.name}, RevisionNumber{deployed.revision});
}

// The form of a failure people can act on: what, the last output, what became of the traffic.
int tell_failure(VerbContext& context, const DeployedRow& deployed, const Follower& follower) {
  const auto& end = follower.end();
  const std::string cause = end && !end->cause.empty() ? end->cause : std::string("start-failed");
  std::vector<std::string> hints;
  if (end) {
    if (!end->detail.empty()) hints.push_back(end->detail);
    if (end->signal != 0) {
      hints.push_back(fmt::format("ended by signal {}", end->signal));
    } else if (end->cause == "exited") {
      hints.push_back(fmt::format("exit status {}", end->exit_code));
    }
    if (trim(end->last_output).empty()) {
      hints.emplace_back("last output: (none)");
    } else {
      hints.emplace_back("last output:");
      for (const auto line : split(trim(end->last_output), '\n')) hints.push_back(fmt::format("  | {}", line));
    }
  } else if (!follower.last_text().empty()) {
    hints.push_back(follower.last_text());
  }
  hints.push_back(deployed.function.serving
                      ? fmt::format("traffic was not changed: revision {} still serves", *deployed.function.serving)
                      : fmt::format("traffic was not changed; keep or remove it with: dirigent ctl delete {}",
                                    deployed.function.name));
  context.terminal.error(fmt::format("{} did not become ready: {}", name_of(deployed), cause), hints);
  return 1;
}

int tell_result(VerbContext& context, const FunctionRow& function, std::string_view headline) {
  switch (context.output) {
    case Output::name: context.terminal.print("{}\n", function.name); return 0;
    case Output::url: context.terminal.print("{}\n", function.url); return 0;
    case Output::json: {
      auto body = context.client.call("GET", fmt::format("/v1/functions/{}", function.name));
      if (!body) return context.fail(body.error());
      context.terminal.write(pretty_json(*body));
      return 0;
    }
    default: break;
  }
  if (context.quiet) return 0;
  context.terminal.print("{}\n", headline);
  if (function.url.empty()) {
    context.terminal.print("  url     (no data plane is connected)\n");
    return 0;
  }
  context.terminal.print("  url     {}\n", function.url);
  context.next(fmt::format("curl {}", function.url));
  return 0;
}

constexpr Duration kPrefetchPatience = 10min;

int deploy(VerbContext& context) {
  auto body = deploy_body(context.arguments, read_whole_file);
  if (!body) return context.misused(body.error().message);
  auto patience = parse_duration(context.arguments.value("wait-timeout").value_or("60s"));
  if (!patience) return context.misused(patience.error().within("--wait-timeout").message);
  auto path = context.function_path(body->name);
  if (!path) return context.fail(path.error());
  const bool verify = context.arguments.value("verify") != "false";
  const auto dot = body->name.find('.');
  const std::string space = dot == std::string::npos ? "default" : body->name.substr(dot + 1);
  if (!context.quiet) context.terminal.talk("Deploying {} in namespace {}\n", body->name.substr(0, dot), space);

  if (context.arguments.is_on("prefetch")) {
    if (const int status = prefetch_image(context, body->image, "", kPrefetchPatience); status != 0) return status;
  }
  const Instant started = io::Loop::now();
  auto answer = context.client.call(
      "PUT",
      fmt::format("{}?create_only={}&verify={}", *path, context.arguments.is_on("create-only") ? 1 : 0, verify ? 1 : 0),
      body->json);
  if (!answer) return context.fail(answer.error());
  auto deployed = read_deployed(*answer);
  if (!deployed) return context.fail(deployed.error());
  Follower follower(context, *deployed, started);
  follower.registered_after_ = io::Loop::now() - started;
  follower.step(*follower.registered_after_, image_line(body->image));
  if (!deployed->changed && deployed->function.serving == deployed->revision) {
    return tell_result(
        context, deployed->function,
        fmt::format("{} is up to date: {} has these settings already", deployed->function.name, name_of(*deployed)));
  }
  if (context.arguments.value("wait") == "false") {
    return tell_result(
        context, deployed->function,
        fmt::format("{} is registered, {} is being verified", deployed->function.name, name_of(*deployed)));
  }
  // Without a test start the traffic has moved already: only the steps are left to tell.
  const bool is_over = deployed->function.serving == deployed->revision;
  auto progress = follower.follow(is_over ? Duration::zero() : *patience);
  if (!progress) return context.fail(progress.error());
  if (*progress == Progress::failed) return tell_failure(context, *deployed, follower);
  if (*progress == Progress::going_on) {
    const std::string hints[] = {"the change was accepted; watch it:  dirigent ctl describe " +
                                 deployed->function.name};
    context.terminal.error(fmt::format("{} is not ready after {}", name_of(*deployed), format_duration(*patience)),
                           hints);
    return 6;
  }
  const Duration total = std::max(follower.elapsed(), *follower.registered_after_);
  return tell_result(context, deployed->function,
                     fmt::format("{} is ready in {:.3f}s", deployed->function.name, to_seconds(total)));
}

}  // namespace

std::vector<Verb> deploy_verbs() {
  return {{"deploy",
           {"apply"},
           "NAME --image IMAGE",
           0,
           1,
           "create a function or give it a new revision",
           deploy_flags(),
           WordKind::function,
           deploy}};
}

}  // namespace dirigent::cli
