// SPDX-License-Identifier: MIT
#include "bench/scripted_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <stdexcept>

namespace dirigent::bench {

namespace {

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

// The value of Content-Length; 0 without.
std::size_t body_size(const std::string& head) {
  const auto at = head.find("Content-Length: ");
  return at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
}

}  // namespace

ScriptedServer::ScriptedServer(Script script)
    : script_(std::move(script)), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener_.get(), 1024) != 0 ||
      ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw std::runtime_error("cannot listen on loopback");
  }
  address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  acceptor_ = std::thread([this] { accept_all(); });
}

void ScriptedServer::accept_all() {
  for (;;) {
    const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      ::close(fd);
      return;
    }
    sockets_.emplace_back(fd);
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

void ScriptedServer::serve(int fd) {
  std::string input;
  char buffer[16 * 1024];
  bool is_first = true;
  for (;;) {
    const ssize_t size = ::recv(fd, buffer, sizeof buffer, 0);
    if (size <= 0) return;
    // A connection that only looks whether anybody is there is not one of the test's.
    if (is_first) ++connections_;
    is_first = false;
    input.append(buffer, static_cast<std::size_t>(size));
    for (std::size_t end; (end = input.find("\r\n\r\n")) != std::string::npos;) {
      const std::string head = input.substr(0, end + 4);
      const std::size_t whole = end + 4 + body_size(head);
      if (input.size() < whole) break;
      input.erase(0, whole);
      const std::size_t number = requests_++;
      {
        const std::lock_guard lock(mutex_);
        heads_.push_back(head);
      }
      std::string answer = script_(head, number);
      if (answer == kSilence) continue;
      const bool closes = answer.empty() || answer.back() == kClose;
      if (!answer.empty() && answer.back() == kClose) answer.pop_back();
      if (!send_all(fd, answer)) return;
      if (closes) {
        ::shutdown(fd, SHUT_RDWR);
        return;
      }
    }
  }
}

void ScriptedServer::stop_listening() { ::shutdown(listener_.get(), SHUT_RDWR); }

void ScriptedServer::stop() {
  if (!acceptor_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_listening();
  acceptor_.join();
  for (const auto& socket : sockets_) ::shutdown(socket.get(), SHUT_RDWR);
  for (auto& thread : threads_) thread.join();
  sockets_.clear();
}

std::vector<std::string> ScriptedServer::heads() const {
  const std::lock_guard lock(mutex_);
  return heads_;
}

std::string ok_response(const std::string& body, const std::string& headers) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
}

}  // namespace dirigent::bench
