// SPDX-License-Identifier: MIT
//
// `dirigent ctl delete` and `dirigent ctl scale`.
#include "cli/ctl/verb.h"
#include "cli/ctl/views.h"
#include "dirigent/base/text.h"

namespace dirigent::cli {

namespace {

int remove(VerbContext& context) {
  for (const auto& name : context.arguments.words()) {
    auto path = context.function_path(name);
    if (!path) return context.fail(path.error());
    if (auto done = context.client.call("DELETE", *path); !done) return context.fail(done.error());
    if (context.output == Output::name) {
      context.terminal.print("{}\n", name);
    } else if (!context.quiet) {
      context.terminal.talk("{} deleted\n", name);
    }
  }
  return 0;
}

int scale(VerbContext& context) {
  const bool automatic = context.arguments.is_on("auto");
  if (automatic == (context.arguments.words().size() == 2))
    return context.misused("scale needs a number or --auto: dirigent ctl scale NAME N");
  std::string wanted = "null";
  if (!automatic) {
    const auto number = parse_integer(context.word(1));
    if (!number || *number < 0 || *number > 1'000'000) {
      return context.misused(fmt::format("\"{}\" is not a number of sandboxes in 0..1000000", context.word(1)));
    }
    wanted = fmt::format("{}", *number);
  }
  auto path = context.function_path(context.word(0));
  if (!path) return context.fail(path.error());
  auto body = context.client.call("POST", *path + "/scale", fmt::format("{{\"scale\":{}}}", wanted));
  if (!body) return context.fail(body.error());
  if (context.output == Output::json) {
    context.terminal.write(pretty_json(*body));
    return 0;
  }
  auto function = read_function(*body);
  if (!function) return context.fail(function.error());
  if (context.quiet) return 0;
  if (automatic) {
    context.terminal.talk("{} is scaled by its autoscaler again, {} wanted now\n", function->name, function->wanted);
  } else if (wanted == "0") {
    context.terminal.talk("{} is scaled to zero; the next request starts a sandbox\n", function->name);
  } else {
    context.terminal.talk("{} is kept at {}, {} ready now\n", function->name, wanted, function->ready);
    context.next(fmt::format("dirigent ctl scale {} --auto  gives it back to the autoscaler", function->name));
  }
  return 0;
}

}  // namespace

std::vector<Verb> change_verbs() {
  return {
      {"delete", {"rm"}, "NAME...", 1, 1000, "remove functions and their sandboxes", {}, WordKind::function, remove},
      {"scale", {}, "NAME N|--auto", 1, 2, "fix the number of sandboxes, or free it again",
       {{"auto", 0, "", "let the autoscaler decide again"}}, WordKind::function, scale},
  };
}

}  // namespace dirigent::cli
