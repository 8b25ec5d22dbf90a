// SPDX-License-Identifier: MIT
#include "sandbox/network/cni.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dirigent/base/log.h"
#include "dirigent/base/random.h"
#include "dirigent/base/text.h"
#include "dirigent/io/file_descriptor.h"
#include "sandbox/oci/launcher.h"

namespace dirigent::sandbox {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// An attachment as it is written down: with the configuration that it was made by, which may have changed since.
struct CniNetwork::Record {
  Json list;
  Json result;  // null until ADD has succeeded
};

namespace {

constexpr const char* kInterface = "eth0";
constexpr const char* kPathVariable = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr std::size_t kConfigurationBytesMax = 1 << 20;
// Versions whose results have the form that is read here; CHECK and DEL with a result exist since 0.4.0.
constexpr std::array<const char*, 5> kVersions{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};

bool knows_check(const std::string& version) { return !version.starts_with("0.3."); }

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

bool is_check_disabled(const Json& list) {
  const auto found = list.find("disableCheck");
  return found != list.end() && found->is_boolean() && found->get<bool>();
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return failure(ErrorCode::not_found, "cannot read {}", path);
  if (text.str().size() > kConfigurationBytesMax)
    return failure(ErrorCode::invalid_argument, "{} is longer than {} bytes", path, kConfigurationBytesMax);
  return text.str();
}

// Of a directory the first configuration by name, as other users of CNI choose it.
Result<std::string> choose_file(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const auto extension = entry.path().extension();
    if (extension == ".conf" || extension == ".conflist" || extension == ".json") files.push_back(entry.path());
  }
  if (files.empty())
    return failure(ErrorCode::not_found, "there is no CNI configuration (.conflist, .conf, .json) in {}", path);
  return *std::min_element(files.begin(), files.end());
}

// The list of plugins that a file describes: a .conf is a list of one.
Result<Json> parse_list(const std::string& path, const std::string& text) {
  const auto bad = [&path](const std::string& why) {
    return failure(ErrorCode::invalid_argument, "cannot use the CNI configuration {}: {}", path, why);
  };
  Json list = Json::parse(text, nullptr, false);
  if (!list.is_object()) return bad("it is no JSON object");
  if (!list.contains("plugins"))
    list = {
        {"cniVersion", text_of(list, "cniVersion")}, {"name", text_of(list, "name")}, {"plugins", Json::array({list})}};
  const std::string version = text_of(list, "cniVersion");
  if (std::find(kVersions.begin(), kVersions.end(), version) == kVersions.end())
    return bad(
        fmt::format("its cniVersion is \"{}\", and 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are understood", version));
  if (text_of(list, "name").empty()) return bad("it has no name");
  if (!list["plugins"].is_array() || list["plugins"].empty()) return bad("it names no plugins");
  for (const auto& plugin : list["plugins"]) {
    const std::string type = plugin.is_object() ? text_of(plugin, "type") : "";
    if (type.empty() || type.find('/') != std::string::npos)
      return bad("one of its plugins has no type, or one that is no file name");
  }
  return list;
}

Result<std::string> find_plugin(const std::string& directories, const std::string& type) {
  for (const auto directory : split(directories, ':')) {
    const std::string file = std::string(directory) + "/" + type;
    if (!directory.empty() && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return failure(ErrorCode::not_found,
                 "there is no CNI plugin {} in {} (apt-get install containernetworking-plugins, or set cni_bin)", type,
                 directories);
}

Result<io::FileDescriptor> memory_file(std::string_view content) {
  io::FileDescriptor file(::memfd_create("cni", MFD_CLOEXEC));
  if (!file.is_open()) return errno_failure(errno, "cannot make a memory file");
  if (::pwrite(file.get(), content.data(), content.size(), 0) != static_cast<ssize_t>(content.size()))
    return errno_failure(errno, "cannot write a memory file");
  return file;
}

std::string content_of(const io::FileDescriptor& file) {
  std::string text;
  char buffer[16 * 1024];
  off_t offset = 0;
  for (ssize_t size = 0;
       (size = ::pread(file.get(), buffer, sizeof buffer, offset)) > 0 && text.size() < kConfigurationBytesMax;
       offset += size)
    text.append(buffer, static_cast<std::size_t>(size));
  return text;
}

// Waits for a program of launch_program(); after the timeout it is ended, with the programs that it has started.
Result<int> wait_for(pid_t pid, Duration timeout, const std::string& program) {
  const io::FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd ended{pidfd.get(), POLLIN, 0};
  int ready = -1;
  do ready = ::poll(&ended, 1, static_cast<int>(timeout / 1ms));
  while (ready < 0 && errno == EINTR);
  if (ready != 1) ::kill(-pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return errno_failure(errno, fmt::format("cannot wait for {}", program));
  }
  if (ready != 1)
    return failure(ErrorCode::timed_out, "the CNI plugin {} did not end within {} s and was killed", program,
                   timeout / 1s);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// What a plugin says when it fails: an object with code, msg and details; else whatever it printed.
Error explain(const std::string& command, const std::string& program, int code, const std::string& output,
              const std::string& errors) {
  std::string why;
  const Json said = Json::parse(output, nullptr, false);
  if (said.is_object() && said.contains("msg")) {
    why = text_of(said, "msg");
    if (const std::string details = text_of(said, "details"); !details.empty()) why += ": " + details;
    if (said.contains("code") && said["code"].is_number_integer())
      why += fmt::format(" (code {})", said["code"].get<int>());
  } else {
    why = std::string(trim(errors.empty() ? output : errors));
    why = fmt::format("it exited with {} and said {}", code, why.empty() ? "nothing" : why.substr(0, 500));
  }
  return Error{ErrorCode::unavailable, fmt::format("the CNI plugin {} failed at {}: {}", program, command, why)};
}

// The address that reaches the namespace: the first of IPv4 that belongs to an interface inside of it.
Result<std::string> address_in(const Json& result, const std::string& network) {
  const Json none = Json::array();
  const auto interfaces = result.find("interfaces");
  const auto ips = result.find("ips");
  for (const auto& ip : ips != result.end() && ips->is_array() ? *ips : none) {
    if (!ip.is_object()) continue;
    std::string address = text_of(ip, "address");
    address = address.substr(0, address.find('/'));
    in_addr parsed{};
    if (::inet_pton(AF_INET, address.c_str(), &parsed) != 1) continue;
    const auto index = ip.find("interface");
    if (index != ip.end() && index->is_number_unsigned() && interfaces != result.end() && interfaces->is_array()) {
      const auto at = index->get<std::size_t>();
      if (at >= interfaces->size() || !(*interfaces)[at].is_object() || text_of((*interfaces)[at], "sandbox").empty())
        continue;
    }
    return address;
  }
  return failure(ErrorCode::unavailable,
                 "the CNI network {} gave the sandbox no IPv4 address: is there an ipam section?", network);
}

}  // namespace

Result<std::unique_ptr<CniNetwork>> CniNetwork::open(const CniOptions& options, const std::string& node) {
  auto file = choose_file(options.configuration);
  if (!file) return failure(file.error());
  auto text = read_file(*file);
  if (!text) return failure(text.error().within("cannot use the CNI configuration (set cni_conf)"));
  auto list = parse_list(*file, *text);
  if (!list) return failure(list.error());
  for (const auto& plugin : (*list)["plugins"]) {
    if (auto found = find_plugin(options.programs, text_of(plugin, "type")); !found) return failure(found.error());
  }
  auto network = std::unique_ptr<CniNetwork>(new CniNetwork());
  network->node_ = node;
  network->name_ = text_of(*list, "name");
  network->list_ = list->dump();
  network->programs_ = options.programs;
  network->directory_ = options.state_directory + "/" + node;
  std::error_code error;
  fs::create_directories(network->directory_, error);
  if (error)
    return failure(ErrorCode::unavailable, "cannot make {}: {} (set cni_state)", network->directory_, error.message());
  // Of a worker that ended while it wrote.
  for (const auto& entry : fs::directory_iterator(network->directory_, error)) {
    if (entry.path().extension() == ".new") ::unlink(entry.path().c_str());
  }
  return network;
}

std::string CniNetwork::new_attachment() const {
  // Letters, digits, '_', '.' and '-' are what CNI takes, with a letter or digit first.
  std::string name = "dirigent-" + node_;
  std::replace_if(
      name.begin(), name.end(),
      [](unsigned char c) { return std::isalnum(c) == 0 && c != '_' && c != '.' && c != '-'; }, '-');
  return fmt::format("{}-{:016x}", name, entropy_seed());
}

std::string CniNetwork::file_of(const std::string& attachment) const { return directory_ + "/" + attachment + ".json"; }

// A file is there with all of its content or not at all, whenever the worker or the host ends.
Status CniNetwork::write(const std::string& attachment, const Record& record) const {
  const std::string path = file_of(attachment);
  const std::string next = path + ".new";
  std::ofstream file(next, std::ios::binary);
  file << Json{{"list", record.list}, {"result", record.result}}.dump(-1, ' ', false, Json::error_handler_t::replace)
       << std::flush;
  if (!file || ::rename(next.c_str(), path.c_str()) != 0)
    return failure(ErrorCode::unavailable, "cannot write {}: {} (set cni_state)", path,
                   std::generic_category().message(errno));
  return {};
}

Result<CniNetwork::Record> CniNetwork::read(const std::string& attachment) const {
  auto text = read_file(file_of(attachment));
  if (!text) return failure(text.error());
  Json both = Json::parse(*text, nullptr, false);
  if (!both.is_object() || !both.contains("list") || !both["list"].is_object() || !both["list"].contains("plugins") ||
      !both["list"]["plugins"].is_array())
    return failure(ErrorCode::corrupt,
                   "{} does not describe an attachment: take its network back by hand and remove the file",
                   file_of(attachment));
  Record record;
  record.list = both["list"];
  if (both.contains("result")) record.result = both["result"];
  return record;
}

std::vector<std::string> CniNetwork::attachments() const {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    if (entry.path().extension() == ".json") found.push_back(entry.path().stem());
  }
  return found;
}

Result<std::string> CniNetwork::run(const std::string& command, const std::string& plugin, const std::string& network,
                                    const std::string& version, const std::string& result,
                                    const std::string& attachment, const std::string& path) const {
  Json configuration = Json::parse(plugin, nullptr, false);
  configuration["name"] = network;
  configuration["cniVersion"] = version;
  if (!result.empty()) configuration["prevResult"] = Json::parse(result, nullptr, false);
  auto program = find_plugin(programs_, text_of(configuration, "type"));
  if (!program) return program;
  auto input = memory_file(configuration.dump(-1, ' ', false, Json::error_handler_t::replace));
  auto output = memory_file("");
  auto errors = memory_file("");
  if (!input || !output || !errors) return failure(!input ? input.error() : !output ? output.error() : errors.error());
  Command start;
  start.arguments = {*program};
  start.environment = {kPathVariable,
                       "CNI_COMMAND=" + command,
                       "CNI_CONTAINERID=" + attachment,
                       "CNI_NETNS=" + path,
                       fmt::format("CNI_IFNAME={}", kInterface),
                       "CNI_ARGS=IgnoreUnknown=1",
                       "CNI_PATH=" + programs_};
  start.input = input->get();
  start.output = output->get();
  start.errors = errors->get();
  auto pid = launch_program(start);
  if (!pid) return failure(pid.error());
  auto code = wait_for(*pid, timeout_, *program);
  if (!code) return failure(code.error());
  std::string said = content_of(*output);
  if (*code != 0) return failure(explain(command, *program, *code, said, content_of(*errors)));
  return said;
}

Result<std::string> CniNetwork::add(const std::string& attachment, const std::string& path) {
  Record record{Json::parse(list_), nullptr};
  if (Status written = write(attachment, record); !written) return failure(written.error());
  const std::string version = text_of(record.list, "cniVersion");
  const auto take_back = [&](Error error) {
    if (Status removed = remove(attachment, path); !removed) log_warn("sandbox", "{}", removed.error().message);
    return failure(std::move(error));
  };
  std::string result;
  for (const auto& plugin : record.list["plugins"]) {
    auto said = run("ADD", plugin.dump(), name_, version, result, attachment, path);
    if (!said) return take_back(said.error());
    if (!Json::parse(*said, nullptr, false).is_object())
      return take_back(Error{ErrorCode::unavailable,
                             fmt::format("the CNI plugin {} answered ADD with no result", text_of(plugin, "type"))});
    result = std::move(*said);
  }
  record.result = Json::parse(result, nullptr, false);
  auto address = address_in(record.result, name_);
  if (!address) return take_back(address.error());
  if (Status written = write(attachment, record); !written) return take_back(written.error());
  return address;
}

Status CniNetwork::check(const std::string& attachment, const std::string& path) {
  std::error_code error;
  if (!fs::exists(file_of(attachment), error)) return {};
  auto record = read(attachment);
  if (!record) return failure(record.error());
  const std::string version = text_of(record->list, "cniVersion");
  if (!knows_check(version) || is_check_disabled(record->list)) return {};
  for (const auto& plugin : record->list["plugins"]) {
    auto said =
        run("CHECK", plugin.dump(), text_of(record->list, "name"), version, record->result.dump(), attachment, path);
    if (!said) return failure(said.error());
  }
  return {};
}

Status CniNetwork::remove(const std::string& attachment, const std::string& path) {
  std::error_code error;
  if (!fs::exists(file_of(attachment), error)) return {};
  auto record = read(attachment);
  if (!record) return failure(record.error());
  const std::string version = text_of(record->list, "cniVersion");
  const std::string result = knows_check(version) && record->result.is_object() ? record->result.dump() : "";
  const Json& plugins = record->list["plugins"];
  Status status;
  // Backwards, and all of them: what one cannot take back is no reason to leave the rest.
  for (auto plugin = plugins.rbegin(); plugin != plugins.rend(); ++plugin) {
    auto said = run("DEL", plugin->dump(), text_of(record->list, "name"), version, result, attachment, path);
    if (!said && status) status = failure(said.error());
  }
  if (status) ::unlink(file_of(attachment).c_str());
  return status;
}

}  // namespace dirigent::sandbox
