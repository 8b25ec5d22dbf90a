// SPDX-License-Identifier: MIT
//
// Scenarios of a cluster as the conductor sees it, driven by transcripts. Sandboxes are called S1, S2, ... in the order in
// which they are first mentioned. Proposals become durable at once unless "writes=fail" was said.
//
//   function NAME [image=I] [limit=N] [min=N] [max=N] [warm=N] [reaction=R] [verify]     deploys
//   delete NAME | scale NAME N|auto
//   worker NAME [cpu=MILLI] [memory=MIB] [starts=N] [S1:FUNCTION:REVISION:STATE ...]       joins, reporting sandboxes
//   leave NAME | lose NAME | cordon NAME | drain NAME | uncordon NAME
//   plane NAME [S1:GRANTED:HELD ...] | lose-plane NAME | leave-plane NAME
//   load PLANE FUNCTION waiting=N in_flight=N [occupied=S1,S2]
//   starting|ready|gone S1 [cause=CAUSE]
//   released PLANE S1 [slots=N] [update=NUMBER]    of the last update unless told otherwise
//   suspect PLANE S1 | applied PLANE [NUMBER]
//   at MS
//   restart                                        a new conductor with the same catalog
//   writes ok|fail
//   show
#include <map>

#include "catch.h"
#include "dirigent/base/text.h"
#include "dirigent/core/conductor.h"
#include "transcript.h"

using namespace dirigent;
using namespace dirigent::core;
using dirigent::test::option;

namespace {

class Cluster {
 public:
  Cluster() { restart({}); }

  void run(const std::vector<std::string>& words, std::vector<std::string>& output) {
    output_ = &output;
    const std::string& verb = words.at(0);
    ConductorEffects effects;
    if (verb == "at") {
      advance(Instant(std::chrono::milliseconds(std::stol(words.at(1)))));
    } else if (verb == "function" || verb == "delete" || verb == "scale") {
      change_catalog(words);
    } else if (verb == "worker") {
      join_worker(words, effects);
    } else if (verb == "plane") {
      const SessionId session = sessions_[words.at(1)] = SessionId{++next_session_};
      session_names_[session] = words.at(1);
      DataPlaneHello hello;
      hello.id = DataPlaneId{words.at(1)};
      for (std::size_t i = 2; i < words.size(); ++i) {
        const auto parts = split(words[i], ':');
        hello.shares.push_back({id_of(std::string(parts.at(0))), static_cast<std::uint32_t>(std::stoul(std::string(parts.at(1)))),
                                static_cast<std::uint32_t>(std::stoul(std::string(parts.at(2))))});
      }
      REQUIRE(conductor_->data_plane_joined(session, hello, now_, effects));
    } else if (verb == "lose") {
      conductor_->worker_lost(sessions_.at(words.at(1)), now_, effects);
    } else if (verb == "lose-plane") {
      conductor_->data_plane_lost(sessions_.at(words.at(1)), now_, effects);
    } else if (verb == "leave-plane") {
      conductor_->data_plane_said(sessions_.at(words.at(1)), DataPlaneLeaving{}, now_, effects);
    } else if (verb == "leave") {
      conductor_->worker_said(sessions_.at(words.at(1)), WorkerLeaving{}, now_, effects);
    } else if (verb == "cordon" || verb == "drain" || verb == "uncordon") {
      const NodeUse use = verb == "cordon" ? NodeUse::cordoned : verb == "drain" ? NodeUse::drained : NodeUse::open;
      conductor_->commit(SetNodeUse{NodeId{words.at(1)}, use}, now_, effects);
    } else if (verb == "load") {
      load(words, effects);
    } else if (verb == "starting" || verb == "ready" || verb == "gone") {
      report(words, effects);
    } else if (verb == "released") {
      SlotsReleased released{id_of(words.at(2)), static_cast<std::uint32_t>(std::stoul(option(words, "slots", "0"))), conductor_->last_update()};
      const std::string update = option(words, "update", "");
      if (!update.empty()) released.update = std::stoull(update);
      conductor_->data_plane_said(sessions_.at(words.at(1)), released, now_, effects);
    } else if (verb == "applied") {
      conductor_->data_plane_said(sessions_.at(words.at(1)), RoutesApplied{conductor_->last_update()}, now_, effects);
      say("{}", conductor_->is_applied(conductor_->last_update()) ? "applied everywhere" : "not applied everywhere");
    } else if (verb == "suspect") {
      conductor_->data_plane_said(sessions_.at(words.at(1)), SandboxSuspected{id_of(words.at(2)), "refused"}, now_, effects);
    } else if (verb == "restart") {
      std::vector<Function> functions;
      for (const auto& [name, function] : conductor_->catalog().functions()) functions.push_back(function);
      std::vector<SetNodeUse> nodes;
      for (const auto& [node, use] : conductor_->catalog().node_uses()) nodes.push_back({node, use});
      restart(std::move(functions), nodes);
    } else if (verb == "writes") {
      writes_fail_ = words.at(1) == "fail";
    } else if (verb == "show") {
      show();
    } else {
      FAIL("unknown command " << verb);
    }
    perform(effects);
    conductor_->check_invariants();
  }

