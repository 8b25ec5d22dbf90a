// SPDX-License-Identifier: MIT
//
// Scenarios of one data plane: a switchboard and its dispatchers, driven by transcripts.
//
//   shards N                                      starts anew with N shards
//   at MS                                         moves the clock (milliseconds since start), ticking on the way
//   route NAME vN [ID:SLOTS ...] [option=value]   options: depth, wait (ms), unavailable (reason), revision
//   remove NAME vN
//   arrive NAME REQUEST [shard=N]
//   finish|fail|retry|abandon REQUEST
//   show
#include <filesystem>
#include <map>

#include "catch.h"
#include "dirigent/base/text.h"
#include "dirigent/core/switchboard.h"
#include "transcript.h"

using namespace dirigent;
using namespace dirigent::core;
using dirigent::test::option;

namespace {

class DataPlane {
 public:
  DataPlane() { start(1); }

  void run(const std::vector<std::string>& words, std::vector<std::string>& output) {
    output_ = &output;
    const std::string& verb = words.at(0);
    if (verb == "shards") {
      start(static_cast<std::uint32_t>(std::stoul(words.at(1))));
    } else if (verb == "at") {
      advance(Instant(std::chrono::milliseconds(std::stol(words.at(1)))));
    } else if (verb == "route" || verb == "remove") {
      route(words, verb == "remove");
    } else if (verb == "arrive") {
      arrive(words);
    } else if (verb == "show") {
      show();
    } else {
      end(verb, words.at(1));
    }
    settle();
  }

 private:
  struct Request {
    std::uint32_t shard;
    Lease lease;
    bool has_lease = false;
  };

  void start(std::uint32_t shards) {
    now_ = Instant(1ms);
    requests_.clear();
    switchboard_ = std::make_unique<Switchboard>(shards);
    dispatchers_.clear();
    for (std::uint32_t i = 0; i < shards; ++i) {
      DispatcherOptions options;
      options.shard = i;
      options.shards = shards;
      options.balancer = policy::BalancerKind::round_robin;
      dispatchers_.push_back(std::make_unique<Dispatcher>(options));
    }
    effects_.assign(shards, {});
  }

  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    output_->push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  void advance(Instant to) {
    for (;;) {
      std::optional<Instant> next;
      for (const auto& dispatcher : dispatchers_) {
        const auto wakeup = dispatcher->next_wakeup();
        if (wakeup && (!next || *wakeup < *next)) next = wakeup;
      }
      if (!next || *next > to) break;
      now_ = std::max(now_, *next);
      for (std::uint32_t i = 0; i < dispatchers_.size(); ++i) dispatchers_[i]->tick(now_, effects_[i]);
      settle();
    }
    now_ = to;
  }

  void route(const std::vector<std::string>& words, bool is_removal) {
    FunctionRoute route;
    route.function = FunctionName{words.at(1)};
    route.version = RouteVersion{std::stoull(words.at(2).substr(1))};
    route.revision = RevisionNumber{static_cast<std::uint32_t>(std::stoul(option(words, "revision", "1")))};
    route.deleted = is_removal;
    route.limits.queue_depth = static_cast<std::uint32_t>(std::stoul(option(words, "depth", "100")));
    route.limits.queue_timeout = std::chrono::milliseconds(std::stol(option(words, "wait", "30000")));
    const std::string unavailable = option(words, "unavailable", "");
    for (const auto& known : all_reasons()) {
      if (known.name == unavailable) route.unavailable = known.reason;
    }
    for (const auto& word : words) {
      const auto colon = word.find(':');
      if (colon == std::string::npos) continue;
      RoutedSandbox sandbox;
      sandbox.id = SandboxId{std::stoull(word.substr(0, colon))};
      sandbox.slots = static_cast<std::uint32_t>(std::stoul(word.substr(colon + 1)));
      route.sandboxes.push_back(sandbox);
    }
    SwitchboardEffects effects;
    RouteUpdate update;
    update.term = Term{1};
    update.number = ++update_number_;
    update.functions.push_back(route);
    switchboard_->apply(update, now_, effects);
    publish(effects);
  }

  void publish(const SwitchboardEffects& effects) {
    for (const auto& told : effects.told) {
      const auto& released = std::get<SlotsReleased>(told);
      say("released {}: {} kept, update {}", released.sandbox.value, released.slots, released.update);
    }
    for (const auto& change : effects.published) {
      for (std::uint32_t i = 0; i < dispatchers_.size(); ++i) dispatchers_[i]->apply(*change, now_, effects_[i]);
      settle();
      for (std::uint32_t i = 0; i < dispatchers_.size(); ++i) {
        SwitchboardEffects more;
        switchboard_->shard_applied(i, change->number, more);
        publish(more);
      }
    }
  }

  void arrive(const std::vector<std::string>& words) {
    const auto shard = static_cast<std::uint32_t>(std::stoul(option(words, "shard", "0")));
    const RoutedFunction* function = dispatchers_[shard]->find(words.at(1));
    if (function == nullptr) {
      say("{}: not found", words.at(2));
      return;
    }
    const std::uint64_t token = ++next_token_;
    names_[token] = words.at(2);
    requests_[words.at(2)] = {shard, {}, false};
    tokens_[words.at(2)] = RequestToken{token};
    answer(words.at(2), dispatchers_[shard]->arrive(*function, RequestToken{token}, now_, effects_[shard]));
  }

