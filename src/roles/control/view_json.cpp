// SPDX-License-Identifier: MIT
#include "roles/control/view_json.h"

#include "roles/control/function_json.h"
#include "roles/control/json_text.h"

namespace dirigent::roles {

namespace {

std::int64_t us(WallTime time) { return time.time_since_epoch().count(); }
// Three digits behind the point are enough for people and programs alike.
double ms(Duration duration) { return static_cast<double>(duration / 1us) / 1000.0; }

template <class Optional>
Json number_or_null(const Optional& value) {
  return value ? Json(value->value) : Json();
}

Json end_json(const std::optional<SandboxEnd>& end) {
  if (!end || end->cause == EndCause::none) return Json();
  return Json{{"cause", to_string(end->cause)}, {"exit_code", end->exit_code}, {"signal", end->signal},
              {"detail", end->detail}, {"last_output", end->last_output}};
}

Json event_json(const FunctionEvent& event) {
  return Json{{"sequence", event.sequence}, {"at_us", us(event.at)}, {"kind", event.kind},
              {"revision", number_or_null(event.revision)}, {"text", event.text}, {"end", end_json(event.end)}};
}

Json events_array(const std::vector<FunctionEvent>& events) {
  Json array = Json::array();
  for (const auto& event : events) array.push_back(event_json(event));
  return array;
}

Json sandbox_json(const SandboxView& view) {
  const SandboxStatus& status = view.status;
  const StartPhases& phases = status.phases;
  return Json{{"id", to_string(status.id)},
              {"revision", status.revision.value},
              {"state", to_string(status.state)},
              {"spare", view.is_spare},
              {"node", view.node.value},
              {"address", status.address.direct.empty() ? status.address.published : status.address.direct},
              {"age_ms", ms(status.age)},
              {"start",
               {{"schedule_ms", ms(phases.schedule)},
                {"create_ms", ms(phases.create)},
                {"network_ms", ms(phases.network)},
                {"start_ms", ms(phases.start)},
                {"probe_ms", ms(phases.probe)},
                {"probe_tries", phases.probe_tries},
                {"total_ms", ms(phases.total())}}}};
}

Json scaling_json(const std::optional<policy::ScalingDecision>& decision) {
  if (!decision) return Json();
  return Json{{"desired", decision->desired ? Json(*decision->desired) : Json()},
              {"stable_average", decision->stable_average}, {"panic_average", decision->panic_average},
              {"target", decision->target}, {"stable_wish", decision->stable_wish},
              {"panic_wish", decision->panic_wish}, {"panicking", decision->panicking},
              {"predicted", decision->predicted}, {"ready", decision->input.ready},
              {"starting", decision->input.starting}, {"note", decision->note}};
}

Json placement_json(const std::optional<policy::PlacementDecision>& decision) {
  if (!decision) return Json();
  return Json{{"node", decision->node.value}, {"score", decision->score}, {"considered", decision->considered},
              {"note", decision->note}};
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

void put_url(Json& json, const FunctionName& name, std::string_view invoke_address) {
  json["url"] = invoke_address.empty() ? Json() : Json(fmt::format("http://{}/function/{}", invoke_address, name));
}

Json durable_json(const Function& function, std::string_view invoke_address) {
  Json json = Json::parse(encode_function(function));
  // Only the state log has what is in them; readers see that they are there.
  for (auto& revision : json["revisions"]) {
    for (auto& secret : revision["spec"]["secrets"]) secret = nullptr;
  }
  put_url(json, function.name, invoke_address);
  const Revision* shown = shown_revision(function);
  json["revision"] = shown != nullptr ? Json(shown->number.value) : Json();
  json["revision_name"] = shown != nullptr ? Json(revision_name(function.name, shown->number)) : Json();
  return json;
}

Json view_object(const FunctionView& view, std::string_view invoke_address) {
  Json json = durable_json(view.function, invoke_address);
  Json sandboxes = Json::array();
  for (const auto& sandbox : view.sandboxes) sandboxes.push_back(sandbox_json(sandbox));
  json["status"] = Json{{"invocable", view.invocable},
                        {"reason", view.invocable_reason},
                        {"wanted", view.wanted},
                        {"ready", count(view, SandboxState::ready)},
                        {"starting", count(view, SandboxState::placed) + count(view, SandboxState::starting)},
                        {"draining", count(view, SandboxState::draining) + count(view, SandboxState::stopping)},
                        {"waiting", view.waiting},
                        {"in_flight", view.in_flight},
                        {"requests_per_second", view.requests_per_second},
                        {"sandboxes", std::move(sandboxes)},
                        {"last_scaling", scaling_json(view.last_scaling)},
                        {"last_placement", placement_json(view.last_placement)},
                        {"last_failure", end_json(view.last_failure)}};
  json["events"] = events_array(view.events);
  return json;
}

// Of view_object() what a table of thousands of functions shows, under the same names: neither settings nor events.
Json summary_object(const FunctionView& view, std::string_view invoke_address) {
  const Function& function = view.function;
  Json json{{"name", function.name.value},
            {"created_at_us", function.created_at.time_since_epoch().count()},
            {"serving", function.serving ? Json(function.serving->value) : Json()},
            {"candidate", function.candidate ? Json(function.candidate->value) : Json()},
            {"manual_scale", function.manual_scale ? Json(*function.manual_scale) : Json()}};
  put_url(json, function.name, invoke_address);
  if (const Revision* shown = shown_revision(function)) {
    json["revision"] = shown->number.value;
    json["revision_name"] = revision_name(function.name, shown->number);
    json["revisions"] = Json::array({Json{{"revision", shown->number.value},
                                          {"spec", Json{{"image", shown->spec.image},
                                                        {"scale_min", shown->spec.scaling.min_scale},
                                                        {"scale_max", shown->spec.scaling.max_scale}}}}});
  }
  Json sandboxes = Json::array();
  for (const auto& sandbox : view.sandboxes) {
    sandboxes.push_back(Json{{"id", to_string(sandbox.status.id)}, {"state", to_string(sandbox.status.state)}});
  }
  json["status"] = Json{{"invocable", view.invocable},
                        {"reason", view.invocable_reason},
                        {"wanted", view.wanted},
                        {"ready", count(view, SandboxState::ready)},
                        {"waiting", view.waiting},
                        {"in_flight", view.in_flight},
                        {"requests_per_second", view.requests_per_second},
                        {"sandboxes", std::move(sandboxes)},
                        {"last_scaling", view.last_scaling ? Json{{"panicking", view.last_scaling->panicking}} : Json()}};
  return json;
}

Json resources_json(const Resources& resources) {
  return Json{{"cpu_milli", resources.cpu.value}, {"memory_bytes", resources.memory.value}};
}

}  // namespace

std::string function_json(const FunctionView& view, std::string_view invoke_address) {
  return print_json(view_object(view, invoke_address));
}

std::string functions_json(const std::vector<FunctionView>& views, std::string_view invoke_address) {
  Json array = Json::array();
  for (const auto& view : views) array.push_back(view_object(view, invoke_address));
  return print_json(Json{{"functions", std::move(array)}});
}

std::string summaries_json(const std::vector<FunctionView>& views, std::string_view invoke_address) {
  Json array = Json::array();
  for (const auto& view : views) array.push_back(summary_object(view, invoke_address));
  return print_json(Json{{"functions", std::move(array)}});
}

std::string deployed_json(const Deployed& deployed, std::string_view invoke_address) {
  Json json = durable_json(deployed.function, invoke_address);
  json["deployed_revision"] = deployed.revision.value;
  json["changed"] = deployed.changed;
  json["event_sequence"] = deployed.event_sequence;
  return print_json(json);
}

std::string names_json(const std::vector<FunctionName>& names) {
  Json array = Json::array();
  for (const auto& name : names) array.push_back(name.value);
  return print_json(Json{{"names", std::move(array)}});
}

std::string explanation_json(const FunctionName& name, const std::vector<std::string>& lines) {
  return print_json(Json{{"name", name.value}, {"lines", lines}});
}

std::string events_json(const std::vector<FunctionEvent>& events) {
  return print_json(Json{{"events", events_array(events)}});
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
