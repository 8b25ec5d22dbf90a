// SPDX-License-Identifier: MIT
//
// `dirigent ctl async` and `dirigent ctl dlq`: calls that are kept by data planes, and those that have been given up.
#include <algorithm>

#include "cli/ctl/async_views.h"
#include "cli/ctl/trace_views.h"
#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"
#include "dirigent/model/call_id.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

struct PlaneAnswer {
  DataPlaneRow plane;
  io::HttpResponse response;
};

Failure unreachable(const DataPlaneRow& plane, const Error& error) {
  return {error.within(fmt::format("data plane {}", plane.id)),
          {"an admin port listens on its own machine only, unless data.admin_listen says otherwise"}, 4};
}

Failure failure_from(const DataPlaneRow& plane, const io::HttpResponse& response) {
  const Problem problem = read_problem(response.body);
  const std::string detail = problem.detail.empty() ? std::string(trim(response.body)) : problem.detail;
  ErrorCode code = ErrorCode::invalid_argument;
  if (response.status == 404) code = ErrorCode::not_found;
  if (response.status == 409) code = ErrorCode::already_exists;
  if (response.status >= 500) code = ErrorCode::unavailable;
  Failure failed{Error{code, fmt::format("data plane {}: {}", plane.id, detail)}, {}, 1};
  if (code == ErrorCode::not_found) {
    // Not the code of a missing function, which has hints of its own.
    failed = {Error{ErrorCode::unavailable, detail}, {"list some:  dirigent ctl async list"}, traits(ErrorCode::not_found).exit_code};
  }
  return failed;
}

// The data plane that keeps a call answers; the others say that they do not.
Outcome<PlaneAnswer> ask_owner(VerbContext& context, const std::string& id, const std::string& method, const std::string& target) {
  if (!parse_call_id(id)) {
    return tl::unexpected(Failure{Error{ErrorCode::invalid_argument, fmt::format("\"{}\" is no id of an asynchronous call", id)},
                                  {"list some:  dirigent ctl async list"}, 2});
  }
  auto planes = planes_with_admin(context);
  if (!planes) return tl::unexpected(planes.error());
  std::optional<Failure> last;
  for (const DataPlaneRow& plane : *planes) {
    auto response = exchange_with_plane(context, plane, method, target);
    if (!response) {
      last = unreachable(plane, response.error());
      continue;
    }
    if (response->status == 421) continue;
    if (response->status == 503 && planes->size() > 1) {
      last = failure_from(plane, *response);
      continue;
    }
    if (response->status >= 300) return tl::unexpected(failure_from(plane, *response));
    return PlaneAnswer{plane, std::move(*response)};
  }
  if (last) return tl::unexpected(*last);
  return tl::unexpected(Failure{Error{ErrorCode::unavailable, fmt::format("no connected data plane keeps call {}", id)},
                                {"its data plane may be down; another can take over its directory:  dirigent ctl async adopt DIR"}, 3});
}

Outcome<AsyncAnswer> ask_all(VerbContext& context, const std::string& target, std::string* json) {
  auto planes = planes_with_admin(context);
  if (!planes) return tl::unexpected(planes.error());
  AsyncAnswer all;
  std::optional<Failure> last;
  std::size_t answered = 0;
  for (const DataPlaneRow& plane : *planes) {
    auto response = exchange_with_plane(context, plane, "GET", target);
    if (!response || response->status != 200) {
      last = response ? failure_from(plane, *response) : unreachable(plane, response.error());
      if (planes->size() > 1) context.terminal.error(last->error.message, last->hints);
      continue;
    }
    auto answer = read_async(response->body);
    if (!answer) return tl::unexpected(failure_of(answer.error()));
    ++answered;
    std::move(answer->calls.begin(), answer->calls.end(), std::back_inserter(all.calls));
    std::move(answer->stores.begin(), answer->stores.end(), std::back_inserter(all.stores));
  }
  if (answered == 0) return tl::unexpected(*last);
  std::stable_sort(all.calls.begin(), all.calls.end(), [](const auto& a, const auto& b) { return a.accepted_at_us < b.accepted_at_us; });
  if (json != nullptr) {
    *json = "[";
    for (const AsyncCallRow& call : all.calls) *json += (json->size() > 1 ? "," : "") + call.json;
    *json += "]";
  }
  return all;
}

