// SPDX-License-Identifier: MIT
//
// `dirigent ctl nodes`, `cordon` and `uncordon`.
#include <algorithm>

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

int set_schedulable(VerbContext& context, std::string_view verb) {
  auto id = parse_node_id(context.word(0));
  if (!id) return context.fail(id.error());
  auto body = context.client.call("POST", fmt::format("/v1/nodes/{}/{}", id->value, verb));
  if (!body) return context.fail(body.error());
  if (!context.quiet) {
    context.terminal.talk("{}\n", verb == "cordon"
                                      ? fmt::format("{} gets no new sandboxes; those it has stay", id->value)
                                      : fmt::format("{} gets new sandboxes again", id->value));
  }
  return context.output == Output::table ? 0 : print_nodes(context, *body, id->value);
}
int cordon(VerbContext& context) { return set_schedulable(context, "cordon"); }
int uncordon(VerbContext& context) { return set_schedulable(context, "uncordon"); }

}  // namespace

std::vector<Verb> node_verbs() {
  return {
      {"nodes", {}, "", 0, 0, "show the nodes that have joined", {}, WordKind::none, nodes},
      {"cordon", {}, "NODE", 1, 1, "place no new sandboxes on a node", {}, WordKind::node, cordon},
      {"uncordon", {}, "NODE", 1, 1, "place new sandboxes on it again", {}, WordKind::node, uncordon},
  };
}

}  // namespace dirigent::cli
