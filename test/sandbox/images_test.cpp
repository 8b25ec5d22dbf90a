// SPDX-License-Identifier: MIT
//
// The image store: archives of every kind, layers on top of each other, what is shared, kept and removed.
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "image_builder.h"
#include "sandbox/images/reference.h"
#include "sandbox/images/sha256.h"
#include "sandbox/images/store.h"

namespace dirigent::sandbox::test {

namespace {

ImageOptions options_in(const TemporaryDirectory& directory) {
  ImageOptions options;
  options.directory = directory.path + "/store";
  return options;
}

TestImage two_layers() {
  TestImage image;
  image.layers.push_back(TarWriter()
                             .add('5', "etc", "", "", 0755)
                             .add('0', "etc/old", "old")
                             .add('0', "etc/kept", "kept")
                             .add('5', "data", "", "", 0755)
                             .add('0', "data/a", "a")
                             .ended());
  image.layers.push_back(TarWriter()
                             .add('0', "etc/.wh.old", "")
                             .add('0', "etc/new", "new")
                             .add('5', "data", "", "", 0755)
                             .add('0', "data/.wh..wh..opq", "")
                             .add('0', "data/b", "b")
                             .ended());
  image.entrypoint = {"/program"};
  image.command = {"serve"};
  image.environment = {"A=1"};
  image.working_directory = "/data";
  return image;
}

std::size_t layer_count(const ImageOptions& options) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(options.directory + "/layers"))
    count += entry.is_directory() ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("images: sha-256 gives the digests of the standard, however the bytes are cut") {
  CHECK(sha256_of("") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_of("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1'000'000, 'a');
  CHECK(sha256_of(million) == "sha256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (const std::size_t piece : {1u, 55u, 56u, 63u, 64u, 65u, 1000u}) {
    Sha256 sum;
    const std::string bytes(1000, 'x');
    for (std::size_t i = 0; i < bytes.size(); i += piece) sum.update(std::string_view(bytes).substr(i, piece));
    CHECK(sum.digest() == sha256_of(bytes));
  }
}

TEST_CASE("images: an OCI layout and a docker archive of one image share their layers, and keep its configuration") {
  TemporaryDirectory directory;
  const auto options = options_in(directory);
  ImageStore store(options);
  TestImage image = two_layers();
  image.packing = GENERATE(Packing::plain, Packing::gzip, Packing::zstd);
  CAPTURE(static_cast<int>(image.packing));
#if !DIRIGENT_ZSTD
  if (image.packing == Packing::zstd) return;
#endif
  const auto oci = store.tar(image.oci_archive().write(directory, "oci.tar"));
  REQUIRE((oci ? "" : oci.error().message) == "");
  CHECK((*oci)->config.entrypoint == std::vector<std::string>{"/program"});
  CHECK((*oci)->config.command == std::vector<std::string>{"serve"});
  CHECK((*oci)->config.environment == std::vector<std::string>{"A=1"});
  CHECK((*oci)->config.working_directory == "/data");
  REQUIRE((*oci)->layers.size() == 2);
  image.packing = Packing::plain;
  const auto docker = store.tar(image.docker_archive().write(directory, "docker.tar"));
  REQUIRE((docker ? "" : docker.error().message) == "");
  CHECK((*docker)->layers == (*oci)->layers);
  CHECK(layer_count(options) == 2);
}

TEST_CASE("images: whiteouts become what overlay hides files with") {
  NEEDS_ROOT();
  TemporaryDirectory directory;
  ImageStore store(options_in(directory));
  const auto image = store.tar(two_layers().oci_archive().write(directory));
  REQUIRE((image ? "" : image.error().message) == "");
  const std::string& top = (*image)->layers[0];
  struct stat status {};
  REQUIRE(::lstat((top + "/etc/old").c_str(), &status) == 0);
  CHECK(S_ISCHR(status.st_mode));
  CHECK(status.st_rdev == 0);
  CHECK_FALSE(std::filesystem::exists(top + "/etc/.wh.old"));
  CHECK_FALSE(std::filesystem::exists(top + "/data/.wh..wh..opq"));
  // Run on top of each other.
  Harness harness;
  auto process = process_options("whiteouts");
  process.images = options_in(directory);
  OpenRuntime open(harness, make_process_runtime(harness.loop, process));
  TestImage runnable = two_layers();
  runnable.layers.insert(runnable.layers.begin(), probe_test_image().layers.front());
  runnable.entrypoint = {"/probe"};
  auto order = order_for("tar:" + runnable.oci_archive().write(directory, "runnable.tar"),
                         {"list", "/etc", "/data"});
  open.launch_to_end(order);
  CHECK(open.output(order.id) == "/etc/kept\n/etc/new\n/etc/passwd\n/data/b\n");
}

TEST_CASE("images: the process runtime runs an image by its own entry point, environment and directory") {
  NEEDS_ROOT();
  TemporaryDirectory directory;
  Harness harness;
  auto process = process_options("image");
  process.images = options_in(directory);
  OpenRuntime open(harness, make_process_runtime(harness.loop, process));
  TestImage image = probe_test_image();
  image.environment = {"FROM_IMAGE=yes", "PORT=1"};
  image.working_directory = "/etc";
  auto order = order_for("tar:" + image.docker_archive().write(directory));
  open.launch_to_end(order);
  const std::string output = open.output(order.id);
  CAPTURE(output);
  CHECK(output.find("cwd /etc\n") != std::string::npos);
  CHECK(output.find("env FROM_IMAGE=yes\n") != std::string::npos);
  CHECK(output.find("env PORT=8080\n") != std::string::npos);
  CHECK(output.ends_with("argument /probe\nargument report\n"));
}

TEST_CASE("images: content that has another digest than its name is refused and not kept") {
  TemporaryDirectory directory;
  const auto options = options_in(directory);
  ImageStore store(options);
  TestImage image = two_layers();
  image.packing = Packing::plain;
  std::string bytes = image.oci_archive().ended();
  SECTION("of a layer") {
    const std::size_t at = bytes.find("kept", bytes.find("etc/kept") + 100);
    REQUIRE(at != std::string::npos);
    bytes[at] = 'K';
  }
  SECTION("of the configuration") { bytes[bytes.find("/program")] = '|'; }
  std::ofstream(directory.path + "/forged.tar", std::ios::binary) << bytes;
  const auto forged = store.tar(directory.path + "/forged.tar");
  REQUIRE_FALSE(forged.has_value());
  CHECK(forged.error().code == ErrorCode::corrupt);
  CHECK(forged.error().message.find("digest") != std::string::npos);
  CHECK(forged.error().message.find("forged.tar") != std::string::npos);
  for (const auto& entry : std::filesystem::directory_iterator(options.directory + "/layers"))
    CHECK(entry.path().filename().string().find("partial") == std::string::npos);
}

TEST_CASE("images: archives that lie about their parts are refused with a reason") {
  TemporaryDirectory directory;
  ImageStore store(options_in(directory));
  const auto refused = [&](const TarWriter& tar) {
    const auto image = store.tar(tar.write(directory, "lying.tar"));
    REQUIRE_FALSE(image.has_value());
    CHECK(image.error().message.find("lying.tar") != std::string::npos);
    return image.error().code;
  };
  CHECK(refused(TarWriter().add('0', "oci-layout", "{}").add('0', "index.json", "{")) == ErrorCode::corrupt);
  CHECK(refused(TarWriter().add('0', "oci-layout", "{}").add('0', "index.json", "[]")) == ErrorCode::corrupt);
  CHECK(refused(TarWriter().add('0', "oci-layout", "{}").add('0', "index.json", R"({"manifests":[]})")) ==
        ErrorCode::unsupported);
  CHECK(refused(TarWriter().add('0', "oci-layout", "{}").add(
            '0', "index.json", R"({"manifests":[{"digest":"sha256:../../../etc/passwd"}]})")) == ErrorCode::unsupported);
  CHECK(refused(TarWriter().add('0', "manifest.json", R"([{"Config":"../x","Layers":["/etc/passwd"]}])")) ==
        ErrorCode::corrupt);
  CHECK(refused(TarWriter().add('0', "manifest.json", "[]")) == ErrorCode::corrupt);
  CHECK(refused(TarWriter().add('0', "manifest.json", R"({"a":1})")) == ErrorCode::corrupt);
}

TEST_CASE("images: bombs are stopped at the limits") {
  TemporaryDirectory directory;
  auto options = options_in(directory);
  options.image_bytes_max = 1_MiB;
  ImageStore store(options);
  const auto code_of = [&](const std::string& bytes) {
    std::ofstream(directory.path + "/bomb.tar", std::ios::binary) << bytes;
    const auto image = store.tar(directory.path + "/bomb.tar");
    return image ? std::string("unpacked") : std::string(to_string(image.error().code));
  };
  CHECK(code_of(gzip(TarWriter().add('0', "large", std::string(2 << 20, '\0')).ended())) == "exhausted");
  std::string deep;
  for (int i = 0; i < 90; ++i) deep += "d/";
  CHECK(code_of(TarWriter().add('L', "././@LongLink", deep + '\0').add('5', "short").ended()) == "invalid-argument");
  CHECK(code_of(gzip(TarWriter().add('0', "a", "1").ended()).substr(0, 40)) == "corrupt");
  CHECK(std::filesystem::is_empty(options.directory + "/layers"));
}

TEST_CASE("images: layers in use are kept, unused ones are removed when there is too much") {
  TemporaryDirectory directory;
  auto options = options_in(directory);
  ImageStore store(options);
  const auto image = [&](const std::string& name, std::size_t size) {
    TestImage made;
    made.layers = {TarWriter().add('0', name, std::string(size, 'x')).ended()};
    return store.tar(made.oci_archive().write(directory, name + ".tar"));
  };
  auto used = image("used", 10'000);
  REQUIRE(used.has_value());
  REQUIRE(image("unused", 10'000).has_value());
  CHECK(layer_count(options) == 2);
  CHECK(store.collect(100_KiB).value == 0);
  {
    // Another worker with the same store, which uses the second image.
    ImageStore other(options);
    auto lease = other.tar(directory.path + "/unused.tar");
    REQUIRE(lease.has_value());
    CHECK(store.collect(Bytes{0}).value == 0);
    CHECK(layer_count(options) == 2);
  }
  CHECK(store.collect(Bytes{0}).value == 10'000);
  CHECK(layer_count(options) == 1);
  CHECK(std::filesystem::exists((*used)->layers[0] + "/used"));
  used = failure(ErrorCode::cancelled, "dropped");
  CHECK(store.collect(Bytes{0}).value == 10'000);
  CHECK(layer_count(options) == 0);
  // And it can be had again.
  CHECK(image("used", 10'000).has_value());
}

TEST_CASE("images: what a killed worker left half unpacked is removed") {
  TemporaryDirectory directory;
  const auto options = options_in(directory);
  std::filesystem::create_directories(options.directory + "/layers/partial-0123/etc");
  ImageStore store(options);
  REQUIRE(store.tar(TarWriter().add('0', "a", "1").write(directory)).has_value());
  CHECK_FALSE(std::filesystem::exists(options.directory + "/layers/partial-0123"));
}

TEST_CASE("images: many threads that want one image unpack it once") {
  TemporaryDirectory directory;
  const auto options = options_in(directory);
  ImageStore store(options);
  const std::string path = two_layers().oci_archive().write(directory);
  std::vector<std::thread> threads;
  std::vector<ImageLease> leases(8);
  for (auto& lease : leases) threads.emplace_back([&] { lease = store.tar(path).value_or(nullptr); });
  for (auto& thread : threads) thread.join();
  for (const auto& lease : leases) CHECK(lease == leases.front());
  CHECK(leases.front() != nullptr);
  CHECK(store.find(path) == leases.front());
}

TEST_CASE("images: references are read as Docker reads them") {
  const auto full = [](std::string_view text) {
    const auto reference = parse_reference(text);
    return reference ? reference->full() : "refused: " + reference.error().message;
  };
  CHECK(full("debian") == "docker.io/library/debian:latest");
  CHECK(full("debian:12") == "docker.io/library/debian:12");
  CHECK(full("some/thing") == "docker.io/some/thing:latest");
  CHECK(full("localhost/thing") == "localhost/thing:latest");
  CHECK(full("localhost:5000/a/b:c") == "localhost:5000/a/b:c");
  const std::string digest = sha256_of("");
  CHECK(full("ghcr.io/a/b@" + digest) == "ghcr.io/a/b@" + digest);
  for (const char* wrong : {"", "UPPER", "a//b", "/a", "a/", "a:", "a@sha256:12", "a:b:c", "a/../b", "-a:\n", "http://a/b"}) {
    CAPTURE(wrong);
    CHECK(full(wrong).starts_with("refused"));
  }
}

}  // namespace dirigent::sandbox::test