std::string age_text(const AsyncCallRow& call) { return format_age(from_seconds(call.age_ms / 1000)); }

Outcome<std::string> list_query(VerbContext& context, std::string_view path) {
  std::string query = std::string(path) + "?limit=" + context.arguments.value("tail").value_or("1000");
  if (const auto name = context.arguments.value("function")) {
    auto function = parse_function_name(*name);
    if (!function) return tl::unexpected(Failure{function.error().within("--function"), {}, 2});
    query += "&function=" + io::percent_encode(function->value);
  }
  return query;
}

void print_stores(VerbContext& context, const std::vector<AsyncStoreRow>& stores) {
  for (const AsyncStoreRow& store : stores) {
    const std::string where = store.directory.empty() ? "memory" : store.directory;
    if (!store.problem.empty()) context.terminal.talk("store {}: no calls are taken: {}\n", printable(where), printable(store.problem));
    if (store.damaged_bytes > 0) {
      context.terminal.talk("store {}: {} bytes were damaged when it was opened\n", printable(where), store.damaged_bytes);
      for (const std::string& finding : store.findings) context.terminal.talk("  {}\n", printable(finding));
    }
  }
}

int async_list(VerbContext& context) {
  auto target = list_query(context, "/v1/async");
  if (!target) return context.fail(target.error());
  if (const auto state = context.arguments.value("state")) *target += "&state=" + io::percent_encode(*state);
  std::string json;
  auto answer = ask_all(context, *target, &json);
  if (!answer) return context.fail(answer.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(json));
    return 0;
  }
  std::vector<std::vector<std::string>> rows;
  if (context.headers) rows.push_back({"CALL", "FUNCTION", "STATE", "AGE", "ATTEMPTS", "LAST", "SIZE"});
  for (const AsyncCallRow& call : answer->calls) {
    if (context.output == Output::name) context.terminal.print("{}\n", printable(call.id));
    rows.push_back({call.id, call.function, call.state, age_text(call), fmt::format("{} of {}", call.attempts, call.attempts_max),
                    last_text(call), format_bytes(Bytes{call.request_bytes})});
  }
  if (context.output == Output::name) return 0;
  if (!answer->calls.empty()) context.terminal.write(printable(format_table(rows)));
  if (!context.quiet) print_stores(context, answer->stores);
  if (answer->calls.empty() && !context.quiet) context.terminal.talk("no asynchronous call is kept\n");
  return 0;
}

int show_one(VerbContext& context, const std::string& id, const std::string& path, bool in_full) {
  auto answer = ask_owner(context, id, "GET", path + id);
  if (!answer) return context.fail(answer.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(answer->response.body));
    return 0;
  }
  auto call = read_async_call(answer->response.body);
  if (!call) return context.fail(call.error());
  if (!in_full) {
    context.terminal.write(printable(call_line(*call)) + "\n");
    return 0;
  }
  std::string text = fmt::format("call {}  {}  on data plane {}\n  {}\n  last attempt: {}\n  request of {} bytes, {} old", call->id,
                                 call->function, answer->plane.id, call_line(*call), last_text(*call), call->request_bytes,
                                 age_text(*call));
  if (!call->callback_url.empty()) text += fmt::format(", callback to {}", call->callback_url);
  text += "\n";
  if (!call->request_problem.empty()) text += fmt::format("  the request cannot be read: {}\n", call->request_problem);
  std::erase(call->request_head, '\r');
  if (!call->request_head.empty()) text += fmt::format("\n{}\n{}\n", call->request_head, call->request_body);
  if (!call->answer.empty()) text += fmt::format("\nanswer:\n{}\n", call->answer);
  context.terminal.write(printable(text));
  return 0;
}

