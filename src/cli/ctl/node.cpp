// SPDX-License-Identifier: MIT
//
// `dirigent ctl nodes`, `cordon`, `drain` and `uncordon`.
#include <algorithm>
#include <thread>

#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

std::string cpus(std::int64_t milli) { return fmt::format("{:g}", static_cast<double>(milli) / 1000); }

std::string labels_text(const NodeRow& node) {
  std::string text;
  for (const auto& [key, value] : node.labels) text += fmt::format("{}{}={}", text.empty() ? "" : ",", key, value);
  return text.empty() ? "-" : text;
}

std::string milliseconds(double ms) { return ms == 0 ? "-" : format_duration(from_seconds(ms / 1000)); }

std::vector<std::string> node_row(const NodeRow& node, bool wide) {
  std::vector<std::string> row{node.name, node.status, format_age(from_seconds(node.joined_for_ms / 1000))};
  if (wide) row.push_back(node.runtime);
  row.insert(row.end(),
             {fmt::format("{}/{}/{}", cpus(node.cpu_used), cpus(node.cpu_reserved), cpus(node.cpu_capacity)),
              fmt::format("{}/{}/{}", format_bytes(Bytes{node.memory_used}), format_bytes(Bytes{node.memory_reserved}),
                          format_bytes(Bytes{node.memory_capacity})),
              fmt::format("{}", node.sandboxes), milliseconds(node.start_p50_ms),
              fmt::format("{:.1f}s ago", node.last_heard_ms / 1000)});
  if (wide) row.insert(row.end(), {labels_text(node), node.version});
  return row;
}

int print_nodes(VerbContext& context, const std::string& body, std::string_view only) {
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(body));
    return 0;
  }
  auto nodes = read_nodes(body);
  if (!nodes) return context.fail(nodes.error());
  std::sort(nodes->begin(), nodes->end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const bool wide = context.output == Output::wide;
  std::vector<std::vector<std::string>> rows;
  if (context.headers) {
    rows.push_back({"NAME", "STATUS", "AGE"});
    if (wide) rows.back().emplace_back("RUNTIME");
    rows.back().insert(rows.back().end(),
                       {"CPU used/res/cap", "MEMORY used/res/cap", "SANDBOXES", "START P50", "HEARTBEAT"});
    if (wide) rows.back().insert(rows.back().end(), {"LABELS", "VERSION"});
  }
  for (const NodeRow& node : *nodes) {
    if (!only.empty() && node.name != only) continue;
    if (context.output == Output::name) context.terminal.print("{}\n", node.name);
    rows.push_back(node_row(node, wide));
  }
  if (context.output == Output::name) return 0;
  if (!nodes->empty()) context.terminal.write(printable(format_table(rows)));
  if (nodes->empty() && !context.quiet) context.terminal.talk("no node has joined yet; start one:  dirigent worker\n");
  return 0;
}

int nodes(VerbContext& context) {
  auto body = context.client.call("GET", "/v1/nodes");
  if (!body) return context.fail(body.error());
  return print_nodes(context, *body, {});
}

constexpr auto kDrainInterval = std::chrono::milliseconds(200);

int set_use(VerbContext& context, std::string_view verb, std::string_view effect) {
  auto id = parse_node_id(context.word(0));
  if (!id) return context.fail(id.error());
  auto body = context.client.call("POST", fmt::format("/v1/nodes/{}/{}", id->value, verb));
  if (!body) return context.fail(body.error());
  if (!context.quiet) context.terminal.talk("{} {}\n", id->value, effect);
  return context.output == Output::table ? 0 : print_nodes(context, *body, id->value);
}
int cordon(VerbContext& context) { return set_use(context, "cordon", "gets no new sandboxes; those it has stay"); }
int uncordon(VerbContext& context) { return set_use(context, "uncordon", "gets new sandboxes again"); }

// Ends when the node has none left, or is not connected any more (then there is nothing to wait for).
int drain(VerbContext& context) {
  auto patience = parse_duration(context.arguments.value("wait-timeout").value_or("5m"));
  if (!patience) return context.misused(patience.error().within("--wait-timeout").message);
  const int status = set_use(context, "drain", "gets no new sandboxes, and those it has leave as soon as others can serve in their place");
  if (status != 0 || context.arguments.is_on("no-wait")) return status;
  const std::string& name = context.word(0);
  const auto deadline = std::chrono::steady_clock::now() + *patience;
  std::optional<std::uint32_t> told;
  for (;;) {
    auto body = context.client.call("GET", "/v1/nodes");
    if (!body) return context.fail(body.error());
    auto nodes = read_nodes(*body);
    if (!nodes) return context.fail(nodes.error());
    const auto node = std::find_if(nodes->begin(), nodes->end(), [&](const NodeRow& one) { return one.name == name; });
    if (node == nodes->end() || node->status == "silent" || node->sandboxes == 0) {
      if (!context.quiet) context.terminal.talk("{} has no sandboxes\n", name);
      return 0;
    }
    if (node->status == "ready" || node->status == "cordoned") return context.fail(Error{ErrorCode::cancelled, fmt::format("{} is {} again: somebody has stopped the draining", name, node->status)});
    if (told != node->sandboxes && !context.quiet) context.terminal.talk("{} has {} sandboxes left\n", name, node->sandboxes);
    told = node->sandboxes;
    if (std::chrono::steady_clock::now() >= deadline) {
      return context.fail(Failure{Error{ErrorCode::timed_out, fmt::format("{} still has {} sandboxes after {}", name, node->sandboxes, format_duration(*patience))},
                                  {"draining goes on; they leave when there is room elsewhere and their requests are over", "see why:  dirigent ctl nodes, dirigent ctl explain FUNCTION"},
                                  6});
    }
    std::this_thread::sleep_for(kDrainInterval);
  }
}

}  // namespace

std::vector<Verb> node_verbs() {
  return {
      {"nodes", {}, "", 0, 0, "show the nodes that have joined", {}, WordKind::none, nodes},
      {"cordon", {}, "NODE", 1, 1, "place no new sandboxes on a node", {}, WordKind::node, cordon},
      {"drain", {}, "NODE", 1, 1, "move all sandboxes of a node to others, without a failed request",
       {{"wait-timeout", 0, "DURATION", "longest wait until the node has none left [5m]"}, {"no-wait", 0, "", "return at once"}}, WordKind::node, drain},
      {"uncordon", {}, "NODE", 1, 1, "place new sandboxes on it again", {}, WordKind::node, uncordon},
  };
}

}  // namespace dirigent::cli
