// SPDX-License-Identifier: MIT
#include "cli/ctl/prefetch.h"

#include <algorithm>
#include <thread>

#include "cli/ctl/views.h"
#include "dirigent/base/text.h"
#include "dirigent/io/loop.h"
#include "dirigent/model/ids.h"

namespace dirigent::cli {

namespace {

constexpr Duration kPollInterval = 100ms;
constexpr int kTimedOut = 6;

// The image of the function of this name, else the word itself.
Outcome<std::string> image_of(VerbContext& context, const std::string& word) {
  const auto name = parse_function_name(word);
  if (!name) return word;
  auto body = context.client.call("GET", "/v1/functions/" + name->value);
  if (!body) return body.error().error.code == ErrorCode::not_found ? Outcome<std::string>(word) : tl::unexpected(body.error());
  auto function = read_function(*body);
  if (!function) return tl::unexpected(failure_of(function.error()));
  return function->spec.image;
}

int prefetch(VerbContext& context) {
  auto patience = parse_duration(context.arguments.value("wait-timeout").value_or("10m"));
  if (!patience) return context.misused(patience.error().within("--wait-timeout").message);
  auto image = image_of(context, context.word(0));
  if (!image) return context.fail(image.error());
  return prefetch_image(context, *image, context.arguments.value("node").value_or(""), *patience);
}

}  // namespace

int prefetch_image(VerbContext& context, const std::string& image, const std::string& node, Duration patience) {
  const std::string body = fmt::format("{{\"image\": {}, \"node\": {}}}", quoted_json(image), node.empty() ? "null" : quoted_json(node));
  auto asked = context.client.call("POST", "/v1/prefetch", body);
  if (!asked) return context.fail(asked.error());
  auto waiting = read_names(*asked);
  if (!waiting) return context.fail(waiting.error());
  const Instant deadline = io::Loop::now() + patience;
  int failed = 0;
  for (;;) {
    auto answer = context.client.call("GET", "/v1/nodes");
    if (!answer) return context.fail(answer.error());
    auto nodes = read_nodes(*answer);
    if (!nodes) return context.fail(nodes.error());
    std::erase_if(*waiting, [&](const std::string& name) {
      const auto found = std::find_if(nodes->begin(), nodes->end(), [&](const NodeRow& row) { return row.name == name; });
      if (found == nodes->end()) {
        context.terminal.talk("{}: the node has left\n", name);
        ++failed;
        return true;
      }
      if (std::find(found->images.begin(), found->images.end(), image) != found->images.end()) {
        if (!context.quiet) context.terminal.talk("{} has {}\n", name, image);
        return true;
      }
      const auto why = found->failed_prefetches.find(image);
      if (why == found->failed_prefetches.end()) return false;
      context.terminal.talk("{}: {}\n", name, printable(why->second));
      ++failed;
      return true;
    });
    if (waiting->empty()) return failed == 0 ? 0 : 1;
    if (io::Loop::now() > deadline) {
      context.terminal.talk("{} nodes are still at it after {}; the order stands\n", waiting->size(), format_duration(patience));
      return kTimedOut;
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

std::vector<Verb> prefetch_verbs() {
  return {{"prefetch", {}, "NAME|IMAGE", 1, 1, "get an image, or a function's, to the nodes ahead of time",
           {{"node", 0, "NODE", "this node only [all that take new sandboxes]"},
            {"wait-timeout", 0, "DURATION", "longest wait for the nodes [10m]"}},
           WordKind::function, prefetch}};
}

}  // namespace dirigent::cli
