// SPDX-License-Identifier: MIT
//
// `dirigent ctl list` and `dirigent ctl describe`.
#include <algorithm>
#include <chrono>

#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

std::string age_since(std::int64_t at_us) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return format_age(now - std::chrono::microseconds(at_us));
}

std::string or_dash(std::string_view text) { return text.empty() ? "-" : std::string(text); }

std::string scale_text(std::uint32_t low, std::uint32_t high) {
  return high == 0 ? fmt::format("{}..∞", low) : fmt::format("{}..{}", low, high);
}

std::vector<std::string> list_row(const FunctionRow& f, bool wide) {
  std::vector<std::string> row{f.name, or_dash(f.url), or_dash(f.revision_name), f.invocable ? "yes" : "no",
                               fmt::format("{}", f.sandboxes.size()), fmt::format("{:.1f}", f.requests_per_second), age_since(f.created_at_us)};
  if (wide) {
    row.insert(row.end(), {fmt::format("{}", f.wanted), fmt::format("{}", f.waiting), fmt::format("{}", f.in_flight),
                           f.manual_scale ? fmt::format("{} (fixed)", *f.manual_scale) : scale_text(f.spec.scale_min, f.spec.scale_max),
                           or_dash(f.spec.image), or_dash(f.invocable ? "" : f.reason)});
  }
  return row;
}

int list(VerbContext& context) {
  // Settings and events of thousands of functions are much to print for a table that shows none of them.
  const bool is_whole = context.output == Output::json;
  auto body = context.client.call("GET", is_whole ? "/v1/functions" : "/v1/functions?summary=1");
  if (!body) return context.fail(body.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(*body));
    return 0;
  }
  auto functions = read_functions(*body);
  if (!functions) return context.fail(functions.error());
  std::sort(functions->begin(), functions->end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const bool wide = context.output == Output::wide;
  std::vector<std::vector<std::string>> rows;
  if (context.headers) {
    rows.push_back({"NAME", "URL", "REVISION", "READY", "SANDBOXES", "RPS", "AGE"});
    if (wide) rows.back().insert(rows.back().end(), {"WANTED", "WAITING", "IN FLIGHT", "SCALE", "IMAGE", "REASON"});
  }
  for (const auto& function : *functions) {
    if (context.output == Output::name) context.terminal.print("{}\n", function.name);
    if (context.output == Output::url) context.terminal.print("{}\n", function.url);
    rows.push_back(list_row(function, wide));
  }
  if (context.output == Output::name || context.output == Output::url) return 0;
  if (!functions->empty()) context.terminal.write(printable(format_table(rows)));
  if (functions->empty() && !context.quiet) {
    context.terminal.talk("no functions yet\n");
    context.next("dirigent ctl deploy hello --image builtin:hello");
  }
  return 0;
}

std::string milliseconds_text(double ms) {
  if (ms == 0) return "off";
  const auto duration = Duration(static_cast<std::int64_t>(ms * 1e6));
  if (duration % 1s == Duration::zero()) return fmt::format("{}s", duration / 1s);
  return format_duration(duration);
}

std::string number_text(double value) { return fmt::format("{:g}", value); }

std::string scale_line(const FunctionRow& f) {
  const SpecRow& spec = f.spec;
  const bool is_rps = spec.scale_metric == "rps";
  const std::string limit = spec.concurrency_limit == 0 ? "none" : fmt::format("{}", spec.concurrency_limit);
  // What one sandbox should have: the hard limit bounds the soft target.
  double target = spec.scale_target.value_or(is_rps ? 200 : spec.concurrency_limit != 0 ? spec.concurrency_limit : 100);
  target *= spec.scale_utilization_percent / 100;
  std::string line = fmt::format("{}  target {} {} per sandbox (limit {})  window {}", scale_text(spec.scale_min, spec.scale_max),
                                 number_text(target), is_rps ? "requests/s" : "in flight", limit, milliseconds_text(spec.scale_window_ms));
  if (spec.warm > 0) line += fmt::format("  {} spare", spec.warm);
  if (f.manual_scale) line += fmt::format("  fixed at {} by ctl scale", *f.manual_scale);
  return line;
}

std::string limits_line(const SpecRow& spec) {
  return fmt::format("timeout {}, first byte {}, idle {}, queue {} / {}", milliseconds_text(spec.timeout_ms),
                     milliseconds_text(spec.first_byte_timeout_ms == 0 ? spec.timeout_ms : spec.first_byte_timeout_ms),
                     milliseconds_text(spec.idle_timeout_ms), spec.queue_depth, milliseconds_text(spec.queue_timeout_ms));
}

const EventRow* newest(const FunctionRow& f, std::initializer_list<std::string_view> kinds) {
  for (auto event = f.events.rbegin(); event != f.events.rend(); ++event) {
    if (std::find(kinds.begin(), kinds.end(), event->kind) != kinds.end()) return &*event;
  }
  return nullptr;
}

std::string end_text(const EndRow& end) {
  std::string text = end.cause;
  if (end.signal != 0) {
    text += fmt::format(", signal {}", end.signal);
  } else if (end.cause == "exited") {
    text += fmt::format(", status {}", end.exit_code);
  }
  return end.detail.empty() ? text : fmt::format("{}: {}", text, end.detail);
}

