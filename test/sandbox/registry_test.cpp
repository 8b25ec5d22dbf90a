// SPDX-License-Identifier: MIT
//
// Pulling from a real registry (Debian's docker-registry) that this test starts on loopback and fills by hand.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "containers.h"
#include "dirigent/base/text.h"
#include "image_builder.h"
#include "sandbox/images/sha256.h"
#include "sandbox/images/store.h"
#include "sandbox/oci/launcher.h"
#include "sandbox/oci/oci_engine.h"

namespace dirigent::sandbox::test {

namespace {

namespace fs = std::filesystem;

// "user:secret", hashed for the registry and as Docker keeps it.
constexpr const char* kHashed = "user:$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";
constexpr const char* kEncoded = "dXNlcjpzZWNyZXQ=";

void write(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

class TestRegistry {
 public:
  explicit TestRegistry(bool with_password) {
    std::string config = "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: " + directory_.path +
                         "/storage\nhttp:\n  addr: 127.0.0.1:0\n";
    if (with_password) {
      write(directory_.path + "/htpasswd", kHashed);
      config += "auth:\n  htpasswd:\n    realm: test\n    path: " + directory_.path + "/htpasswd\n";
    }
    write(directory_.path + "/config.yml", config);
    const std::string log = directory_.path + "/log";
    const io::FileDescriptor out(::open(log.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    Command command;
    command.arguments = {find_in_path("setpriv"), "--pdeathsig", "KILL", find_in_path("docker-registry"), "serve",
                         directory_.path + "/config.yml"};
    command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + directory_.path, "OTEL_TRACES_EXPORTER=none"};
    command.output = out.get();
    command.errors = out.get();
    auto pid = launch_program(command);
    if (!pid) throw std::runtime_error(pid.error().message);
    pid_ = *pid;
    const Instant end = io::Loop::now() + 20s;
    while (address_.empty()) {
      const std::string text = file_content(log);
      constexpr std::string_view kMark = "listening on ";
      const auto at = text.find(kMark);
      const auto stop = text.find_first_of("\" \n", at == std::string::npos ? 0 : at + kMark.size());
      if (at != std::string::npos && stop != std::string::npos) address_ = text.substr(at + kMark.size(), stop - at - kMark.size());
      if (io::Loop::now() > end) throw std::runtime_error("the registry did not come up: " + text);
      std::this_thread::sleep_for(2ms);
    }
  }
  ~TestRegistry() { stop(); }
  void stop() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  // Stores the image under NAME:TAG, in the registry's own layout; returns the reference.
  std::string add(const TestImage& image, const std::string& name, const std::string& tag) const {
    const auto blobs = image.blobs();
    const std::string repository = directory_.path + "/storage/docker/registry/v2/repositories/" + name;
    const auto store = [&](const std::string& digest, const std::string& bytes) {
      write(blob_path(digest), bytes);
      write(repository + "/_layers/sha256/" + digest.substr(7) + "/link", digest);
    };
    for (const auto& [digest, bytes] : blobs.layers) store(digest, bytes);
    store(blobs.config_digest, blobs.config);
    write(blob_path(blobs.manifest_digest), blobs.manifest);
    const std::string manifests = repository + "/_manifests";
    write(manifests + "/revisions/sha256/" + blobs.manifest_digest.substr(7) + "/link", blobs.manifest_digest);
    write(manifests + "/tags/" + tag + "/current/link", blobs.manifest_digest);
    write(manifests + "/tags/" + tag + "/index/sha256/" + blobs.manifest_digest.substr(7) + "/link", blobs.manifest_digest);
    return address_ + "/" + name + ":" + tag;
  }
  [[nodiscard]] std::string blob_path(const std::string& digest) const {
    return directory_.path + "/storage/docker/registry/v2/blobs/sha256/" + digest.substr(7, 2) + "/" + digest.substr(7) + "/data";
  }
  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  TemporaryDirectory directory_;
  pid_t pid_ = -1;
  std::string address_;
};

bool has_registry() {
  if (!find_in_path("docker-registry").empty()) return true;
  WARN("skipped: pulling needs docker-registry");
  return false;
}

ImageOptions options_in(const TemporaryDirectory& directory, PullPolicy pull = PullPolicy::missing) {
  ImageOptions options;
  options.directory = directory.path + "/store";
  options.auth_file = directory.path + "/auth.json";
  options.pull = pull;
  return options;
}

TestImage image_with(const std::string& content) {
  TestImage image;
  image.layers = {TarWriter().add('0', "file", content).ended()};
  image.command = {"/file"};
  return image;
}

std::string content_of(const Result<ImageLease>& lease) {
  return lease ? file_content((*lease)->layers.front() + "/file") : lease.error().message;
}

}  // namespace

TEST_CASE("registry: an image is pulled once, and is there without the registry afterwards") {
  if (!has_registry()) return;
  TemporaryDirectory directory;
  TestRegistry registry(false);
  const std::string reference = registry.add(image_with("pulled"), "team/thing", "1");
  CHECK(content_of(ImageStore(options_in(directory)).pull(reference)) == "pulled");
  registry.stop();
  // Another worker's life, and one that must not ask.
  CHECK(content_of(ImageStore(options_in(directory)).pull(reference)) == "pulled");
  CHECK(content_of(ImageStore(options_in(directory, PullPolicy::never)).pull(reference)) == "pulled");
  const auto asked = ImageStore(options_in(directory, PullPolicy::always)).pull(reference);
  REQUIRE_FALSE(asked.has_value());
  CHECK(asked.error().code == ErrorCode::unavailable);
  CHECK(asked.error().message.find(reference) != std::string::npos);
  TemporaryDirectory empty;
  const auto refused = ImageStore(options_in(empty, PullPolicy::never)).pull(reference);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::not_found);
}

TEST_CASE("registry: a tag that moves is followed by always and not by missing; a digest stays") {
  if (!has_registry()) return;
  TemporaryDirectory directory;
  TestRegistry registry(false);
  const TestImage old_image = image_with("old");
  const std::string reference = registry.add(old_image, "thing", "latest");
  ImageStore missing(options_in(directory));
  CHECK(content_of(missing.pull(reference)) == "old");
  registry.add(image_with("new"), "thing", "latest");
  CHECK(content_of(missing.pull(reference)) == "old");
  CHECK(content_of(ImageStore(options_in(directory, PullPolicy::always)).pull(reference)) == "new");
  CHECK(content_of(missing.pull(registry.address() + "/thing@" + old_image.blobs().manifest_digest)) == "old");
}

TEST_CASE("registry: the digest that a revision has had from its first start goes before what the tag stands for") {
  if (!has_registry()) return;
  TemporaryDirectory first;
  TemporaryDirectory second;
  TestRegistry registry(false);
  const std::string reference = registry.add(image_with("old"), "thing", "latest");
  const auto pulled = ImageStore(options_in(first)).pull(reference);
  REQUIRE(pulled.has_value());
  const std::string digest = (*pulled)->digest;
  registry.add(image_with("new"), "thing", "latest");
  // Another node, which has never seen the old one.
  ImageStore other(options_in(second));
  CHECK(content_of(other.pull(reference, digest)) == "old");
  CHECK(other.find(reference, digest) != nullptr);
  CHECK(content_of(ImageStore(options_in(second, PullPolicy::never)).pull(reference, digest)) == "old");
  // Whoever always asks is told what the tag stands for now.
  ImageStore always(options_in(second, PullPolicy::always));
  CHECK(content_of(always.pull(reference, digest)) == "new");
  // A node that had another one gets the right one, too.
  ImageStore moved(options_in(second));
  CHECK(content_of(moved.pull(reference)) == "new");
  CHECK(moved.find(reference, digest) == nullptr);
  CHECK(content_of(moved.pull(reference, digest)) == "old");
}

TEST_CASE("registry: a store knows what it has by the names that were used, until its layers are removed") {
  if (!has_registry()) return;
  TemporaryDirectory directory;
  TestRegistry registry(false);
  const std::string reference = registry.add(image_with("named"), "team/thing", "1");
  const std::string archive = image_with("packed").oci_archive().write(directory);
  CHECK(ImageStore(options_in(directory)).names().empty());
  {
    ImageStore store(options_in(directory));
    REQUIRE(store.pull(reference).has_value());
    REQUIRE(store.tar(archive).has_value());
    CHECK(store.names() == std::vector<std::string>{reference, "tar:" + archive});
  }
  ImageStore another(options_in(directory));
  CHECK(another.names() == std::vector<std::string>{reference});
  another.collect(Bytes{0});
  CHECK(another.names().empty());
}

TEST_CASE("registry: credentials are asked for, checked and used") {
  if (!has_registry()) return;
  TemporaryDirectory directory;
  TestRegistry registry(true);
  const std::string reference = registry.add(image_with("secret"), "private/thing", "1");
  const auto pull = [&] { return ImageStore(options_in(directory)).pull(reference); };
  const auto auth = [&](const std::string& encoded) {
    write(directory.path + "/auth.json", R"({"auths":{")" + registry.address() + R"(":{"auth":")" + encoded + R"("}}})");
  };
  auto refused = pull();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::permission_denied);
  CHECK(refused.error().message.find("auth.json") != std::string::npos);
  auth("dXNlcjp3cm9uZw==");
  refused = pull();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::permission_denied);
  CHECK(refused.error().message.find("does not accept") != std::string::npos);
  auth(kEncoded);
  CHECK(content_of(pull()) == "secret");
}

