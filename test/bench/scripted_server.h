// SPDX-License-Identifier: MIT
//
// A server that answers with the bytes a test says, on a port of its own: a thread for each connection, blocking
// sockets.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dirigent/io/file_descriptor.h"

namespace dirigent::bench {

class ScriptedServer {
 public:
  // What to send for a request, given its head and its number among all requests, from 0. "" closes the connection
  // without an answer; a text that ends with kClose is sent and the connection closed; kSilence sends nothing and
  // waits.
  using Script = std::function<std::string(const std::string& head, std::size_t number)>;
  static constexpr char kClose = '\0';
  static inline const std::string kSilence = "<silence>";

  explicit ScriptedServer(Script script);
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;
  ~ScriptedServer() { stop(); }

  void stop();  // closes everything; may be called from a script's thread only through stop_listening()
  void stop_listening();
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] std::size_t connections() const { return connections_; }
  [[nodiscard]] std::size_t requests() const { return requests_; }
  [[nodiscard]] std::vector<std::string> heads() const;

 private:
  void accept_all();
  void serve(int fd);

  Script script_;
  io::FileDescriptor listener_;
  std::string address_;
  std::thread acceptor_;
  std::list<std::thread> threads_;
  std::list<io::FileDescriptor> sockets_;
  mutable std::mutex mutex_;
  std::vector<std::string> heads_;
  std::atomic<std::size_t> connections_{0};
  std::atomic<std::size_t> requests_{0};
  std::atomic<bool> stopping_{false};
};

// "HTTP/1.1 200 OK" with that body and further header lines ("Name: value\r\n").
std::string ok_response(const std::string& body, const std::string& headers = "");

}  // namespace dirigent::bench
