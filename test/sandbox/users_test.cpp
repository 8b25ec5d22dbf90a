// SPDX-License-Identifier: MIT
//
// Whom a function runs as, and the secrets that only it can read.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "containers.h"
#include "dirigent/base/text.h"
#include "image_builder.h"
#include "sandbox/images/users.h"
#include "sandbox/oci/spec.h"

namespace dirigent::sandbox::test {

namespace {

constexpr const char* kPasswd =
    "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nfar:x:65532:65532::/:/bin/false\nodd:x:one:2::/:\n";
constexpr const char* kGroup = "root:x:0:\nstaff:x:50:app,other\ndisk:x:6:other\nvideo:x:44:other,app\nlate:x:70000:\n";

TestImage image_with_users() {
  TestImage image = probe_test_image();
  image.layers.push_back(TarWriter().add('0', "etc/passwd", kPasswd).add('0', "etc/group", kGroup).ended());
  return image;
}

StoredImage stored(const TemporaryDirectory& directory, const std::vector<std::string>& layers) {
  StoredImage image;
  for (const auto& layer : layers) image.layers.push_back(directory.path + "/" + layer);
  return image;
}

void write(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

}  // namespace

TEST_CASE("users: names and numbers are looked up in the image") {
  TemporaryDirectory directory;
  write(directory.path + "/low/etc/passwd", kPasswd);
  write(directory.path + "/low/etc/group", kGroup);
  std::filesystem::create_directories(directory.path + "/high/etc");
  const StoredImage image = stored(directory, {"high", "low"});
  struct Case {
    const char* user;
    std::uint32_t uid, gid;
    std::vector<std::uint32_t> groups;
    const char* home;
  };
  const Case cases[] = {{"", 0, 0, {}, "/root"},      {"app", 1000, 1001, {50, 44}, "/home/app"}, {"1000", 1000, 1001, {50, 44}, "/home/app"},
                        {"app:staff", 1000, 50, {}, "/home/app"}, {"app:7", 1000, 7, {}, "/home/app"}, {"4321", 4321, 0, {}, ""},
                        {"4321:video", 4321, 44, {}, ""}, {"far", 65532, 65532, {}, "/"}};
  for (const auto& one : cases) {
    CAPTURE(one.user);
    const auto found = resolve_user(image, one.user);
    REQUIRE(found.has_value());
    CHECK(found->uid == one.uid);
    CHECK(found->gid == one.gid);
    CHECK(found->groups == one.groups);
    CHECK(found->home == one.home);
  }
  CHECK(resolve_user(image, "nobody-has-it").error().code == ErrorCode::not_found);
  CHECK(resolve_user(image, "app:nobody-has-it").error().code == ErrorCode::not_found);
  CHECK(resolve_user(image, "odd").error().code == ErrorCode::corrupt);
  CHECK(resolve_user(image, "4294967296").error().code == ErrorCode::not_found);
  CHECK(resolve_user(image, "-1").error().code == ErrorCode::not_found);
}

TEST_CASE("users: a link in an image leads to no file of the host, and what a layer hides is not there") {
  TemporaryDirectory directory;
  write(directory.path + "/low/etc/passwd", kPasswd);
  std::filesystem::create_directories(directory.path + "/link/etc");
  std::filesystem::create_symlink("/etc/passwd", directory.path + "/outside");
  std::filesystem::create_symlink("../../../../../../../../etc/hostname", directory.path + "/link/etc/passwd");
  CHECK(resolve_user(stored(directory, {"link", "low"}), "app").error().code == ErrorCode::not_found);
  NEEDS_ROOT();
  std::filesystem::create_directories(directory.path + "/hiding/etc");
  REQUIRE(::mknod((directory.path + "/hiding/etc/passwd").c_str(), S_IFCHR, 0) == 0);
  CHECK(resolve_user(stored(directory, {"hiding", "low"}), "app").error().code == ErrorCode::not_found);
  CHECK(resolve_user(stored(directory, {"low"}), "app").has_value());
}

TEST_CASE("users: a sandbox's ids are its own on the host, high ones too") {
  ContainerSpec spec;
  spec.id_base = 0x40000000;
  CHECK(host_uid(spec) == 0x40000000);
  spec.uid = 1000;
  spec.gid = 65532;
  spec.groups = {70000, 65534};
  CHECK(host_uid(spec) == 0x40000000 + 1000);
  CHECK(host_gid(spec) >= 0x40000000 + 4000);
  CHECK(host_gid(spec) < 0x40000000 + kIdsOfSandbox);
  spec.id_base = 0;
  CHECK(host_uid(spec) == 1000);
}

TEST_CASE("container: the image's user is who the function is, and the function's own setting goes first") {
  const std::string name = GENERATE("oci with crun", "oci with runc", "containerd with runc", "containerd with crun");
  const bool with_namespace = GENERATE(false, true);
  CAPTURE(name, with_namespace);
  if (!can_run_containers(name)) return;
  TemporaryDirectory directory;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "user", [&](auto& options) { options.user_namespaces = with_namespace; }));
  TestImage image = image_with_users();
  image.user = "app";
  const std::string path = "tar:" + image.oci_archive().write(directory);
  auto of_image = order_for(path, {"report"});
  open.launch_to_end(of_image);
  CHECK(open.output(of_image.id).starts_with("uid 1000 gid 1001 pid 1 "));
  CHECK(open.output(of_image.id).find("env HOME=/home/app\n") != std::string::npos);
  auto groups = order_for(path, {"groups"});
  open.launch_to_end(groups);
  CHECK(open.output(groups.id) == "groups 44 50\n");
  auto chosen = order_for(path, {"report"});
  chosen.spec.user = "far:late";
  open.launch_to_end(chosen);
  CHECK(open.output(chosen.id).starts_with("uid 65532 gid 70000 "));
  auto root = order_for(path, {"report"});
  root.spec.user = "root";
  open.launch_to_end(root);
  // Root of its own ids, or nobody else's id.
  const std::string output = open.output(root.id);
  unsigned uid = 0, gid = 0;
  REQUIRE(std::sscanf(output.c_str(), "uid %u gid %u ", &uid, &gid) == 2);
  CHECK(uid == gid);
  if (with_namespace) CHECK(uid == 0);
  else CHECK(uid >= 200'000);
  CHECK(output.find("status CapEff:\t0000000000000000") != std::string::npos);
  auto wrong = order_for(path, {"report"});
  wrong.spec.user = "stranger";
  const auto launched = open.launch(wrong);
  REQUIRE_FALSE(launched.has_value());
  CHECK(launched.error().message.find("no user \"stranger\"") != std::string::npos);
}

TEST_CASE("container: with user namespaces every attempt is still refused, and two sandboxes share no id of the host") {
  const std::string name = GENERATE("oci with crun", "oci with runc", "containerd with runc", "containerd with crun");
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  Harness harness;
  OpenRuntime open(harness, make_container_runtime(name, harness, "ids", [](auto& options) { options.user_namespaces = true; }));
  auto attempts = order_for(probe_container_image(), {"attempts"});
  attempts.spec.user = "1000";  // one of the attempts is to become root
  open.launch_to_end(attempts);
  const std::string output = open.output(attempts.id);
  CAPTURE(output);
  CHECK(output.find("ALLOWED") == std::string::npos);
  CHECK(output.find("tmp writable\n") != std::string::npos);
  auto maps = order_for(probe_container_image(), {"read", "/proc/self/uid_map"});
  auto others = order_for(probe_container_image(), {"read", "/proc/self/uid_map"});
  open.launch_to_end(maps);
  open.launch_to_end(others);
  unsigned long inside = 1, host = 0;
  const std::string map = open.output(maps.id);
  REQUIRE(std::sscanf(map.c_str(), "/proc/self/uid_map \" %lu %lu", &inside, &host) == 2);
  CHECK(inside == 0);
  CHECK(host >= 0x40000000);
  CHECK(open.output(maps.id) != open.output(others.id));
  auto serving = order_for("builtin:hello");
  REQUIRE(open.launch(serving).has_value());
  CHECK(harness.until([&] { return harness.run(open.runtime->probe(serving.id, "/", 1s)).value_or(false); }));
}

TEST_CASE("secrets: they are files that only the function reads, and nothing of them stays") {
  NEEDS_ROOT();
  const std::string name = GENERATE("process", "oci with crun", "oci with runc", "containerd with runc", "containerd with crun");
  const bool with_namespace = GENERATE(false, true);
  CAPTURE(name, with_namespace);
  if (!can_run_containers(name)) return;
  if (name == "process" && with_namespace) return;
  const NodeId node = container_options("secrets").node;
  {
    Harness harness;
    auto runtime = make_container_runtime(name, harness, "secrets", [&](auto& options) { options.user_namespaces = with_namespace; });
    if (!runtime) {
      auto options = process_options("secrets");
      options.images.directory = container_options("secrets").images.directory;
      runtime = make_process_runtime(harness.loop, options);
    }
    OpenRuntime open(harness, std::move(runtime));
    auto order = order_for(probe_container_image(), {"read", "/run/secrets/key.pem", "/run/secrets/empty", "/run/secrets/none"});
    order.spec.secrets = {{"key.pem", encode_base64("open sesame")}, {"empty", ""}};
    open.launch_to_end(order);
    CHECK(open.output(order.id) ==
          "/run/secrets/key.pem \"open sesame\" mode 400 own 1\n/run/secrets/empty \"\" mode 400 own 1\n/run/secrets/none errno 2\n");
    auto listing = order_for(probe_container_image(), {"list", "/run/secrets"});
    open.launch_to_end(listing);
    CHECK(open.output(listing.id).find("key.pem") == std::string::npos);
    if (name == "process") {
      auto executed = order_for(probe_image() + " read /run/secrets/key.pem");
      executed.spec.secrets = order.spec.secrets;
      open.launch_to_end(executed);
      CHECK(open.output(executed.id) == "/run/secrets/key.pem \"open sesame\" mode 400 own 1\n");
    }
  }
  CHECK(leftovers(node.value) == std::vector<std::string>{});
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(container_options("secrets").run_directory, none))
    CHECK(entry.path().string().find(node.value) == std::string::npos);
}

}  // namespace dirigent::sandbox::test
