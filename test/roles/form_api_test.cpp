// SPDX-License-Identifier: MIT
#include "roles/control/form_api.h"

#include "fakes/contains.h"
#include "fakes/fake_control_service.h"
#include "roles/api_harness.h"
#include "roles/control/form_fields.h"

namespace dirigent::roles {
namespace {

using fakes::header;

const io::Headers kForm{{"Content-Type", "application/x-www-form-urlencoded"}};

// As the Invitro loader sends them, byte for byte.
constexpr std::string_view kTraceRegistration =
    "image=docker.io%2Fcvetkovic%2Fdirigent_grpc_function%3Alatest&name=trace-func-1-13167500157998781162&node_"
    "affinity=&node_port=0"
    "&num_args=0&num_rets=0&port_forwarding=80&port_forwarding=tcp&prepull_mode=&requested_cpu=100&requested_gpu=0&"
    "requested_memory=23"
    "&scaling_lower_bound=0&scaling_upper_bound=1";
constexpr std::string_view kBusyLoopRegistration =
    "cold_start_busy_loop_ms=1250&image=docker.io%2Fcvetkovic%2Fdirigent_empty_function%3Alatest&iteration_multiplier="
    "80"
    "&name=warm-function-1552739733918656903&node_affinity=&node_port=0&num_args=0&num_rets=0&port_forwarding=80&port_"
    "forwarding=tcp"
    "&prepull_mode=all_sync&requested_cpu=100&requested_gpu=0&requested_memory=204&scaling_lower_bound=1&scaling_upper_"
    "bound=1024";

struct Fixture {
  fakes::FakeControlService service;
  fakes::ServedHandler api;
  explicit Fixture(FormApiOptions options = {}) : api(make_form_api(service, std::move(options))) {}