 private:
  void restart(std::vector<Function> functions, const std::vector<SetNodeUse>& nodes = {}) {
    ConductorOptions options;
    options.term = Term{++term_};
    conductor_ = std::make_unique<Conductor>(options);
    conductor_->restore(std::move(functions), now_);
    conductor_->restore(nodes);
  }

  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    output_->push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  std::string name_of(SandboxId id) {
    for (const auto& [name, known] : ids_) {
      if (known == id) return name;
    }
    std::string name = fmt::format("S{}", ids_.size() + 1);
    ids_[name] = id;
    return name;
  }
  SandboxId id_of(const std::string& name) {
    if (!ids_.contains(name)) ids_[name] = SandboxId{1000 + ids_.size()};
    return ids_.at(name);
  }

  void advance(Instant to) {
    for (;;) {
      const auto next = conductor_->next_wakeup();
      if (!next || *next > to) break;
      now_ = std::max(now_, *next);
      ConductorEffects effects;
      conductor_->tick(now_, effects);
      perform(effects);
    }
    now_ = to;
  }

  void change_catalog(const std::vector<std::string>& words) {
    const FunctionName name{words.at(1)};
    Result<CatalogCommand> command = failure(ErrorCode::internal, "no plan");
    if (words.at(0) == "delete") {
      command = conductor_->catalog().plan_remove(name);
    } else if (words.at(0) == "scale") {
      command = conductor_->catalog().plan_scale(name, words.at(2) == "auto" ? std::nullopt : std::optional<std::uint32_t>(std::stoul(words.at(2))));
    } else {
      RevisionSpec spec;
      spec.image = option(words, "image", "builtin:hello");
      spec.concurrency_limit = static_cast<std::uint32_t>(std::stoul(option(words, "limit", "1")));
      spec.scaling = scaling_profile("dirigent")->scaling;
      spec.scaling.min_scale = static_cast<std::uint32_t>(std::stoul(option(words, "min", "0")));
      spec.scaling.max_scale = static_cast<std::uint32_t>(std::stoul(option(words, "max", "0")));
      spec.scaling.warm = static_cast<std::uint32_t>(std::stoul(option(words, "warm", "0")));
      spec.scaling.reaction = parse_reaction(option(words, "reaction", "every-queue")).value();
      const bool verify = words.back() == "verify";
      auto plan = conductor_->catalog().plan_deploy(name, spec, false, verify, {});
      if (plan) {
        command = plan->command;
      } else {
        command = tl::unexpected<Error>(plan.error());
      }
    }
    if (!command) {
      say("error: {}", command.error().message);
      return;
    }
    REQUIRE(conductor_->mutable_catalog().begin(name));
    ConductorEffects effects;
    effects.proposals.push_back(*command);
    perform(effects);
  }

