// SPDX-License-Identifier: MIT
#include "roles/control/view_json.h"

#include <utility>

#include "dirigent/base/text.h"
#include "roles/control/function_writer.h"
#include "roles/control/json_text.h"

namespace dirigent::roles {

namespace {

// --- functions ------------------------------------------------------------------------------------------------------

std::int64_t us(WallTime time) { return time.time_since_epoch().count(); }
// Three digits behind the point are enough for people and programs alike.
double ms(Duration duration) { return static_cast<double>(duration / 1us) / 1000.0; }

// Null, or an object with what `write_members(value)` puts into it.
template <class T, class Write>
void write_object(JsonWriter& json, const std::optional<T>& maybe, Write write_members) {
  if (!maybe) {
    json.null();
    return;
  }
  json.begin_object();
  write_members(*maybe);
  json.end_object();
}

void write_end(JsonWriter& json, const std::optional<SandboxEnd>& end) {
  if (end && end->cause == EndCause::none) {
    json.null();
    return;
  }
  write_object(json, end, [&](const SandboxEnd& known) {
    json.member("cause", to_string(known.cause));
    json.member("exit_code", known.exit_code);
    json.member("signal", known.signal);
    json.member("detail", known.detail);
    json.member("last_output", known.last_output);
  });
}

void write_events(JsonWriter& json, const std::vector<FunctionEvent>& events) {
  json.begin_array();
  for (const auto& event : events) {
    json.begin_object();
    json.member("sequence", event.sequence);
    json.member("at_us", us(event.at));
    json.member("kind", event.kind);
    json.member("revision", event.revision);
    json.member("text", event.text);
    json.key("end");
    write_end(json, event.end);
    json.end_object();
  }
  json.end_array();
}

void write_sandbox(JsonWriter& json, const SandboxView& view) {
  const SandboxStatus& status = view.status;
  const StartPhases& phases = status.phases;
  json.begin_object();
  json.member("id", to_string(status.id));
  json.member("revision", status.revision);
  json.member("state", to_string(status.state));
  json.member("spare", view.is_spare);
  json.member("node", view.node.value);
  json.member("address", status.address.direct.empty() ? status.address.published : status.address.direct);
  json.member("age_ms", ms(status.age));
  json.key("start");
  json.begin_object();
  json.member("schedule_ms", ms(phases.schedule));
  json.member("create_ms", ms(phases.create));
  json.member("network_ms", ms(phases.network));
  json.member("start_ms", ms(phases.start));
  json.member("probe_ms", ms(phases.probe));
  json.member("probe_tries", phases.probe_tries);
  json.member("total_ms", ms(phases.total()));
  json.end_object();
  json.end_object();
}

void write_scaling(JsonWriter& json, const std::optional<policy::ScalingDecision>& decision) {
  write_object(json, decision, [&](const policy::ScalingDecision& last) {
    json.member("desired", last.desired);
    json.member("stable_average", last.stable_average);
    json.member("panic_average", last.panic_average);
    json.member("target", last.target);
    json.member("stable_wish", last.stable_wish);
    json.member("panic_wish", last.panic_wish);
    json.member("panicking", last.panicking);
    json.member("predicted", last.predicted);
    json.member("ready", last.input.ready);
    json.member("starting", last.input.starting);
    json.member("note", last.note);
  });
}

void write_placement(JsonWriter& json, const std::optional<policy::PlacementDecision>& decision) {
  write_object(json, decision, [&](const policy::PlacementDecision& last) {
    json.member("node", last.node.value);
    json.member("score", last.score);
    json.member("considered", last.considered);
    json.member("note", last.note);
  });
}

std::size_t count(const FunctionView& view, SandboxState state) {
  std::size_t n = 0;
  for (const auto& sandbox : view.sandboxes) n += sandbox.status.state == state ? 1 : 0;
  return n;
}

// The revision that gets the traffic, else the newest: what "the function" means to a reader.
const Revision* shown_revision(const Function& function) {
  if (function.serving) return function.find(*function.serving);
  return function.revisions.empty() ? nullptr : &function.revisions.back();
}

void write_url(JsonWriter& json, const FunctionName& name, std::string_view invoke_address) {
  json.key("url");
  if (invoke_address.empty()) {
    json.null();
  } else {
    json.value(fmt::format("http://{}/function/{}", invoke_address, name));
  }
}

void write_shown_revision(JsonWriter& json, const FunctionName& name, const Revision* shown) {
  json.member("revision", shown == nullptr ? std::nullopt : std::optional(shown->number));
  json.member("revision_name", shown == nullptr ? std::nullopt : std::optional(revision_name(name, shown->number)));
}

void write_durable(JsonWriter& json, const Function& function, std::string_view invoke_address) {
  write_function(json, function, Secrets::hidden);
  write_url(json, function.name, invoke_address);
  write_shown_revision(json, function.name, shown_revision(function));
}

void write_view(JsonWriter& json, const FunctionView& view, std::string_view invoke_address) {
  json.begin_object();
  write_durable(json, view.function, invoke_address);
  json.key("status");
  json.begin_object();
  json.member("invocable", view.invocable);
  json.member("reason", view.invocable_reason);
  json.member("wanted", view.wanted);
  json.member("ready", count(view, SandboxState::ready));
  json.member("starting", count(view, SandboxState::placed) + count(view, SandboxState::starting));
  json.member("draining", count(view, SandboxState::draining) + count(view, SandboxState::stopping));
  json.member("waiting", view.waiting);
  json.member("in_flight", view.in_flight);
  json.member("requests_per_second", view.requests_per_second);
  json.key("sandboxes");
  json.begin_array();
  for (const auto& sandbox : view.sandboxes) write_sandbox(json, sandbox);
  json.end_array();
  json.key("last_scaling");
  write_scaling(json, view.last_scaling);
  json.key("last_placement");
  write_placement(json, view.last_placement);
  json.key("last_failure");
  write_end(json, view.last_failure);
  json.end_object();
  json.key("events");
  write_events(json, view.events);
  json.end_object();
}

// Of write_view() what a table of thousands of functions shows, under the same names: neither settings nor events.
void write_summary(JsonWriter& json, const FunctionView& view, std::string_view invoke_address) {
  const Function& function = view.function;
  json.begin_object();
  json.member("name", function.name.value);
  json.member("created_at_us", us(function.created_at));
  json.member("serving", function.serving);
  json.member("candidate", function.candidate);
  json.member("manual_scale", function.manual_scale);
  write_url(json, function.name, invoke_address);
  if (const Revision* shown = shown_revision(function)) {
    write_shown_revision(json, function.name, shown);
    json.key("revisions");
    json.begin_array();
    json.begin_object();
    json.member("revision", shown->number);
    json.key("spec");
    json.begin_object();
    json.member("image", shown->spec.image);
    json.member("scale_min", shown->spec.scaling.min_scale);
    json.member("scale_max", shown->spec.scaling.max_scale);
    json.end_object();
    json.end_object();
    json.end_array();
  }
  json.key("status");
  json.begin_object();
  json.member("invocable", view.invocable);
  json.member("reason", view.invocable_reason);
  json.member("wanted", view.wanted);
  json.member("ready", count(view, SandboxState::ready));
  json.member("waiting", view.waiting);
  json.member("in_flight", view.in_flight);
  json.member("requests_per_second", view.requests_per_second);
  json.key("sandboxes");
  json.begin_array();
  for (const auto& sandbox : view.sandboxes) {
    json.begin_object();
    json.member("id", to_string(sandbox.status.id));
    json.member("state", to_string(sandbox.status.state));
    json.end_object();
  }
  json.end_array();
  json.key("last_scaling");
  write_object(json, view.last_scaling, [&](const policy::ScalingDecision& last) { json.member("panicking", last.panicking); });
  json.end_object();
  json.end_object();
}

Json resources_json(const Resources& resources) {
  return Json{{"cpu_milli", resources.cpu.value}, {"memory_bytes", resources.memory.value}};
}

}  // namespace

std::string function_json(const FunctionView& view, std::string_view invoke_address) {
  JsonWriter json;
  write_view(json, view, invoke_address);
  return json.take();
}

ListText::ListText(std::string invoke_address, bool is_summary, std::size_t count)
    : invoke_address_(std::move(invoke_address)), is_summary_(is_summary), count_(count) {
  json_.begin_object();
  json_.key("functions");
  json_.begin_array();
}

void ListText::add(const FunctionView& view) {
  if (is_summary_) {
    write_summary(json_, view, invoke_address_);
  } else {
    write_view(json_, view, invoke_address_);
  }
  // From the first ones room for all, and an eighth more: a text of many megabytes that grows is copied again and
  // again, and everything else waits for each of these copies.
  constexpr std::size_t kSample = 32;
  if (++added_ == kSample && count_ > kSample) json_.reserve(json_.size() / kSample * count_ / 8 * 9);
}

std::string ListText::take() {
  json_.end_array();
  json_.end_object();
  return json_.take();
}

std::string deployed_json(const Deployed& deployed, std::string_view invoke_address) {
  JsonWriter json;
  json.begin_object();
  write_durable(json, deployed.function, invoke_address);
  json.member("deployed_revision", deployed.revision);
  json.member("changed", deployed.changed);
  json.member("event_sequence", deployed.event_sequence);
  json.end_object();
  return json.take();
}

std::string names_json(const std::vector<FunctionName>& names) {
  JsonWriter json;
  json.begin_object();
  json.key("names");
  json.begin_array();
  for (const auto& name : names) json.value(name.value);
  json.end_array();
  json.end_object();
  return json.take();
}

std::string explanation_json(const FunctionName& name, const std::vector<std::string>& lines) {
  return print_json(Json{{"name", name.value}, {"lines", lines}});
}

std::string events_json(const std::vector<FunctionEvent>& events) {
  JsonWriter json;
  json.begin_object();
  json.key("events");
  write_events(json, events);
  json.end_object();
  return json.take();
}

std::string logs_json(const std::vector<ControlService::LogLine>& lines) {
  Json array = Json::array();
  for (const auto& line : lines) {
    array.push_back(Json{{"sandbox", to_string(line.sandbox)}, {"node", line.node.value}, {"at_us", us(line.time)},
                         {"stream", line.is_error_stream ? "stderr" : "stdout"}, {"text", line.text}});
  }
  return print_json(Json{{"lines", std::move(array)}});
}

std::string node_names_json(const std::vector<NodeId>& nodes) {
  Json names = Json::array();
  for (const auto& node : nodes) names.push_back(node.value);
  return print_json(Json{{"names", std::move(names)}});
}

std::string nodes_json(const std::vector<NodeView>& nodes) {
  Json array = Json::array();
  for (const auto& node : nodes) {
    array.push_back(Json{{"name", node.info.id.value}, {"status", node.status}, {"host", node.info.host},
                         {"runtime", node.info.runtime}, {"version", node.info.version}, {"labels", node.info.labels},
                         {"capacity", resources_json(node.info.capacity)}, {"reserved", resources_json(node.reserved)},
                         {"used", resources_json(node.usage.used)}, {"sandboxes", node.sandboxes},
                         {"sandboxes_max", node.info.sandboxes_max}, {"last_heard_ms", ms(node.last_heard)},
                         {"joined_for_ms", ms(node.joined_for)}, {"start_p50_ms", ms(node.start_p50)},
                         {"images", node.images.images}, {"failed_prefetches", node.images.failed}});
  }
  return print_json(Json{{"nodes", std::move(array)}});
}

std::string data_planes_json(const std::vector<DataPlaneView>& data_planes) {
  Json array = Json::array();
  for (const auto& plane : data_planes) {
    array.push_back(Json{{"id", plane.id.value}, {"invoke_address", plane.invoke_address},
                         {"admin_address", plane.admin_address}, {"last_heard_ms", ms(plane.last_heard)}});
  }
  return print_json(Json{{"data_planes", std::move(array)}});
}

std::string cluster_json(const ClusterView& cluster) {
  return print_json(Json{{"version", cluster.version}, {"term", cluster.term.value}, {"leader", cluster.leader},
                         {"autoscaler", cluster.autoscaler}, {"placement", cluster.placement},
                         {"state", cluster.state}, {"uptime_ms", ms(cluster.uptime)},
                         {"functions", cluster.functions}, {"sandboxes", cluster.sandboxes},
                         {"creations", cluster.creations}, {"failures", cluster.failures}});
}

std::string problem_json(int status, std::string_view code, std::string_view detail, std::string_view hint,
                         bool retriable) {
  Json json{{"type", fmt::format("https://dirigent.dev/errors/{}", code)}, {"title", code}, {"status", status},
            {"reason", code}, {"component", "control"}, {"detail", detail}, {"retriable", retriable}};
  if (!hint.empty()) json["hint"] = hint;
  return print_json(json);
}

}  // namespace dirigent::roles