// "++" holds, "!!" does not, "??" not known yet.
std::vector<std::vector<std::string>> condition_rows(const FunctionRow& f) {
  const auto row = [](std::string_view mark, std::string_view name, const EventRow* event, std::string text) {
    return std::vector<std::string>{fmt::format("    {} {}", mark, name), event == nullptr ? "" : age_since(event->at_us), std::move(text)};
  };
  std::vector<std::vector<std::string>> rows;
  rows.push_back(row(f.serving ? "++" : "!!", "Routed", newest(f, {"traffic"}), f.serving ? "" : "no revision has been verified"));
  const bool verified = f.serving && *f.serving == f.newest_revision;
  const EventRow* proof = newest(f, {"ready", "verify-failed"});
  std::string text = proof != nullptr ? proof->text : "";
  if (f.candidate) text = fmt::format("revision {} is being verified", *f.candidate);
  rows.push_back(row(f.candidate ? "??" : verified ? "++" : "!!", "Verified", proof, std::move(text)));
  std::string scaled = fmt::format("{} wanted, {} ready", f.wanted, f.ready);
  if (f.starting != 0) scaled += fmt::format(", {} starting", f.starting);
  if (f.draining != 0) scaled += fmt::format(", {} draining", f.draining);
  if (f.last_scaling) {
    scaled += fmt::format(" (stable {:.1f}, panic {:.1f}{})", f.last_scaling->stable_average, f.last_scaling->panic_average,
                          f.last_scaling->note.empty() ? "" : ", " + f.last_scaling->note);
  }
  rows.push_back(row(f.ready >= f.wanted ? "++" : "??", "Scaled", newest(f, {"scaled"}), std::move(scaled)));
  return rows;
}

std::string headline(const FunctionRow& f) {
  std::string text = fmt::format("{}  invocable: {}, {} of {} sandboxes ready", f.name, f.invocable ? "yes" : "no", f.ready, f.wanted);
  if (!f.invocable && !f.reason.empty()) text += fmt::format(" ({})", f.reason);
  if (f.waiting != 0) text += fmt::format(", {} requests waiting", f.waiting);
  return text + "\n";
}

std::string description(const FunctionRow& f, bool wide) {
  std::string text = headline(f);
  std::vector<std::vector<std::string>> rows{{"  image", f.spec.image}};
  rows.push_back({"  revision", f.revision_name + (f.serving ? "  100%" : "  0%")});
  rows.push_back({"  scale", scale_line(f)});
  rows.push_back({"  limits", limits_line(f.spec)});
  rows.push_back({"  sandbox", fmt::format("{} CPU, {}", number_text(static_cast<double>(f.spec.cpu_milli) / 1000), format_bytes(Bytes{f.spec.memory_bytes}))});
  if (!f.url.empty()) rows.push_back({"  url", f.url});
  text += format_table(rows);
  text += "  conditions\n" + format_table(condition_rows(f));
  text += fmt::format("  last errors  {}\n", f.last_failure ? end_text(*f.last_failure) : "none");
  if (f.last_failure) {
    for (const auto line : split(trim(f.last_failure->last_output), '\n')) {
      if (!line.empty()) text += fmt::format("    | {}\n", line);
    }
  }
  if (!f.sandboxes.empty()) {
    rows = {{"  sandboxes", "STATE", "NODE", "REVISION", "START", "AGE"}};
    if (wide) rows.back().emplace_back("ADDRESS");
    for (const auto& s : f.sandboxes) {
      rows.push_back({"    " + s.id, s.state, s.node, fmt::format("{}", s.revision), s.start_ms == 0 ? "-" : format_duration(from_seconds(s.start_ms / 1000)),
                      format_age(from_seconds(s.age_ms / 1000))});
      if (wide) rows.back().push_back(s.address);
    }
    text += format_table(rows);
  }
  if (!f.events.empty()) {
    text += "  recent\n";
    rows.clear();
    const std::size_t shown = wide ? f.events.size() : std::min<std::size_t>(f.events.size(), 10);
    for (std::size_t i = f.events.size() - shown; i < f.events.size(); ++i) {
      rows.push_back({"    " + age_since(f.events[i].at_us), f.events[i].text.empty() ? f.events[i].kind : f.events[i].text});
    }
    text += format_table(rows);
  }
  return text;
}

int describe(VerbContext& context) {
  auto path = context.function_path(context.word(0));
  if (!path) return context.fail(path.error());
  auto body = context.client.call("GET", *path);
  if (!body) return context.fail(body.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(*body));
    return 0;
  }
  auto function = read_function(*body);
  if (!function) return context.fail(function.error());
  if (context.output == Output::name) {
    context.terminal.print("{}\n", function->name);
  } else if (context.output == Output::url) {
    context.terminal.print("{}\n", function->url);
  } else {
    context.terminal.write(printable(description(*function, context.output == Output::wide)));
  }
  return 0;
}

int explain(VerbContext& context) {
  auto path = context.function_path(context.word(0));
  if (!path) return context.fail(path.error());
  auto body = context.client.call("GET", *path + "/explain");
  if (!body) return context.fail(body.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(*body));
    return 0;
  }
  auto lines = read_lines(*body);
  if (!lines) return context.fail(lines.error());
  for (const auto& line : *lines) context.terminal.write(printable(line + "\n"));
  return 0;
}

}  // namespace

std::vector<Verb> read_verbs() {
  return {
      {"list", {"ls"}, "", 0, 0, "show all functions", {}, WordKind::none, list},
      {"explain", {}, "NAME", 1, 1, "why this many sandboxes, why that node, why the last failure", {}, WordKind::function, explain},
      {"describe", {"get"}, "NAME", 1, 1, "show one function: can it be invoked, and why (not)", {}, WordKind::function, describe},
  };
}

}  // namespace dirigent::cli