  io::HttpResponse post(std::string body, std::string path = "/") {
    return api.ask("POST", std::move(path), std::move(body), kForm);
  }
  const RevisionSpec& spec() { return service.deployed.back().spec; }
};

std::string with(std::string_view field, std::string_view value) {
  return fmt::format("name=f&image=i&port_forwarding=80&port_forwarding=tcp&{}={}", field, value);
}

TEST_CASE("form: the loader's trace registration is answered with the data plane's address and nothing else") {
  Fixture f;
  const auto answer = f.post(std::string(kTraceRegistration));
  CHECK(answer.status == 200);
  CHECK(answer.body == "127.0.0.1:18080");
  CHECK(header(answer, "Content-Type") == "text/plain; charset=utf-8");
  const DeployRequest& request = f.service.deployed.back();
  CHECK(request.name == FunctionName{"trace-func-1-13167500157998781162"});
  CHECK(request.create_only);
  CHECK_FALSE(request.verify);
  CHECK(request.spec.image == "builtin:trace");
  CHECK(request.spec.resources == Resources{Millicpu{100}, 23_MiB});
  CHECK(request.spec.scaling.max_scale == 1);
  CHECK(request.spec.scaling.min_scale == 0);
  CHECK(request.spec.concurrency_limit == 1);
  CHECK(request.spec.environment.at("ITERATIONS_MULTIPLIER") == "102");
  CHECK(request.spec.environment.at("COLD_START_BUSY_LOOP_MS") == "0");
}

TEST_CASE("form: the loader's busy-loop registration on /registerService keeps its bounds and its variables") {
  Fixture f;
  CHECK(f.post(std::string(kBusyLoopRegistration), "/registerService").status == 200);
  CHECK(f.spec().scaling.min_scale == 1);
  CHECK(f.spec().scaling.max_scale == 1024);
  CHECK(f.spec().resources.memory == 204_MiB);
  CHECK(f.spec().environment.at("ITERATIONS_MULTIPLIER") == "80");
  CHECK(f.spec().environment.at("COLD_START_BUSY_LOOP_MS") == "1250");
  const auto check = f.api.ask("GET", "/check?name=warm-function-1552739733918656903");
  CHECK(check.status == 200);
  CHECK(check.body.empty());
}

TEST_CASE("form: a name that is there is a 409, not an empty success") {
  Fixture f;
  CHECK(f.post(std::string(kTraceRegistration)).status == 200);
  const auto second = f.post(std::string(kTraceRegistration));
  CHECK(second.status == 409);
  CHECK(second.body == "Failed to register service.\n");
  CHECK(header(second, "X-Content-Type-Options") == "nosniff");
}

TEST_CASE("form: all data planes are joined by semicolons, a load balancer replaces them, none is a failure") {
  Fixture two;
  two.service.data_plane_list.push_back({DataPlaneId{"dp2"}, "10.0.0.2:8080", 0s, ""});
  CHECK(two.post(std::string(kTraceRegistration)).body == "127.0.0.1:18080;10.0.0.2:8080");
  FormApiOptions options;
  options.load_balancer_address = "10.0.1.254:8079";
  Fixture balanced(options);
  CHECK(balanced.post(std::string(kTraceRegistration)).body == "10.0.1.254:8079");
  Fixture none;
  none.service.data_plane_list.clear();
  CHECK(none.post(std::string(kTraceRegistration)).status == 503);
  CHECK(none.service.deployed.empty());
}

TEST_CASE("form: the first failing check answers with the original's words") {
  Fixture f;
  const std::pair<std::string, std::string> cases[] = {
      {"", "Invalid function name.\n"},
      {"image=i", "Invalid function name.\n"},
      {"name=f", "Invalid function image.\n"},
      {"name=f&image=i", "No port forwarding specified. Function cannot communicate with the outside world.\n"},
      {"name=f&image=i&port_forwarding=x&port_forwarding=tcp", "Invalid guest port specified.\n"},
      {"name=f&image=i&port_forwarding=70000&port_forwarding=tcp", "Invalid guest port specified.\n"},
      {"name=f&image=i&port_forwarding=80&port_forwarding=sctp", "Invalid port forwarding protocol.\n"},
      {"name=f&image=i&port_forwarding=80", "Invalid port forwarding protocol.\n"},
      {with("requested_cpu", "x"), "Invalid CPU value\n"},
      {with("requested_cpu", "-1"), "Invalid CPU value\n"},
      {with("requested_memory", "1.5"), "Invalid memory value\n"},
      {with("requested_memory", "99999999999"), "Invalid memory value\n"},
      {with("requested_gpu", "x"), "Invalid GPU value\n"},
      {with("cold_start_sweep", "yes"), "Invalid cold start sweep value\n"},
      {with("scaling_upper_bound", "x"), "Invalid scaling upper bound.\n"},
      {with("scaling_upper_bound", "0"), "Invalid scaling upper bound.\n"},
      {with("scaling_lower_bound", "x"), "Invalid scaling lower bound.\n"},
      {with("scaling_upper_bound", "2") + "&scaling_lower_bound=3",
       "Scaling upper bound cannot be lower than the scaling lower bound.\n"},
      {with("iteration_multiplier", "x"), "Invalid iteration multiplier.\n"},
      {with("cold_start_busy_loop_ms", "x"), "Invalid cold start busy loop duration.\n"},
      {with("num_args", "x"), "Invalid number of function arguments.\n"},
      {with("num_rets", "x"), "Invalid number of function returns.\n"},
      {with("env_vars", "novalue"), "Invalid environment variable.\n"},
      {"name=%zz", "Invalid parsing service registration request.\n"},
      // Several mistakes: the order decides.
      {"name=f&image=i&port_forwarding=x&port_forwarding=tcp&requested_cpu=x", "Invalid guest port specified.\n"},
      {with("scaling_lower_bound", "x") + "&requested_memory=x", "Invalid memory value\n"},
  };
  for (const auto& [body, text] : cases) {
    INFO(body);
    const auto answer = f.post(body);
    CHECK(answer.status == 400);
    CHECK(answer.body == text);
  }
  CHECK(f.service.deployed.empty());
  const auto upper = f.post(with("x", "y").replace(5, 1, "F"));
  CHECK(upper.status == 400);
  CHECK_CONTAINS(upper.body, "Invalid function name. ");
}

TEST_CASE("form: only POST registers, and only a body that says it is a form counts") {
  Fixture f;
  const auto get = f.api.ask("GET", "/registerService");
  CHECK(get.status == 405);
  CHECK(get.body == "Method not allowed.\n");
  const auto json = f.api.ask("POST", "/", std::string(kTraceRegistration), {{"Content-Type", "application/json"}});
  CHECK(json.status == 400);
  CHECK(json.body == "Invalid function name.\n");
  // The query is a form as well; values of the body come first.
  CHECK(f.api.ask("POST", "/?" + std::string(kTraceRegistration) + "&name=other").status == 200);
  CHECK(f.post("name=body", "/?" + with("x", "y")).status == 200);
  CHECK(f.service.deployed.back().name == FunctionName{"body"});
  const auto charset =
      f.api.ask("POST", "/", with("x", "y"), {{"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"}});
  CHECK(charset.status == 200);
}

TEST_CASE("form: health is empty, check tells what is registered") {
  Fixture f;
  for (const std::string method : {"GET", "POST", "PUT"}) {
    const auto health = f.api.ask(method, "/health");
    CHECK(health.status == 200);
    CHECK(health.body.empty());
  }
  CHECK(f.api.ask("GET", "/check?name=f").status == 404);
  CHECK(f.api.ask("GET", "/check?name=UPPER").status == 404);
  const auto missing = f.api.ask("GET", "/check");
  CHECK(missing.status == 400);
  CHECK(missing.body == "Querystring argument 'name' has not been specified.\n");
}

TEST_CASE("form: a cold-start sweep has one sandbox and windows of 6 and 2 seconds") {
  Fixture f;
  CHECK(f.post(with("cold_start_sweep", "T") + "&scaling_upper_bound=5&scaling_lower_bound=1").status == 200);
  const ScalingSettings& scaling = f.spec().scaling;
  CHECK(scaling.max_scale == 1);
  CHECK(scaling.min_scale == 0);
  CHECK(scaling.stable_window == 6s);
  CHECK(scaling.panic_window_percent / 100 * 6 == Approx(2));
  CHECK(f.post("name=g&image=i&port_forwarding=80&port_forwarding=tcp&cold_start_sweep=False").status == 200);
  CHECK(f.spec().scaling.stable_window == 60s);
}

TEST_CASE("form: a registration starts from the profile of the control plane") {
  Fixture f;
  f.service.profile = "cost";
  CHECK(f.post(with("x", "y")).status == 200);
  CHECK(f.spec().scaling.stable_window == 30s);
  CHECK(f.spec().concurrency_limit == 0);
}

TEST_CASE("form: images of the original's world are replaced as told, others stay") {
  Fixture f;
  CHECK(f.post("name=a&image=docker.io/other/"
               "x:1&port_forwarding=81&port_forwarding=tcp&program_args=one&program_args=two&env_vars=A%3DB=C")
            .status == 200);
  CHECK(f.spec().image == "docker.io/other/x:1");
  CHECK(f.spec().port == 81);
  CHECK(f.spec().arguments == std::vector<std::string>{"one", "two"});
  CHECK(f.spec().environment.at("A") == "B=C");
  FormApiOptions options;
  options.image_map = {{"docker.io/cvetkovic/exact", "builtin:echo"}};
  Fixture mapped(options);
  CHECK(mapped.post("name=a&image=docker.io/cvetkovic/exact&port_forwarding=80&port_forwarding=tcp").status == 200);
  CHECK(mapped.spec().image == "builtin:echo");
  CHECK(mapped.post("name=b&image=docker.io/cvetkovic/exactly&port_forwarding=80&port_forwarding=tcp").status == 200);
  CHECK(mapped.spec().image == "docker.io/cvetkovic/exactly");
}

TEST_CASE("form: amounts below what a process needs are raised, absent ones take the defaults") {
  Fixture f;
  CHECK(f.post(with("requested_memory", "1")).status == 200);
  CHECK(f.spec().resources.memory == 16_MiB);
  CHECK(f.post("name=g&image=i&port_forwarding=80&port_forwarding=udp").status == 200);
  CHECK(f.spec().resources == RevisionSpec{}.resources);
}

TEST_CASE("form: a patch changes only what it names and makes a revision") {
  Fixture f;
  CHECK(f.post(with("x", "y")).status == 200);
  const auto done = f.post("function=f&container_concurrency=7&stable_window_width=20&panic_window_width=5", "/patch");
  CHECK(done.status == 200);
  CHECK(done.body.empty());
  CHECK(f.spec().concurrency_limit == 7);
  CHECK(f.spec().scaling.stable_window == 20s);
  CHECK(f.spec().scaling.panic_window_percent == 25);
  CHECK(f.spec().image == "i");
  const std::pair<std::string, std::string> cases[] = {
      {"", "Function name not specified.\n"},
      {"function=nobody", "Function name does not exist.\n"},
      {"function=f&scaling_method=magic", "Unsupported scaling_method\n"},
      {"function=f&scaling_upper_bound=1&scaling_lower_bound=2",
       "Scaling upper bound cannot be lower than the scaling lower bound.\n"},
  };
  for (const auto& [body, text] : cases) {
    const auto answer = f.post(body, "/patch");
    CHECK(answer.status == 400);
    CHECK(answer.body == text);
  }
  CHECK_CONTAINS(f.post("function=f&container_concurrency=-1", "/patch").body, "Invalid container_concurrency - ");
  CHECK(f.api.ask("GET", "/patch").status == 405);
}

TEST_CASE("form: a failure of the role is never a success") {
  Fixture f;
  f.service.deploy_error = Error{ErrorCode::unavailable, "no leader"};
  const auto answer = f.post(with("x", "y"));
  CHECK(answer.status == 409);
  CHECK(answer.body == "Failed to register service. no leader.\n");
}

}  // namespace
}  // namespace dirigent::roles
