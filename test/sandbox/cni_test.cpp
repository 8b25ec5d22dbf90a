// SPDX-License-Identifier: MIT
//
// Networks by CNI: the protocol with plugins made of shell, and whole sandboxes with Debian's own plugins.
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "containers.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/network/cni.h"

using namespace dirigent;
using namespace dirigent::sandbox;
using namespace dirigent::sandbox::test;

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

const std::string kRealPlugins = "/usr/lib/cni:/opt/cni/bin";

void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text << std::flush; }

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Plugins "first" and "second", which write down how they were called, and what each answers.
struct ShellPlugins {
  ShellPlugins() {
    fs::create_directories(directory.path + "/bin");
    options.programs = directory.path + "/none:" + directory.path + "/bin";
    options.state_directory = directory.path + "/state";
    answer("first", R"({"cniVersion":"1.0.0","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"x"}],
                        "ips":[{"address":"10.9.0.1/24","interface":0},{"address":"fd00::2/64","interface":1},{"address":"10.9.0.2/24","interface":1}]})");
    answer("second", R"({"cniVersion":"1.0.0","ips":[{"address":"10.9.0.3/24"}],"said":"second"})");
  }
  // Each call adds "PLUGIN COMMAND" to `calls`, its input to PLUGIN.COMMAND and its variables to PLUGIN.environment.
  void answer(const std::string& plugin, const std::string& output, int status = 0) const {
    const std::string path = directory.path + "/bin/" + plugin;
    write_file(
        path,
        fmt::format(
            "#!/bin/sh\ncat > {0}/{1}.$CNI_COMMAND\nenv > {0}/{1}.environment\necho {1} $CNI_COMMAND >> {0}/calls\n"
            "cat <<'EOF'\n{2}\nEOF\nexit {3}\n",
            directory.path, plugin, output, status));
    ::chmod(path.c_str(), 0755);
  }
  void configure(const std::string& text) {
    options.configuration = directory.path + "/net.conflist";
    write_file(options.configuration, text);
  }
  std::string calls() const { return read_file(directory.path + "/calls"); }
  Json input(const std::string& name) const {
    return Json::parse(read_file(directory.path + "/" + name), nullptr, false);
  }

  TemporaryDirectory directory;
  CniOptions options;
};

const char* const kTwo =
    R"({"cniVersion":"1.0.0","name":"two","plugins":[{"type":"first","mtu":1400},{"type":"second"}]})";

// A network namespace without a process, as the runtimes have them.
io::FileDescriptor new_namespace() {
  io::FileDescriptor made;
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) == 0)
      made = io::FileDescriptor(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  }).join();
  return made;
}

std::string path_of(const io::FileDescriptor& fd) { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd.get()); }

std::vector<std::string> files_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) names.push_back(entry.path().filename());
  return names;
}

// Debian's plugins with addresses and a bridge of this test's own.
struct RealPlugins {
  explicit RealPlugins(const std::string& kind) : bridge(fmt::format("dgt{}", ::getpid())) {
    const std::string ipam = fmt::format(
        R"("ipam":{{"type":"host-local","dataDir":"{}/leases","subnet":"198.51.100.0/24","routes":[{{"dst":"0.0.0.0/0"}}]}})",
        directory.path);
    options.programs = kRealPlugins;
    options.state_directory = directory.path + "/state";
    options.configuration = directory.path + "/conf";
    fs::create_directories(options.configuration);
    // The first by name is the one that counts.
    write_file(options.configuration + "/99-other.conf", "no JSON");
    if (kind == "bridge")
      write_file(
          options.configuration + "/10-net.conflist",
          fmt::format(
              R"({{"cniVersion":"1.0.0","name":"tested","plugins":[{{"type":"bridge","bridge":"{}","isGateway":true,{}}},{{"type":"tuning"}}]}})",
              bridge, ipam));
    else
      write_file(options.configuration + "/10-net.conf",
                 fmt::format(R"({{"cniVersion":"0.4.0","name":"tested","type":"ptp",{}}})", ipam));
  }
  ~RealPlugins() {
    if (::if_nametoindex(bridge.c_str()) != 0) CHECK(::system(("ip link delete " + bridge).c_str()) == 0);
  }
  // Addresses that host-local has given away.
  std::vector<std::string> leases() const {
    auto names = files_in(directory.path + "/leases/tested");
    std::erase_if(names, [](const std::string& name) { return !name.starts_with("198."); });
    return names;
  }
  TemporaryDirectory directory;
  std::string bridge;
  CniOptions options;
};