TEST_CASE("registry: what is not there, and what is not what it says, is refused") {
  if (!has_registry()) return;
  TemporaryDirectory directory;
  TestRegistry registry(false);
  ImageStore store(options_in(directory));
  const auto missing = store.pull(registry.address() + "/no/such:1");
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().code == ErrorCode::not_found);
  const TestImage image = image_with("forged");
  const std::string reference = registry.add(image, "forged", "1");
  write(registry.blob_path(image.blobs().layers[0].first), gzip(TarWriter().add('0', "file", "other!").ended()));
  const auto forged = store.pull(reference);
  REQUIRE_FALSE(forged.has_value());
  CHECK(forged.error().message.find("forged:1") != std::string::npos);
  for (const auto& entry : fs::directory_iterator(directory.path + "/store/layers"))
    CHECK(entry.path().filename().string().find("partial") == std::string::npos);
}

TEST_CASE("registry: every runtime with images runs a pulled one") {
  NEEDS_ROOT();
  if (!has_registry()) return;
  const std::string name = GENERATE("process", "oci with crun", "containerd with runc");
  CAPTURE(name);
  if (!can_run_containers(name)) return;
  TemporaryDirectory directory;
  TestRegistry registry(false);
  const std::string reference = registry.add(probe_test_image(), "probe", "1");
  Harness harness;
  auto process = process_options("pulled");
  process.images = options_in(directory);
  auto runtime = make_container_runtime(name, harness, "pulled", [&](auto& options) { options.images = options_in(directory); });
  OpenRuntime open(harness, runtime ? std::move(runtime) : make_process_runtime(harness.loop, process));
  CHECK(harness.run(open.runtime->images()).value().empty());
  CHECK(harness.run(open.runtime->prefetch(reference)).has_value());
  CHECK(harness.run(open.runtime->images()).value() == std::vector<std::string>{reference});
  CHECK(harness.run(open.runtime->prefetch("127.0.0.1:1/no/such:1")).error().code == ErrorCode::unavailable);
  // It is here: the registry is not needed any more.
  registry.stop();
  auto order = order_for(reference, {"exit", "4"});
  CHECK(open.launch_to_end(order).exit_code == 4);
  const auto launched = open.launch(order_for(reference, {"stubborn"}));
  REQUIRE(launched.has_value());
  CHECK(launched->image_digest == probe_test_image().blobs().manifest_digest);
}

}  // namespace dirigent::sandbox::test