int async_result(VerbContext& context) {
  const std::string& id = context.word(1);
  if (!context.arguments.is_on("body")) return show_one(context, id, "/v1/async/", false);
  auto answer = ask_owner(context, id, "GET", "/v1/async/" + id + "/result");
  if (!answer) return context.fail(answer.error());
  if (answer->response.status != 200) {
    return context.fail(Failure{Error{ErrorCode::unavailable, fmt::format("call {} has no result yet", id)},
                                {fmt::format("look again:  dirigent ctl async result {}", id)}, 1});
  }
  context.terminal.write(answer->response.body);
  return 0;
}

int async_cancel(VerbContext& context) {
  auto answer = ask_owner(context, context.word(1), "DELETE", "/v1/async/" + context.word(1));
  if (!answer) return context.fail(answer.error());
  context.terminal.print("cancelled\n");
  return 0;
}

// The one data plane there is, or the one that --data-plane names, takes over.
int async_adopt(VerbContext& context) {
  auto planes = planes_with_admin(context);
  if (!planes) return context.fail(planes.error());
  if (const auto wanted = context.arguments.value("data-plane")) {
    std::erase_if(*planes, [&](const DataPlaneRow& plane) { return plane.id != *wanted; });
    if (planes->empty()) return context.misused(fmt::format("no connected data plane is called \"{}\"", *wanted));
  }
  if (planes->size() > 1) {
    std::string names;
    for (const DataPlaneRow& plane : *planes) names += (names.empty() ? "" : ", ") + plane.id;
    return context.misused(fmt::format("there are several data planes ({}): say which with --data-plane", names));
  }
  auto response = exchange_with_plane(context, planes->front(), "POST", "/v1/async/adopt?directory=" + io::percent_encode(context.word(1)));
  if (!response) return context.fail(unreachable(planes->front(), response.error()));
  if (response->status != 200) return context.fail(failure_from(planes->front(), *response));
  context.terminal.print("{} has taken over {}\n", planes->front().id, context.word(1));
  return 0;
}

int dlq_list(VerbContext& context) {
  auto target = list_query(context, "/v1/dlq");
  if (!target) return context.fail(target.error());
  std::string json;
  auto answer = ask_all(context, *target, &json);
  if (!answer) return context.fail(answer.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(json));
    return 0;
  }
  std::vector<std::vector<std::string>> rows;
  if (context.headers) rows.push_back({"CALL", "FUNCTION", "AGE", "ATTEMPTS", "LAST", "SIZE"});
  for (const AsyncCallRow& call : answer->calls) {
    if (context.output == Output::name) context.terminal.print("{}\n", printable(call.id));
    rows.push_back({call.id, call.function, age_text(call), fmt::format("{}", call.attempts), last_text(call),
                    format_bytes(Bytes{call.request_bytes})});
  }
  if (context.output == Output::name) return 0;
  if (!answer->calls.empty()) context.terminal.write(printable(format_table(rows)));
  if (answer->calls.empty() && !context.quiet) context.terminal.talk("no dead letters\n");
  return 0;
}