bool has_real_plugins() {
  if (is_root() && ::access("/usr/lib/cni/bridge", X_OK) == 0) return true;
  WARN("skipped: CNI with real plugins needs root and containernetworking-plugins");
  return false;
}

}  // namespace

TEST_CASE("cni: plugins are run in order with the result of the one before, and backwards to take back") {
  ShellPlugins plugins;
  plugins.configure(kTwo);
  auto network = CniNetwork::open(plugins.options, "n1");
  REQUIRE(network);
  const std::string attachment = (*network)->new_attachment();
  auto address = (*network)->add(attachment, "/some/namespace");
  REQUIRE(address);
  CHECK(*address == "10.9.0.3");
  CHECK((*network)->attachments() == std::vector<std::string>{attachment});
  REQUIRE((*network)->check(attachment, "/some/namespace"));
  REQUIRE((*network)->remove(attachment, "/some/namespace"));
  CHECK(plugins.calls() == "first ADD\nsecond ADD\nfirst CHECK\nsecond CHECK\nsecond DEL\nfirst DEL\n");
  CHECK((*network)->attachments().empty());

  const Json first = plugins.input("first.ADD");
  CHECK(first["name"] == "two");
  CHECK(first["cniVersion"] == "1.0.0");
  CHECK(first["mtu"] == 1400);
  CHECK_FALSE(first.contains("prevResult"));
  CHECK(plugins.input("second.ADD")["prevResult"]["ips"][0]["address"] == "10.9.0.1/24");
  // What is looked at and taken back is the end of the chain.
  for (const char* input : {"first.CHECK", "second.CHECK", "first.DEL", "second.DEL"})
    CHECK(plugins.input(input)["prevResult"]["said"] == "second");
  const std::string variables = plugins.calls().empty() ? "" : read_file(plugins.directory.path + "/first.environment");
  for (const std::string& variable :
       {"CNI_CONTAINERID=" + attachment, std::string("CNI_NETNS=/some/namespace"), std::string("CNI_IFNAME=eth0"),
        "CNI_PATH=" + plugins.options.programs, std::string("CNI_COMMAND=DEL")})
    CHECK(variables.find(variable + "\n") != std::string::npos);
}

TEST_CASE("cni: the address is the first of IPv4 that belongs to an interface inside the sandbox") {
  ShellPlugins plugins;
  plugins.configure(R"({"cniVersion":"0.4.0","name":"one","plugins":[{"type":"first"}]})");
  auto network = CniNetwork::open(plugins.options, "n1");
  REQUIRE(network);
  auto address = (*network)->add("a-1", "/some/namespace");
  REQUIRE(address);
  CHECK(*address == "10.9.0.2");

  plugins.answer("first", R"({"cniVersion":"0.4.0","ips":[{"version":"6","address":"fd00::2/64"}]})");
  address = (*network)->add("a-2", "/some/namespace");
  REQUIRE_FALSE(address);
  CHECK(address.error().message.find("no IPv4 address") != std::string::npos);
  // It was taken back.
  CHECK((*network)->attachments() == std::vector<std::string>{"a-1"});
}

TEST_CASE("cni: when a plugin fails its words are told, and what was made before is taken back") {
  ShellPlugins plugins;
  plugins.configure(kTwo);
  plugins.answer("second", R"({"cniVersion":"1.0.0","code":11,"msg":"try again later","details":"no free port"})", 1);
  auto network = CniNetwork::open(plugins.options, "n1");
  REQUIRE(network);
  auto address = (*network)->add("a", "/some/namespace");
  REQUIRE_FALSE(address);
  CHECK(address.error().message.find("second failed at ADD: try again later: no free port (code 11)") !=
        std::string::npos);
  CHECK(plugins.calls() == "first ADD\nsecond ADD\nsecond DEL\nfirst DEL\n");
  // The second cannot take back either, so that is tried again in another life of the node.
  CHECK((*network)->attachments() == std::vector<std::string>{"a"});
  plugins.answer("second", "");
  auto next = CniNetwork::open(plugins.options, "n1");
  REQUIRE(next);
  REQUIRE((*next)->remove("a", ""));
  CHECK((*next)->attachments().empty());
}

