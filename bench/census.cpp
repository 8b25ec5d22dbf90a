// SPDX-License-Identifier: MIT
#include "census.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <sstream>

#include "dirigent/base/text.h"

namespace dirigent::bench {

namespace {

std::vector<std::string> entries(const std::string& directory) {
  std::vector<std::string> names;
  DIR* open = ::opendir(directory.c_str());
  if (open == nullptr) return names;
  while (const dirent* entry = ::readdir(open)) {
    if (const std::string name = entry->d_name; name != "." && name != "..") names.push_back(name);
  }
  ::closedir(open);
  return names;
}

std::string target_of(const std::string& link) {
  char text[4096];
  const ssize_t size = ::readlink(link.c_str(), text, sizeof text);
  return size > 0 ? std::string(text, static_cast<std::size_t>(size)) : "";
}

std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> output_of(const std::string& command) {
  std::vector<std::string> lines;
  FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "re");
  if (pipe == nullptr) return lines;
  char line[8192];
  while (std::fgets(line, sizeof line, pipe) != nullptr) lines.emplace_back(trim(line));
  ::pclose(pipe);
  return lines;
}

// Everything below a directory, without following links or crossing into other file systems' mounts of sandboxes.
void walk(const std::string& root, const std::string& below, bool directories_only, std::multiset<std::string>& found) {
  for (const auto& name : entries(root + below)) {
    const std::string path = below + "/" + name;
    struct stat status {};
    if (::lstat((root + path).c_str(), &status) != 0) continue;
    const bool is_directory = S_ISDIR(status.st_mode);
    if (is_directory || !directories_only) found.insert(path);
    if (is_directory) walk(root, path, directories_only, found);
  }
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

// "socket:[123]" is another one each time: only what kind it is counts.
std::string kind_of(const std::string& target) {
  const std::size_t bracket = target.find(":[");
  if (bracket != std::string::npos) return target.substr(0, bracket);
  return target.starts_with("/proc/") ? "/proc" : target;
}

void count_processes(Census& census, const std::vector<std::string>& directories) {
  std::map<std::string, std::string> spaces;  // mount namespaces, and the root of a thread in each
  std::set<std::string> networks;
  for (const auto& id : entries("/proc")) {
    if (!is_number(id)) continue;
    const auto name_lines = lines_of("/proc/" + id + "/comm");
    if (name_lines.empty()) continue;
    const std::string& name = name_lines.front();
    census["processes"].insert(name);
    for (const auto& fd : entries("/proc/" + id + "/fd")) {
      const std::string target = target_of("/proc/" + id + "/fd/" + fd);
      if (target.empty()) continue;
      census["descriptors"].insert(name + " " + kind_of(target));
      if (target.starts_with("net:[")) networks.insert(target);
    }
    for (const auto& thread : entries("/proc/" + id + "/task")) {
      const std::string path = "/proc/" + id + "/task/" + thread;
      if (const std::string space = target_of(path + "/ns/mnt"); !space.empty()) spaces.emplace(space, path);
      if (const std::string network = target_of(path + "/ns/net"); !network.empty()) networks.insert(network);
    }
  }
  for (const auto& network : networks) census["network_namespaces"].insert(kind_of(network));
  std::set<std::string> seen;
  for (const auto& [space, path] : spaces) {
    for (const auto& line : lines_of(path + "/mountinfo")) {
      const auto words = split(line, ' ');
      if (words.size() > 4) census["mounts"].insert(std::string(words[4]));
    }
    for (const auto& directory : directories) {
      struct stat status {};
      // Several namespaces show one and the same directory: it counts once.
      if (::stat((path + "/root" + directory).c_str(), &status) != 0) continue;
      if (seen.insert(fmt::format("{}:{}", status.st_dev, status.st_ino)).second)
        walk(path + "/root", directory, false, census["files"]);
    }
  }
}

void count_cgroups(Census& census, const std::string& cgroup) {
  for (const auto& line : lines_of("/proc/self/mountinfo")) {
    const auto words = split(line, ' ');
    if (words.size() < 5 || line.find(" - cgroup") == std::string::npos) continue;
    walk(std::string(words[4]), cgroup, true, census["cgroups"]);
  }
}

void count_network(Census& census) {
  // Numbers of links rise, and counters do: names and addresses are what is compared.
  for (const auto& line : output_of("ip -o link")) {
    const auto words = split(line, ' ');
    if (words.size() > 1)
      census["links"].insert(std::string(words[1]).starts_with("dg") ? "dg" : std::string(words[1]));
  }
  for (const auto& line : output_of("ip -o addr")) census["addresses"].insert(line);
  for (const auto& line : output_of("ip -o route show table all")) {
    // A sandbox's own route and its link are another one's next time; that there is one is what counts.
    const bool is_sandbox = line.find(" dev dg") != std::string::npos;
    census["routes"].insert(is_sandbox ? "to a sandbox" : line);
  }
  for (const auto& line : output_of("ip -o neigh show nud permanent")) {
    if (line.find(" dev dg") != std::string::npos) census["neighbours"].insert("of a sandbox");
  }
  for (const auto& line : output_of("nft list ruleset")) {
    for (const auto word : split(line, ',')) census["nft"].insert(std::string(trim(word)));
  }
}

void count_containerd(Census& census, const std::string& address) {
  const std::string control = "ctr --address " + address + " --namespace dirigent ";
  for (const auto& line : output_of(control + "containers ls -q")) census["containers"].insert(line);
  for (const auto& line : output_of(control + "tasks ls -q")) census["tasks"].insert(line);
  for (const char* snapshotter : {"overlayfs", "native"}) {
    auto lines = output_of(control + "snapshots --snapshotter " + snapshotter + " ls");
    for (std::size_t i = 1; i < lines.size(); ++i) census["snapshots"].insert(lines[i]);
  }
  for (const auto& line : output_of(control + "content ls -q")) census["content"].insert(line);
  auto leases = output_of(control + "leases ls -q");
  for (const auto& line : leases) census["leases"].insert(line);
}

}  // namespace

Census take_census(const std::string& containerd, const std::vector<std::string>& directories,
                   const std::string& cgroup) {
  Census census;
  for (const char* category : {"processes", "descriptors", "mounts", "network_namespaces", "cgroups", "links",
                               "addresses", "routes", "neighbours", "nft", "files"})
    census[category];
  if (!containerd.empty()) {
    for (const char* category : {"containers", "tasks", "snapshots", "content", "leases"}) census[category];
    count_containerd(census, containerd);
  }
  count_network(census);
  count_cgroups(census, cgroup);
  count_processes(census, directories);
  return census;
}

std::string to_text(const Census& census) {
  std::string text;
  for (const auto& [category, names] : census)
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", category, names.size());
  return text;
}

std::vector<std::string> left_over(const Census& before, const Census& after, std::size_t most) {
  std::vector<std::string> found;
  for (const auto& [category, names] : after) {
    const auto earlier = before.find(category);
    for (auto name = names.begin(); name != names.end(); name = names.upper_bound(*name)) {
      const std::size_t now = names.count(*name);
      const std::size_t then = earlier == before.end() ? 0 : earlier->second.count(*name);
      if (now > then && found.size() < most) found.push_back(fmt::format("{}: {} x {}", category, now - then, *name));
    }
  }
  return found;
}

}  // namespace dirigent::bench
