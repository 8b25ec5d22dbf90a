// SPDX-License-Identifier: MIT
#include "cli/command_line.h"

#include "catch.h"
#include "cli/config_file.h"
#include "cli/ctl/deploy_body.h"
#include "cli/ctl/phases.h"
#include "cli/settings.h"
#include "cli/terminal.h"
#include "dirigent/roles/runtime_choice.h"
#include "fakes/contains.h"

namespace dirigent::cli {
namespace {

using Words = std::vector<std::string>;

const std::vector<Flag> kFlags{
    {"output", 'o', "FORMAT", ""}, {"env", 'e', "KEY=VALUE", "", true}, {"quiet", 'q', "", ""}, {"verify", 0, "", ""}};

std::string parse_error(const Words& words) {
  const auto parsed = parse_arguments(words, kFlags, 1);
  return parsed ? "no error" : parsed.error().message;
}

TEST_CASE("command line: flags take their value in every form, and words may stand between them") {
  const auto parsed = parse_arguments(Words{"-qojson", "name", "--env=A=1", "-e", "B=2", "--no-verify"}, kFlags, 1);
  REQUIRE(parsed);
  CHECK(parsed->is_on("quiet"));
  CHECK(parsed->value("output") == "json");
  CHECK(parsed->values("env") == Words{"A=1", "B=2"});
  CHECK(parsed->value("verify") == "false");
  CHECK(parsed->words() == Words{"name"});
  CHECK(parse_arguments(Words{"--", "--quiet"}, kFlags, 1)->words() == Words{"--quiet"});
  CHECK(parse_arguments(Words{"-"}, kFlags, 1)->words() == Words{"-"});
}

TEST_CASE("command line: a slip of the pen is named with the nearest flag") {
  CHECK_CONTAINS(parse_error({"--ouput", "x"}), "unknown flag --ouput (did you mean --output?)");
  CHECK_CONTAINS(parse_error({"-x"}), "unknown flag -x");
  CHECK_CONTAINS(parse_error({"--output"}), "--output needs a value: --output FORMAT");
  CHECK_CONTAINS(parse_error({"-o"}), "--output needs a value");
  CHECK_CONTAINS(parse_error({"--quiet=maybe"}), "expected true or false");
  CHECK_CONTAINS(parse_error({"-o", "a", "-o", "b"}), "--output is given twice");
  CHECK_CONTAINS(parse_error({"a", "b"}), "unexpected word \"b\"");
  CHECK_CONTAINS(parse_error({"--no-output"}), "unknown flag --no-output");
}

std::string config_error(std::string_view text) {
  const auto entries = parse_config(text, "d.toml");
  return entries ? "no error" : entries.error().message;
}

TEST_CASE("config file: sections, strings, arrays and comments are read with their lines") {
  const auto entries = parse_config(
      "# top\n\n[control]\nrpc-listen = \"a:1\" # c\nprofile=cost ; c\n[data]\ncontrol = [\"a:1\", # x\n  "
      "'b:2',\n]\nshards = 2\r\n",
      "d.toml");
  REQUIRE(entries);
  REQUIRE(entries->size() == 4);
  CHECK((*entries)[0].key == "rpc_listen");
  CHECK((*entries)[0].values == Words{"a:1"});
  CHECK((*entries)[0].line == 4);
  CHECK((*entries)[1].values == Words{"cost"});
  CHECK((*entries)[2].values == Words{"a:1", "b:2"});
  CHECK((*entries)[3].section == "data");
  CHECK((*entries)[3].values == Words{"2"});
}

TEST_CASE("config file: every mistake names file and line") {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"[control", "d.toml:1: a section is written [name]"},
      {"\n[]", "d.toml:2: a section"},
      {"[a] x", "d.toml:1: unexpected \"x\""},
      {"[a]\nkey", "d.toml:2: expected key = value"},
      {"[a]\n= 1", "d.toml:2: expected"},
      {"[a]\nk =\n", "d.toml:2: the value is missing"},
      {"[a]\nk = \"x", "d.toml:2: the string is not closed"},
      {"[a]\nk = \"\\q\"", "unknown escape"},
      {"[a]\nk = [1\n", "the array is not closed"},
      {"[a]\nk = [1 2]x", "d.toml:2: unexpected"},
      {"[a]\nk=1\nk=2", "d.toml:3: k was set in line 2 already"},
      {"[a]\nk = \"a\" b", "d.toml:2: unexpected \"b\" after the value"}};
  for (const auto& [text, expected] : cases) {
    INFO(text);
    CHECK_CONTAINS(config_error(text), expected);
  }
}