  void answer(const std::string& name, const Admission& admission) {
    switch (admission.kind) {
      case Admission::Kind::forward: granted(name, admission.lease); return;
      case Admission::Kind::parked: say("{}: parked", name); return;
      case Admission::Kind::refused: refused(name, admission.refusal); return;
    }
  }
  void granted(const std::string& name, const Lease& lease) {
    requests_[name].lease = lease;
    requests_[name].has_lease = true;
    say("{}: forward to {}{}", name, lease.sandbox->sandbox.id.value, lease.cold() ? " (cold)" : "");
  }
  void refused(const std::string& name, const Refusal& refusal) {
    say("{}: refused {}{}", name, to_string(refusal.reason),
        refusal.retry_after > Duration::zero() ? fmt::format(", retry after {} s", refusal.retry_after / 1s) : "");
  }

  void end(const std::string& verb, const std::string& name) {
    Request& request = requests_.at(name);
    Dispatcher& dispatcher = *dispatchers_[request.shard];
    DispatcherEffects& effects = effects_[request.shard];
    if (verb == "abandon") {
      dispatcher.abandon(tokens_.at(name), now_, effects);
      return;
    }
    REQUIRE(request.has_lease);
    const Lease lease = request.lease;
    request.has_lease = false;
    if (verb == "finish") {
      dispatcher.finish(lease, Outcome::answered, now_, effects);
    } else if (verb == "fail") {
      dispatcher.finish(lease, Outcome::failed, now_, effects);
    } else if (verb == "retry") {
      answer(name, dispatcher.retry(lease, tokens_.at(name), "connection refused", now_, effects));
    } else {
      FAIL("unknown command " << verb);
    }
  }

  // Performs effects until there are none: messages between shards arrive in order.
  void settle() {
    for (bool any = true; any;) {
      any = false;
      for (std::uint32_t i = 0; i < dispatchers_.size(); ++i) {
        if (effects_[i].empty()) continue;
        any = true;
        DispatcherEffects effects = std::move(effects_[i]);
        effects_[i] = {};
        for (const auto& grant : effects.granted) granted(names_.at(grant.token.value), grant.lease);
        for (const auto& refusal : effects.refused) refused(names_.at(refusal.token.value), refusal.refusal);
        for (const auto& load : effects.loads) {
          say("load {} waiting={} in_flight={} average={:.2f} arrivals={} completions={}{}", load.function, load.waiting, load.in_flight,
              load.average_concurrency, load.arrivals, load.completions, dispatchers_.size() > 1 ? fmt::format(" shard={}", load.shard) : "");
        }
        for (const auto& suspected : effects.suspected) say("suspected {}", suspected.id.value);
        if (effects.released) {
          SwitchboardEffects more;
          switchboard_->slots_released(more);
          publish(more);
        }
        for (auto& post : effects.posted) dispatchers_[post.shard]->receive(post.message, now_, effects_[post.shard]);
      }
    }
  }

  void show() {
    for (std::uint32_t i = 0; i < dispatchers_.size(); ++i) {
      say("shard {}: {} in flight, {} parked", i, dispatchers_[i]->in_flight(), dispatchers_[i]->parked());
    }
    say("{} functions, {} sandboxes", switchboard_->functions(), switchboard_->sandboxes());
  }

  Instant now_{};
  std::uint64_t update_number_ = 0;
  std::unique_ptr<Switchboard> switchboard_;
  std::vector<std::unique_ptr<Dispatcher>> dispatchers_;
  std::vector<DispatcherEffects> effects_;
  std::map<std::string, Request> requests_;
  std::map<std::string, RequestToken> tokens_;
  std::map<std::uint64_t, std::string> names_;
  std::uint64_t next_token_ = 0;
  std::vector<std::string>* output_ = nullptr;
};

void run_scenario(const std::string& name) {
  DataPlane plane;
  test::run_transcript(std::string(SCENARIO_DIRECTORY) + "/dispatcher_" + name + ".txt",
                       [&](const auto& words, auto& output) { plane.run(words, output); });
}

}  // namespace

TEST_CASE("dispatcher: warm requests take slots up to the limit, then wait in order") { run_scenario("warm"); }
TEST_CASE("dispatcher: a cold request waits for its sandbox and demand is reported at once") { run_scenario("cold"); }
TEST_CASE("dispatcher: a request that finds its function scaled to zero again is reported at once, too") { run_scenario("cold_again"); }
TEST_CASE("dispatcher: queue length and queue wait are bounded") { run_scenario("bounds"); }
TEST_CASE("dispatcher: a failed connection is retried elsewhere, ahead of younger requests") { run_scenario("retry"); }
TEST_CASE("dispatcher: a sandbox that leaves the routes is reported drained when its last request ends") { run_scenario("drain"); }
TEST_CASE("dispatcher: shards share slots and keep one queue per function") { run_scenario("shards"); }
TEST_CASE("dispatcher: a removed function refuses its queue and may come back") { run_scenario("removal"); }
TEST_CASE("dispatcher: an unavailable function refuses at once") { run_scenario("unavailable"); }