  void join_worker(const std::vector<std::string>& words, ConductorEffects& effects) {
    WorkerHello hello;
    hello.node.id = NodeId{words.at(1)};
    hello.node.capacity.cpu = Millicpu{std::stol(option(words, "cpu", "1000"))};
    hello.node.capacity.memory = Bytes{std::stol(option(words, "memory", "4096")) << 20};
    hello.node.starts_max = static_cast<std::uint32_t>(std::stoul(option(words, "starts", "0")));
    for (const auto& word : words) {
      const auto parts = split(word, ':');
      if (parts.size() != 4) continue;
      SandboxStatus status;
      status.id = id_of(std::string(parts[0]));
      status.function = FunctionName{std::string(parts[1])};
      status.revision = RevisionNumber{static_cast<std::uint32_t>(std::stoul(std::string(parts[2])))};
      status.term = Term{1};
      status.state = parse_sandbox_state(parts[3]).value();
      hello.sandboxes.push_back(status);
    }
    const SessionId session = sessions_[words.at(1)] = SessionId{++next_session_};
    session_names_[session] = words.at(1);
    REQUIRE(conductor_->worker_joined(session, hello, now_, effects));
  }

  void load(const std::vector<std::string>& words, ConductorEffects& effects) {
    FunctionLoad load;
    load.function = FunctionName{words.at(2)};
    load.waiting = static_cast<std::uint32_t>(std::stoul(option(words, "waiting", "0")));
    load.in_flight = static_cast<std::uint32_t>(std::stoul(option(words, "in_flight", "0")));
    load.average_concurrency = load.waiting + load.in_flight;
    load.interval = 1s;
    const std::string occupied = option(words, "occupied", "");
    for (const auto name : split(occupied, ',')) {
      if (!name.empty()) load.occupied.push_back(id_of(std::string(name)));
    }
    conductor_->data_plane_said(sessions_.at(words.at(1)), load, now_, effects);
  }

  void report(const std::vector<std::string>& words, ConductorEffects& effects) {
    SandboxStatus status;
    status.id = id_of(words.at(1));
    status.state = parse_sandbox_state(words.at(0)).value();
    status.term = Term{1};
    status.end.cause = parse_end_cause(option(words, "cause", status.state == SandboxState::gone ? "requested" : "none")).value();
    status.end.detail = fmt::format("reported as {}", to_string(status.end.cause));
    const auto known = conductor_->fleet().sandboxes().find(status.id);
    if (known == conductor_->fleet().sandboxes().end()) {
      say("({} is not known)", words.at(1));
      return;
    }
    status.function = known->second.function;
    status.revision = known->second.revision;
    const Node& node = conductor_->fleet().nodes().at(known->second.node);
    if (node.session) conductor_->worker_said(*node.session, SandboxChanged{status}, now_, effects);
  }

  void perform(ConductorEffects effects) {
    while (true) {
      std::vector<CatalogCommand> proposals = std::move(effects.proposals);
      print(effects);
      effects = {};
      for (const auto& command : proposals) {
        if (writes_fail_) {
          say("write of {} failed", function_of(command));
          conductor_->abort(command, now_, effects);
        } else {
          conductor_->commit(command, now_, effects);
        }
      }
      if (proposals.empty()) return;
    }
  }

  void print(const ConductorEffects& effects) {
    for (const auto& [session, order] : effects.worker_orders) {
      const std::string& node = session_names_.at(session);
      if (const auto* start = std::get_if<StartSandbox>(&order)) {
        say("start {} of {} on {}", name_of(start->id), revision_name(start->function, start->revision), node);
      } else {
        say("stop {} on {}", name_of(std::get<StopSandbox>(order).id), node);
      }
    }
    for (const auto& [session, order] : effects.data_plane_orders) {
      const auto& update = std::get<RouteUpdate>(order);
      if (update.functions.empty()) continue;
      std::string text = fmt::format("to {}:", session_names_.at(session));
      if (update.complete) text += " complete";
      if (update.provisional) text += " provisional";
      for (const auto& route : update.functions) {
        text += fmt::format(" {}={}[", route.function, route.deleted ? "deleted" : fmt::format("r{}", route.revision.value));
        for (std::size_t i = 0; i < route.sandboxes.size(); ++i) {
          text += fmt::format("{}{}x{}", i == 0 ? "" : " ", name_of(route.sandboxes[i].id), route.sandboxes[i].slots);
        }
        text += "]";
        if (route.unavailable != Reason::none) text += fmt::format(" {}", to_string(route.unavailable));
      }
      say("{}", text);
    }
    for (const auto& [session, why] : effects.disconnects) say("disconnect a session of {}", session_names_.at(session));
  }