Result<Settings> merge(std::string_view section, std::string_view file, const Environment& environment,
                       const Words& words) {
  const auto flags = parse_arguments(words, flags_of(section), 0);
  REQUIRE(flags);
  return Settings::merge(section, file, file.empty() ? "" : "d.toml", environment, *flags);
}

TEST_CASE(
    "settings: flags win over the environment, that over the file, that over the default, and each tells its origin") {
  const std::string_view file = "[control]\nrpc_listen = 'f:1'\nform_listen = 'f:2'\nadmin_listen = 'f:3'\n";
  const auto merged =
      merge("control", file, {{"DIRIGENT_CONTROL_FORM_LISTEN", "e:2"}, {"DIRIGENT_CONTROL_ADMIN_LISTEN", "e:3"}},
            {"--admin-listen", "g:3"});
  REQUIRE(merged);
  CHECK((*merged)["rpc_listen"].origin == "d.toml:2");
  CHECK((*merged)["form_listen"].origin == "DIRIGENT_CONTROL_FORM_LISTEN");
  CHECK((*merged)["admin_listen"].origin == "--admin-listen");
  CHECK((*merged)["autoscaler"].origin == "default");
  const auto options = control_options(*merged);
  REQUIRE(options);
  CHECK(options->rpc_listen == "f:1");
  CHECK(options->form_listen == "e:2");
  CHECK(options->admin_listen == "g:3");
}

TEST_CASE("settings: the defaults listen on loopback only and are valid for every role") {
  for (const auto& role : role_names()) {
    INFO(role);
    const auto merged = merge(role, "", {}, {});
    REQUIRE(merged);
    CHECK(check_options(*merged));
    for (const Setting& setting : settings_of(role)) {
      if (setting.value_name == "ADDRESS" && !setting.default_value.empty())
        CHECK(setting.default_value.starts_with("127.0.0.1:"));
    }
  }
  const auto options = control_options(*merge("control", "", {}, {}));
  CHECK(options->policies.image_map.size() == 2);
  CHECK(control_options(*merge("control", "", {}, {"--image-map", "none"}))->policies.image_map.empty());
}

