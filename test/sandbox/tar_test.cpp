// SPDX-License-Identifier: MIT
//
// Archives that mean harm: nothing may be written outside the image's directory.
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "image_builder.h"
#include "sandbox/images/store.h"

namespace dirigent::sandbox::test {

namespace {

std::string content(const std::string& path) { return file_content(path); }

// The directory of the only layer of a plain archive.
Result<std::string> unpack_tar(const std::string& file, const std::string& cache) {
  ImageOptions options;
  options.directory = cache;
  auto image = ImageStore(options).tar(file);
  if (!image) return failure(image.error());
  return (*image)->layers.front();
}

}  // namespace

TEST_CASE("tar: files, directories, links and long names are unpacked") {
  TemporaryDirectory directory;
  const std::string long_name = "deep/" + std::string(150, 'n');
  TarWriter tar;
  tar.add('5', "./bin/", "", "", 0755)
      .add('0', "bin/run", "program", "", 04755)
      .add('2', "sbin", "", "bin")
      .add('1', "bin/same", "", "bin/run");
  tar.add('0', "sbin/more", "through a link").add('L', "././@LongLink", long_name + '\0').add('0', "short", "long");
  const auto unpacked = unpack_tar(tar.write(directory), directory.path + "/cache");
  REQUIRE((unpacked ? "" : unpacked.error().message) == "");
  CHECK(content(*unpacked + "/bin/run") == "program");
  CHECK(content(*unpacked + "/bin/same") == "program");
  CHECK(content(*unpacked + "/bin/more") == "through a link");
  CHECK(content(*unpacked + "/" + long_name) == "long");
  struct stat status {};
  REQUIRE(::stat((*unpacked + "/bin/run").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0755);  // without its set-user-id bit
}

TEST_CASE("tar: an unchanged archive is unpacked once") {
  TemporaryDirectory directory;
  const std::string path = TarWriter().add('0', "a", "1").write(directory);
  const auto first = unpack_tar(path, directory.path + "/cache");
  REQUIRE(first.has_value());
  std::ofstream(*first + "/mark") << "kept";
  CHECK(unpack_tar(path, directory.path + "/cache").value() == *first);
  CHECK(content(*first + "/mark") == "kept");
}

TEST_CASE("tar: an archive that reaches outside is refused or stays inside") {
  TemporaryDirectory directory;
  const std::string victim = directory.path + "/victim";
  std::ofstream(victim) << "untouched";
  const std::string outside = directory.path;
  struct Case {
    const char* what;
    TarWriter tar;
  };
  const Case cases[] = {
      {"a path with ..", TarWriter().add('0', "../../victim", "evil")},
      {"a path with .. in the middle", TarWriter().add('0', "a/../../../victim", "evil")},
      {"an absolute path", TarWriter().add('0', victim, "evil")},
      {"a file through an absolute link", TarWriter().add('2', "out", "", outside).add('0', "out/victim", "evil")},
      {"a file through a relative link", TarWriter().add('2', "out", "", "../../..").add('0', "out/victim", "evil")},
      {"a file over a link", TarWriter().add('2', "file", "", victim).add('0', "file", "evil")},
      {"a hard link to an absolute path", TarWriter().add('1', "file", "", victim).add('0', "file", "evil")},
      {"a hard link with ..", TarWriter().add('1', "file", "", "../../victim")},
      {"a hard link through a link", TarWriter().add('2', "out", "", outside).add('1', "file", "", "out/victim")},
      {"a hard link to a link", TarWriter().add('2', "out", "", victim).add('1', "file", "", "out")},
      {"a character device", TarWriter().add('3', "null", "")},
      {"a block device", TarWriter().add('4', "disk", "")},
      {"a named pipe", TarWriter().add('6', "pipe", "")},
      {"a directory over a link",
       TarWriter().add('2', "out", "", outside).add('5', "out", "", "", 0777).add('0', "out/victim", "evil")},
      {"a pax path with ..", TarWriter().add('x', "pax", "25 path=../../../victim\n").add('0', "a", "evil")},
      {"a malformed pax header", TarWriter().add('x', "pax", "99 path=a\n").add('0', "a", "evil")},
      {"a chain of links", TarWriter().add('2', "a", "", "b").add('2', "b", "", "a").add('0', "a/file", "evil")},
      {"an unknown type", TarWriter().add('S', "sparse", "evil")},
      {"nothing at all", TarWriter()},
  };
  for (const auto& one : cases) {
    CAPTURE(one.what);
    const auto unpacked = unpack_tar(one.tar.write(directory), directory.path + "/cache");
    CHECK(content(victim) == "untouched");
    if (!unpacked) CHECK(unpacked.error().message.find("image.tar") != std::string::npos);
    // What failed is not there in part.
    for (const auto& entry : std::filesystem::directory_iterator(directory.path + "/cache/layers")) {
      CHECK(entry.path().filename().string().find("partial") == std::string::npos);
    }
  }
  struct stat status {};
  REQUIRE(::stat(directory.path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0755);
}

TEST_CASE("tar: broken archives are named as such") {
  TemporaryDirectory directory;
  const std::string whole = TarWriter().add('0', "a", std::string(2000, 'x')).bytes();
  const auto unpack = [&](const std::string& bytes) {
    const std::string path = directory.path + "/broken.tar";
    std::ofstream(path, std::ios::binary) << bytes;
    return unpack_tar(path, directory.path + "/cache");
  };
  CHECK(unpack(whole.substr(0, 1024)).error().code == ErrorCode::corrupt);
  CHECK(unpack(whole.substr(0, 300)).error().code == ErrorCode::corrupt);
  std::string flipped = whole;
  flipped[10] = 'z';
  CHECK(unpack(flipped).error().code == ErrorCode::corrupt);
  CHECK(unpack("\x1f\x8b" + std::string(1000, 'z')).error().message.find("decompress") != std::string::npos);
  CHECK(unpack_tar(directory.path + "/missing.tar", directory.path).error().code == ErrorCode::not_found);
}

}  // namespace dirigent::sandbox::test
