// SPDX-License-Identifier: MIT
//
// `dirigent ctl control`: the members of a group of control planes.
#include <nlohmann/json.hpp>

#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

using nlohmann::json;

template <class T>
T field(const json& object, const char* name, T absent) {
  const auto found = object.find(name);
  if (found == object.end()) return absent;
  try {
    return found->get<T>();
  } catch (const json::exception&) {
    return absent;
  }
}

int print_members(VerbContext& context, const std::string& body) {
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(body));
    return 0;
  }
  const json view = json::parse(body, nullptr, false);
  if (!view.is_object() || !view.contains("members") || !view["members"].is_array()) {
    return context.fail(Error{ErrorCode::corrupt, fmt::format("{} answered something that is no list of members (is it another version?)", context.client.server())});
  }
  std::vector<std::vector<std::string>> rows;
  if (context.headers) rows.push_back({"ID", "ROLE", "PEER ADDRESS", "LOG", "LAG", "HEARD"});
  for (const auto& member : view["members"]) {
    if (!member.is_object()) continue;
    const auto id = std::to_string(field<std::uint64_t>(member, "id", 0));
    if (context.output == Output::name) context.terminal.print("{}\n", id);
    const auto match = field<std::uint64_t>(member, "match", 0);
    const double heard = field<double>(member, "last_heard_ms", -1);
    rows.push_back({id, field<std::string>(member, "role", "?"), field<std::string>(member, "address", "?"), match == 0 ? "-" : std::to_string(match),
                    match == 0 ? "-" : std::to_string(field<std::uint64_t>(member, "lag", 0)), heard < 0 ? "-" : fmt::format("{:.0f} ms ago", heard)});
  }
  if (context.output == Output::name) return 0;
  context.terminal.write(printable(format_table(rows)));
  if (context.quiet) return 0;
  const auto leader = field<std::uint64_t>(view, "leader", 0);
  const auto term = field<std::uint64_t>(view, "term", 0);
  if (leader == 0) {
    context.terminal.talk("nobody leads (term {}): a majority of the members must be up and reach each other\n", term);
  } else {
    context.terminal.talk("member {} leads term {}; {} of {} entries committed\n", leader, term, field<std::uint64_t>(view, "commit", 0), field<std::uint64_t>(view, "last", 0));
  }
  return 0;
}

int control(VerbContext& context) {
  const std::size_t count = context.arguments.words().size();
  const std::string action = count == 0 ? "" : context.word(0);
  if (action.empty()) {
    auto body = context.client.call("GET", "/v1/control");
    if (!body) return context.fail(body.error());
    return print_members(context, *body);
  }
  const bool needs_word = action == "add" || action == "remove";
  if (!needs_word && action != "hand-over") return context.misused(fmt::format("\"{}\" is not add, remove or hand-over", action));
  if (needs_word != (count == 2)) return context.misused(action == "add" ? "control add needs ID=HOST:PORT" : action == "remove" ? "control remove needs an ID" : "control hand-over needs nothing more");
  Outcome<std::string> body = std::string();
  if (action == "add") {
    body = context.client.call("POST", "/v1/control/members", json{{"member", context.word(1)}}.dump());
  } else if (action == "remove") {
    if (const auto id = parse_integer(context.word(1)); !id || *id < 1) return context.misused(fmt::format("\"{}\" is not a member's id", context.word(1)));
    body = context.client.call("DELETE", "/v1/control/members/" + context.word(1));
  } else {
    body = context.client.call("POST", "/v1/control/hand-over");
  }
  if (!body) return context.fail(body.error());
  if (action == "hand-over") {
    if (!context.quiet) context.terminal.talk("another member leads now\n");
    return 0;
  }
  return print_members(context, *body);
}

}  // namespace

std::vector<Verb> control_verbs() {
  return {{"control", {}, "[add ID=HOST:PORT | remove ID | hand-over]", 0, 2, "show the group of control planes, or change it", {}, WordKind::none, control}};
}

}  // namespace dirigent::cli