TEST_CASE("settings: a node parks a sandbox for each CPU it offers, within bounds, unless it is told how many") {
  CHECK_FALSE(worker_options(*merge("worker", "", {}, {}))->node.parked_sandboxes);
  CHECK(worker_options(*merge("worker", "", {}, {"--parked-sandboxes", "0"}))->node.parked_sandboxes == 0U);
  CHECK(roles::parked_by_default(Millicpu{500}) == 32);
  CHECK(roles::parked_by_default(Millicpu{64'000}) == 64);
  CHECK(roles::parked_by_default(Millicpu{1'000'000}) == 256);
}

std::string settings_error(std::string_view section, std::string_view file, const Environment& environment,
                           const Words& words) {
  const auto merged = merge(section, file, environment, words);
  if (!merged) return merged.error().message;
  const Status status = check_options(*merged);
  return status ? "no error" : status.error().message;
}

TEST_CASE("settings: unknown names and words stop the start, saying where and what was meant") {
  CHECK_CONTAINS(settings_error("data", "[control]\nautoscalar = 'x'\n", {}, {}),
                 "d.toml:2: unknown key \"autoscalar\" in [control] (did you mean \"autoscaler\"?)");
  CHECK_CONTAINS(settings_error("data", "[contrl]\nx = 1\n", {}, {}),
                 "unknown section [contrl] (did you mean \"control\"?)");
  CHECK_CONTAINS(settings_error("data", "x = 1\n", {}, {}), "stands before the first section");
  CHECK_CONTAINS(settings_error("data", "[data]\nlisten = ['a:1', 'b:1']\n", {}, {}), "takes one value");
  CHECK_CONTAINS(settings_error("data", "", {{"DIRIGENT_DATA_LISTN", "a:1"}}, {}),
                 "unknown environment variable DIRIGENT_DATA_LISTN (did you mean \"DIRIGENT_DATA_LISTEN\"?)");
  CHECK_CONTAINS(settings_error("control", "[control]\nautoscaler = 'knatve'\n", {}, {}),
                 "d.toml:2: control.autoscaler: ");
  CHECK_CONTAINS(settings_error("control", "[control]\nautoscaler = 'knatve'\n", {}, {}), "did you mean \"knative\"?");
  CHECK_CONTAINS(settings_error("control", "", {{"DIRIGENT_CONTROL_PLACEMENT", "x"}}, {}),
                 "DIRIGENT_CONTROL_PLACEMENT: control.placement: ");
  CHECK_CONTAINS(settings_error("data", "", {}, {"--balancer", "knatives"}), "--balancer: ");
  CHECK_CONTAINS(settings_error("data", "", {}, {"--listen", "nowhere"}), "--listen: ");
  CHECK_CONTAINS(settings_error("data", "", {}, {"--shards", "-1"}),
                 "--shards: \"-1\" is not a whole number in 0..256");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--parked-sandboxes", "many"}),
                 "--parked-sandboxes: \"many\" is not a whole number in 0..1000");
  CHECK_CONTAINS(settings_error("data", "", {}, {"--drain-time", "5"}), "not a duration");
  CHECK_CONTAINS(settings_error("data", "[data]\nexpose_timing = maybe\n", {}, {}), "not true or false");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--nodes", "2"}), "needs runtime \"simulated\"");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--runtime", "proces"}), "did you mean \"process\"?");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--label", "x"}), "key=value");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--publish-ports", "9-1"}), "range of ports");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--control", ""}), "at least one address");
  CHECK_CONTAINS(settings_error("dev", "", {}, {"--image-map", "a=builtin:nothing"}), "builtin");
  CHECK_CONTAINS(settings_error("worker", "", {}, {"--simulated-start-p50", "5s"}), "must not be below");
}

std::string body_error(const Words& words) {
  const auto arguments = parse_arguments(words, deploy_flags(), 1);
  REQUIRE(arguments);
  const auto body = deploy_body(
      *arguments, [](const std::string&) -> Result<std::string> { return std::string("# c\nA=1\n\n B = 2\n"); });
  return body ? body->json : body.error().message;
}

TEST_CASE("deploy: flags become the fields of the API") {
  CHECK(body_error({"f", "--image", "builtin:echo"}) == R"({"image":"builtin:echo","name":"f"})");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--scale", "1..5"}), R"("scale_min":1,"scale_max":5)");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--scale", "2.."}), R"("scale_min":2,"name")");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--scale", "..3"}), R"("scale_max":3)");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--scale", "4"}), R"("scale_min":4,"scale_max":4)");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "-p", "h2c:81"}), R"("port":81,"protocol":"h2c")");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "-e", "A=1=2", "--env", "B="}), R"("environment":{"A":"1=2","B":""})");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--timeout", "9s", "--scale-target", "2.5"}),
                 R"("scale_target":2.5,"timeout":"9s")");
  CHECK_CONTAINS(body_error({"f.team", "-i", "x", "--tag", "canary"}), R"("name":"canary--f.team")");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--body-max", "6MiB"}), R"("body_max":"6MiB")");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--no-scale-to-zero"}), R"("scale_to_zero":false)");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--secret", "key=e"}), R"("secrets":{"key":")");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--secret", "key"}), "NAME=FILE");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--env-file", "e"}), R"("environment":{"A":"1","B ":" 2"})");
}