// One dead letter, or all of every data plane.
int dlq_change(VerbContext& context, bool redrive) {
  const std::string path = redrive ? "/v1/dlq/redrive" : "/v1/dlq";
  const std::string method = redrive ? "POST" : "DELETE";
  const char* const done = redrive ? "redriven" : "purged";
  const bool all = context.arguments.is_on("all");
  if (all == (context.arguments.words().size() == 2)) {
    return context.misused(fmt::format("dlq {} takes one ID, or --all", context.word(0)));
  }
  if (!all) {
    auto answer = ask_owner(context, context.word(1), method, path + "?id=" + context.word(1));
    if (!answer) return context.fail(answer.error());
    auto changed = read_changed(answer->response.body);
    if (!changed) return context.fail(changed.error());
    context.terminal.print("{}{}\n", done, redrive ? fmt::format(", new attempt 1 of {}", changed->attempts_max) : "");
    return 0;
  }
  std::string query = "?all=true";
  if (const auto name = context.arguments.value("function")) query += "&function=" + io::percent_encode(*name);
  auto planes = planes_with_admin(context);
  if (!planes) return context.fail(planes.error());
  std::uint64_t sum = 0;
  std::optional<Failure> failed;
  for (const DataPlaneRow& plane : *planes) {
    auto response = exchange_with_plane(context, plane, method, path + query);
    if (!response || response->status != 200) {
      failed = response ? failure_from(plane, *response) : unreachable(plane, response.error());
      continue;
    }
    auto changed = read_changed(response->body);
    if (changed) sum += changed->changed;
  }
  context.terminal.print("{} {} dead letters\n", done, sum);
  return failed ? context.fail(*failed) : 0;
}

struct Action {
  std::string_view name;
  bool takes_word;
  int (*run)(VerbContext&);
};

int choose(VerbContext& context, std::string_view verb, std::span<const Action> actions) {
  const std::string& word = context.word(0);
  std::vector<std::string> names;
  for (const Action& action : actions) {
    names.emplace_back(action.name);
    if (action.name != word) continue;
    if (action.takes_word && context.arguments.words().size() < 2) return context.misused(fmt::format("{} {} needs one word more", verb, word));
    if (!action.takes_word && word.starts_with("list") && context.arguments.words().size() > 1) {
      return context.misused(fmt::format("{} list takes no word", verb));
    }
    return action.run(context);
  }
  return context.misused(fmt::format("\"{}\" is nothing that {} does{}", word, verb, did_you_mean_suffix(word, names)));
}

int async_verb(VerbContext& context) {
  static constexpr Action kActions[] = {
      {"list", false, async_list},
      {"show", true, [](VerbContext& c) { return show_one(c, c.word(1), "/v1/dlq/", true); }},
      {"result", true, async_result},
      {"cancel", true, async_cancel},
      {"adopt", true, async_adopt},
  };
  return choose(context, "async", kActions);
}

int dlq_verb(VerbContext& context) {
  static constexpr Action kActions[] = {
      {"list", false, dlq_list},
      {"show", true, [](VerbContext& c) { return show_one(c, c.word(1), "/v1/dlq/", true); }},
      {"redrive", false, [](VerbContext& c) { return dlq_change(c, true); }},
      {"purge", false, [](VerbContext& c) { return dlq_change(c, false); }},
  };
  return choose(context, "dlq", kActions);
}

}  // namespace

std::vector<Verb> async_verbs() {
  return {
      {"async",
       {},
       "list|show ID|result ID|cancel ID|adopt DIR",
       1,
       2,
       "asynchronous calls: what became of them, their results",
       {{"function", 0, "NAME", "list: of one function only"},
        {"state", 0, "STATE", "list: queued, waiting, running, done, dead or expired"},
        {"tail", 0, "N", "list: so many of the last ones [1000]"},
        {"body", 0, "", "result: print the body of the answer"},
        {"data-plane", 0, "ID", "adopt: the data plane that takes over"}},
       WordKind::none,
       async_verb},
      {"dlq",
       {},
       "list|show ID|redrive ID|purge ID",
       1,
       2,
       "dead letters: asynchronous calls that were given up",
       {{"function", 0, "NAME", "of one function only"},
        {"tail", 0, "N", "list: so many of the last ones [1000]"},
        {"all", 0, "", "redrive, purge: all of them"}},
       WordKind::none,
       dlq_verb},
  };
}

}  // namespace dirigent::cli