TEST_CASE("cni: a configuration that cannot be used is refused with what is wrong with it") {
  ShellPlugins plugins;
  const auto refused = [&](const std::string& text) {
    plugins.configure(text);
    auto network = CniNetwork::open(plugins.options, "n1");
    return network ? "" : network.error().message;
  };
  CHECK(refused("{").find("no JSON object") != std::string::npos);
  CHECK(refused(R"({"cniVersion":"0.2.0","name":"x","type":"first"})").find("cniVersion") != std::string::npos);
  CHECK(refused(R"({"cniVersion":"1.0.0","type":"first"})").find("no name") != std::string::npos);
  CHECK(refused(R"({"cniVersion":"1.0.0","name":"x","plugins":[]})").find("no plugins") != std::string::npos);
  CHECK(refused(R"({"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../first"}]})").find("no file name") !=
        std::string::npos);
  CHECK(refused(R"({"cniVersion":"1.0.0","name":"x","type":"third"})").find("no CNI plugin third") !=
        std::string::npos);
  plugins.options.configuration = plugins.directory.path + "/bin";
  auto none = CniNetwork::open(plugins.options, "n1");
  REQUIRE_FALSE(none);
  CHECK(none.error().message.find("no CNI configuration") != std::string::npos);
}

TEST_CASE("cni: Debian's plugins connect a namespace, see when it has changed, and take it back") {
  if (!has_real_plugins()) return;
  const auto kind = GENERATE(as<std::string>{}, "bridge", "ptp");
  CAPTURE(kind);
  const RealPlugins plugins(kind);
  auto network = CniNetwork::open(plugins.options, "n1");
  REQUIRE(network);
  auto made = new_namespace();
  REQUIRE(made.is_open());
  auto address = (*network)->add("real", path_of(made));
  if (!address) FAIL(address.error().message);
  CHECK(address->starts_with("198.51.100."));
  CHECK(plugins.leases() == std::vector<std::string>{*address});
  Status same = (*network)->check("real", path_of(made));
  CHECK((same ? "" : same.error().message) == "");
  std::thread([&] {
    CHECK(::setns(made.get(), CLONE_NEWNET) == 0);
    CHECK(::system("ip addr flush dev eth0") == 0);
  }).join();
  CHECK_FALSE((*network)->check("real", path_of(made)));
  // The namespace need not be there any more.
  made.reset();
  REQUIRE((*network)->remove("real", ""));
  CHECK(plugins.leases().empty());
  CHECK((*network)->attachments().empty());
}

TEST_CASE("cni: sandboxes serve on addresses that plugins gave them, and leave none behind") {
  if (!has_real_plugins()) return;
  const auto name = GENERATE(as<std::string>{}, "oci with crun", "containerd with runc");
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  const RealPlugins plugins("bridge");
  // As of a node whose worker and host have ended with an attachment.
  const std::string node = container_options("cni").node.value;
  {
    auto earlier = CniNetwork::open(plugins.options, node);
    REQUIRE(earlier);
    const auto gone = new_namespace();
    REQUIRE((*earlier)->add("of-an-earlier-life", path_of(gone)));
    REQUIRE(plugins.leases().size() == 1);
  }
  Harness harness;
  {
    const auto change = [&](ContainerOptions& options) { options.cni = plugins.options; };
    OpenRuntime open(harness, make_container_runtime(name, harness, "cni", change));
    StartSandbox order = order_for("builtin:hello");
    auto launched = open.launch(order);
    if (!launched) FAIL(launched.error().message);
    CHECK(launched->address.direct.starts_with("198.51.100."));
    const auto answers = [&] {
      auto answered = harness.run(open.runtime->probe(order.id, "/", 1s));
      return answered && *answered;
    };
    REQUIRE(harness.until(answers));
    CHECK(get(harness, launched->address.direct, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").find("hello from") !=
          std::string::npos);
    // Two are ready besides, and the earlier life's is gone.
    CHECK(harness.until([&] {
      const auto attached = files_in(plugins.options.state_directory + "/" + node);
      return attached.size() == 3 && plugins.leases().size() == 3 &&
             std::find(attached.begin(), attached.end(), "of-an-earlier-life.json") == attached.end();
    }));
    REQUIRE(harness.run(open.runtime->remove(order.id, Duration::zero())));
    CHECK(harness.until([&] { return plugins.leases().size() == 2; }));
  }
  CHECK(plugins.leases().empty());
  CHECK(files_in(plugins.options.state_directory + "/" + node).empty());
}