TEST_CASE("deploy: flags that make no sense are told before the server is asked") {
  CHECK_CONTAINS(body_error({"f"}), "needs --image");
  CHECK_CONTAINS(body_error({"--image", "x"}), "needs a name");
  for (const std::string bad : {"x", "5..x", "-1..2", ".."})
    CHECK_CONTAINS(body_error({"f", "-i", "x", "--scale", bad}), "--scale");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "-p", "0"}), "--port");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "-e", "novalue"}), "KEY=VALUE");
  CHECK_CONTAINS(body_error({"f", "-i", "x", "--queue-depth", "many"}), "not a number");
}

TEST_CASE("deploy: flags replace the fields of a file, whichever form the file uses") {
  const auto arguments = parse_arguments(Words{"-f", "x.json", "--memory", "64MiB", "-e", "B=2"}, deploy_flags(), 1);
  const auto body = deploy_body(*arguments, [](const std::string&) -> Result<std::string> {
    return std::string(R"({"name":"n","image":"builtin:echo","memory_bytes":1,"environment":{"A":"1"}})");
  });
  REQUIRE(body);
  CHECK(body->name == "n");
  CHECK(body->json == R"({"name":"n","image":"builtin:echo","environment":{"A":"1","B":"2"},"memory":"64MiB"})");
  const auto broken =
      deploy_body(*arguments, [](const std::string&) -> Result<std::string> { return std::string("[1"); });
  CHECK_FALSE(broken);
}

TEST_CASE("table: columns are as wide as their widest cell, counted in characters") {
  const std::vector<Words> rows{{"NAME", "SCALE"}, {"x", "0..∞"}, {"längeres", ""}};
  CHECK(format_table(rows) == "NAME      SCALE\nx         0..∞\nlängeres\n");
  CHECK(format_age(59s) == "59s");
  CHECK(format_age(3599s) == "59m");
  CHECK(format_age(47h) == "47h");
  CHECK(format_age(49h) == "2d");
  CHECK(format_age(-1s) == "0s");
  CHECK(printable("a\x1b[31m\tb\n") == "a\\x1b[31m\tb\n");
}

TEST_CASE("phases: a Server-Timing header is read whatever its spacing and quotes") {
  const auto phases = parse_server_timing(
      R"(cold;desc="laptop, the \"big\" one", queue;dur=0.5 ,probe ; desc=tries; dur="2", , x;dur=-1, y;dur=z)");
  REQUIRE(phases.size() == 5);
  CHECK(phases[0].description == R"(laptop, the "big" one)");
  CHECK(phases[1].ms == 0.5);
  CHECK(phases[2].name == "probe");
  CHECK(phases[2].ms == 2);
  CHECK(phases[2].description == "tries");
  CHECK(phases[3].ms == 0);
  CHECK(phases[4].ms == 0);
}

TEST_CASE("phases: the bars of a cold start follow each other and add up") {
  const std::string text = draw_phases({{"cold", 0, "laptop"}, {"queue", 1, ""}, {"create", 2, ""}, {"fn", 1, "two"}});
  CHECK_CONTAINS(text, "cold start on laptop");
  CHECK_CONTAINS(text, "total    4.00 ms\n");
  CHECK_CONTAINS(text, "  queue         ███████");
  CHECK_CONTAINS(text, "  function" + std::string(28, ' ') + "████████ ");
  CHECK_CONTAINS(text, "1.00 ms   two\n");
  CHECK_CONTAINS(draw_phases({{"cold", 0, "no"}, {"fn", 0, ""}}), "warm");
  CHECK(draw_phases({{"mine", 3, ""}}).empty());
}

}  // namespace
}  // namespace dirigent::cli
