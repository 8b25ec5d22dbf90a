// SPDX-License-Identifier: MIT
//
// Networks by CNI, the Container Network Interface: for operators whose network demands it. A configuration names
// programs ("plugins"), which connect a network namespace to a network (ADD), look whether it still is (CHECK) and take
// it back (DEL). Its texts are read and its programs run here; docs/runtimes.md says what it costs.
//
// What was added is written down, one file each, before the plugins run: so DEL can be made up for after a crash.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/sandbox/container_options.h"

namespace dirigent::sandbox {

class CniNetwork {
 public:
  // Reads the configuration and makes the directory of the node's attachments. invalid_argument says what is wrong with
  // which file.
  static Result<std::unique_ptr<CniNetwork>> open(const CniOptions& options, const std::string& node);

  // All of these run programs and block, 10 ms and more for each plugin. Any thread; one at a time for one attachment.

  // Connects the network namespace at `path` and returns its IPv4 address, dotted. On failure nothing is connected.
  Result<std::string> add(const std::string& attachment, const std::string& path);
  // Whether everything is as add() has left it. Succeeds where the configuration or its version cannot tell.
  Status check(const std::string& attachment, const std::string& path);
  // Takes back what add() made, also of an earlier life of the node. `path` may be empty when the namespace is gone.
  // Succeeds when there is no such attachment; one that fails stays written down.
  Status remove(const std::string& attachment, const std::string& path);

  // The attachments that are written down.
  [[nodiscard]] std::vector<std::string> attachments() const;
  // A new name for one. No two are the same, also not in other lives of the node.
  [[nodiscard]] std::string new_attachment() const;
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  struct Record;
  CniNetwork() = default;
  [[nodiscard]] std::string file_of(const std::string& attachment) const;
  Status write(const std::string& attachment, const Record& record) const;
  Result<Record> read(const std::string& attachment) const;
  // Runs one plugin; its standard output when it succeeds.
  Result<std::string> run(const std::string& command, const std::string& plugin, const std::string& network,
                          const std::string& version, const std::string& result, const std::string& attachment,
                          const std::string& path) const;

  std::string node_;
  std::string name_;
  std::string list_;        // the configuration as a list of plugins, as JSON
  std::string programs_;    // directories of plugins, with colons between
  std::string directory_;   // of the attachments
  Duration timeout_ = 30s;  // of one plugin
};

}  // namespace dirigent::sandbox