  void show() {
    for (const auto& [name, function] : conductor_->catalog().functions()) {
      const FunctionControl* control = conductor_->control(name);
      say("{}: serving {} candidate {} wanted {}", name, function.serving ? function.serving->value : 0,
          function.candidate ? function.candidate->value : 0, control == nullptr ? 0 : control->wanted);
      for (const SandboxId id : conductor_->fleet().of(name)) {
        const Sandbox& sandbox = conductor_->fleet().sandboxes().at(id);
        say("  {} r{} {} on {}{}", name_of(id), sandbox.revision.value, to_string(sandbox.state), sandbox.node, sandbox.is_spare ? ", spare" : "");
      }
    }
    for (const auto& [id, node] : conductor_->fleet().nodes()) {
      say("{}: {} of {} mcpu reserved, {} sandboxes{}", id, node.reserved.cpu.value, node.info.capacity.cpu.value, node.sandboxes.size(),
          node.session ? "" : ", lost");
    }
  }

  Instant now_{1ms};
  std::uint64_t term_ = 0;
  std::unique_ptr<Conductor> conductor_;
  std::map<std::string, SessionId> sessions_;
  std::map<SessionId, std::string> session_names_;
  std::map<std::string, SandboxId> ids_;
  std::uint64_t next_session_ = 0;
  bool writes_fail_ = false;
  std::vector<std::string>* output_ = nullptr;
};

void run_scenario(const std::string& name) {
  Cluster cluster;
  test::run_transcript(std::string(SCENARIO_DIRECTORY) + "/conductor_" + name + ".txt",
                       [&](const auto& words, auto& output) { cluster.run(words, output); });
}

}  // namespace

TEST_CASE("conductor: the first waiting request starts a sandbox at once, and its route follows when it is ready") { run_scenario("cold"); }
TEST_CASE("conductor: a burst starts as many sandboxes as it can use") { run_scenario("burst"); }
TEST_CASE("conductor: a surplus sandbox is unrouted, drained, then stopped") { run_scenario("shrink"); }
TEST_CASE("conductor: a failed start moves to another node and repeated failures refuse requests") { run_scenario("failures"); }
TEST_CASE("conductor: a lost node's sandboxes are replaced, a quick return loses nothing") { run_scenario("node_loss"); }
TEST_CASE("conductor: after a restart sandboxes are learnt from the workers and none is started twice") { run_scenario("restart"); }
TEST_CASE("conductor: a new revision serves only after its test instance has proved ready") { run_scenario("verify"); }
TEST_CASE("conductor: deleting a function removes its route and drains its sandboxes") { run_scenario("delete"); }
TEST_CASE("conductor: data planes share a concurrency limit and hand sandboxes over") { run_scenario("planes"); }
TEST_CASE("conductor: no room is said after a while and forgotten when there is some") { run_scenario("no_room"); }
TEST_CASE("conductor: functions take turns when workers start as many sandboxes as they may") { run_scenario("starts"); }
TEST_CASE("conductor: a spare is started unasked, serves when one more is wanted, and is replaced behind") { run_scenario("spares"); }
TEST_CASE("conductor: spares stand back when a wanted sandbox lacks room or a start") { run_scenario("spares_room"); }
TEST_CASE("conductor: what a drained node has serves until others can, and leaves then") { run_scenario("draining_node"); }
TEST_CASE("conductor: a leaving or cordoned node gets nothing new") { run_scenario("leaving"); }
