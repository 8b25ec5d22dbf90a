// SPDX-License-Identifier: MIT
//
// `dirigent ctl haproxy-config`: writes the configuration of a HAProxy in front of the data planes, and keeps a running one
// up to date through its socket.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>
#include <thread>

#include "cli/ctl/front_plan.h"
#include "cli/ctl/trace_views.h"
#include "cli/ctl/verb.h"
#include "cli/output_file.h"
#include "dirigent/base/text.h"
#include "dirigent/io/address.h"
#include "dirigent/io/file_descriptor.h"
#include "dirigent/io/loop.h"

namespace dirigent::cli {

namespace {

constexpr int kAnswerSeconds = 5;

tl::unexpected<Error> socket_failure(const std::string& path, int error) {
  return failure(ErrorCode::unavailable, "cannot ask HAProxy at {}: {} (is it running, with this stats socket, and may you use it?)", path,
                 std::generic_category().message(error));
}

// One command, one answer, one connection: that is how HAProxy's socket works by default.
Result<std::string> ask_haproxy(const std::string& path, std::string_view command) {
  io::Address address;
  address.unix_path = path;
  auto target = io::to_socket_address(address);
  if (!target) return failure(target.error());
  io::FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return socket_failure(path, errno);
  const timeval patience{kAnswerSeconds, 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  if (::connect(socket.get(), target->get(), target->length) != 0) return socket_failure(path, errno);
  const std::string line = std::string(command) + "\n";
  if (::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) return socket_failure(path, errno);
  std::string answer;
  char buffer[16384];
  for (;;) {
    const ssize_t got = ::recv(socket.get(), buffer, sizeof(buffer), 0);
    if (got < 0) return socket_failure(path, errno);
    if (got == 0) return answer;
    answer.append(buffer, static_cast<std::size_t>(got));
  }
}

// A command that changes something answers nothing, or a line about what it has changed.
Status tell_haproxy(const std::string& path, const std::string& command) {
  auto answer = ask_haproxy(path, command);
  if (!answer) return failure(answer.error());
  for (const auto line : split(*answer, '\n')) {
    const std::string_view words = trim(line);
    if (words.empty() || words.find("changed") != words.npos || words.find("no need to change") != words.npos) continue;
    return failure(ErrorCode::unavailable, "HAProxy refused \"{}\": {}", command, words);
  }
  return {};
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Never half there: HAProxy may be started at any moment.
Status replace_file(const std::string& path, const std::string& text) {
  if (read_file(path) == text) return {};
  const std::string fresh = path + ".new";
  if (Status written = write_file(fresh, text); !written) return written;
  if (std::rename(fresh.c_str(), path.c_str()) != 0) {
    return failure(ErrorCode::unavailable, "cannot rename {} to {}: {}", fresh, path, std::generic_category().message(errno));
  }
  return {};
}

class Front {
 public:
  Front(VerbContext& context, FrontOptions options, std::string file, bool tells) : context_(context), options_(std::move(options)), file_(std::move(file)), tells_(tells) {
    slots_.resize(options_.slots);
  }

  // Once: what the control plane names now goes into the file, or to stdout, and into the running HAProxy. False when there
  // was trouble, which has been told.
  bool round() {
    auto planes = read_planes();
    if (!planes) {
      complain(planes.error().error.message);
      failure_ = planes.error();
      return false;
    }
    bool is_well = true;
    bool is_live = false;
    std::vector<FrontSlot> slots = slots_;
    if (tells_) {
      auto live = running_slots();
      if (live) {
        slots = std::move(*live);
        is_live = true;
      } else {
        is_well = false;
        complain(live.error().message);
        failure_ = failure_of(live.error());
      }
    }
    FrontChanges changes = keeper_.update(slots, *planes, io::Loop::now());
    if (!changes.left_out.empty()) {
      is_well = false;
      failure_ = failure_of(Error{ErrorCode::exhausted, fmt::format("there is no slot for {} of the data planes, the first is {} (more --slots, and a reload of HAProxy)",
                                                                    changes.left_out.size(), changes.left_out.front())});
      complain(failure_->error.message);
    }
    slots_ = changes.slots;
    if (file_.empty()) {
      if (!is_printed_) context_.terminal.write(front_configuration(options_, slots_));
      is_printed_ = true;
    } else if (Status written = replace_file(file_, front_configuration(options_, slots_)); !written) {
      is_well = false;
      failure_ = failure_of(written.error());
      complain(written.error().message);
    }
    if (is_live) {
      for (const auto& command : changes.commands) {
        if (Status told = tell_haproxy(options_.socket, command); !told) {
          is_well = false;
          failure_ = failure_of(told.error());
          complain(told.error().message);
          break;
        }
      }
    }
    if (!context_.quiet && (is_live || !tells_)) {
      for (const auto& word : changes.words) context_.terminal.talk("{}\n", word);
    }
    if (is_well) complaint_.clear();
    return is_well;
  }

  [[nodiscard]] const Failure& last_failure() const { return *failure_; }
  // Troubles are told as they come, each once while it lasts.
  void follow() { follows_ = true; }

 private:
  Outcome<std::vector<std::string>> read_planes() {
    auto body = context_.client.call("GET", "/v1/data-planes");
    if (!body) return tl::unexpected(body.error());
    auto rows = read_data_planes(*body);
    if (!rows) return tl::unexpected(failure_of(rows.error()));
    std::set<std::string> addresses;
    for (const auto& row : *rows) {
      if (is_front_address(row.invoke_address)) {
        addresses.insert(row.invoke_address);
      } else if (unusable_.insert(row.id).second) {
        context_.terminal.talk("data plane {} is left out: {} is no address that HAProxy can reach (set data.advertise to IP:PORT)\n", printable(row.id),
                               printable(row.invoke_address));
      }
    }
    return std::vector<std::string>(addresses.begin(), addresses.end());
  }

  Result<std::vector<FrontSlot>> running_slots() {
    auto answer = ask_haproxy(options_.socket, "show servers state dirigent_data_planes");
    if (!answer) return failure(answer.error());
    return read_front_slots(*answer);
  }

  void complain(const std::string& what) {
    if (!follows_ || complaint_ == what) return;
    complaint_ = what;
    context_.terminal.talk("{}\n", printable(what));
  }

  VerbContext& context_;
  FrontOptions options_;
  std::string file_;
  bool tells_;
  bool follows_ = false;
  bool is_printed_ = false;
  std::vector<FrontSlot> slots_;
  FrontKeeper keeper_;
  std::set<std::string> unusable_;
  std::string complaint_;
  std::optional<Failure> failure_;
};

int haproxy_config(VerbContext& context) {
  const Arguments& arguments = context.arguments;
  FrontOptions options;
  options.bind = arguments.value("bind").value_or(options.bind);
  options.socket = arguments.value("socket").value_or("/run/haproxy/admin.sock");
  options.is_h2 = arguments.is_on("h2");
  options.form_bind = arguments.value("form-bind").value_or("");
  options.form_servers = arguments.values("form-server");
  const auto slots = parse_integer(arguments.value("slots").value_or(std::to_string(options.slots)));
  if (!slots || *slots < 1 || *slots > 1000) return context.misused("--slots is not a number in 1..1000");
  options.slots = static_cast<std::size_t>(*slots);
  auto interval = parse_duration(arguments.value("interval").value_or("500ms"));
  if (!interval || *interval < 10ms) return context.misused("--interval is not a duration of at least 10ms");
  if (options.form_bind.empty() != options.form_servers.empty()) return context.misused("--form-bind and --form-server belong together");
  for (const auto& word : options.form_servers) {
    if (auto parsed = io::parse_address(word); !parsed || parsed->is_unix()) return context.misused(fmt::format("--form-server \"{}\" is not HOST:PORT", word));
  }
  for (const std::string* word : {&options.bind, &options.form_bind, &options.socket}) {
    if (word->find_first_of(" \t\n\"'\\#") != std::string::npos) return context.misused(fmt::format("\"{}\" has characters that have a meaning in a configuration", *word));
  }
  const bool follows = arguments.is_on("follow");
  const bool tells = follows || arguments.is_on("update");
  const std::string file = arguments.value("write").value_or("");
  Front front(context, std::move(options), file, tells);
  if (!follows) return front.round() ? 0 : context.fail(front.last_failure());
  front.follow();
  for (;;) {
    front.round();
    std::this_thread::sleep_for(*interval);
  }
}

}  // namespace

std::vector<Verb> front_verbs() {
  return {{"haproxy-config",
           {},
           "",
           0,
           0,
           "write the configuration of a HAProxy in front of the data planes, keep a running one up to date",
           {
               {"write", 'w', "FILE", "write it there and not to stdout"},
               {"update", 0, "", "tell the running HAProxy, too, once"},
               {"follow", 'f', "", "go on: the file and the running HAProxy follow the data planes"},
               {"bind", 0, "ADDRESS", "where clients invoke functions [*:80]"},
               {"slots", 0, "N", "the most data planes without a reload of HAProxy [32]"},
               {"socket", 0, "PATH", "HAProxy's stats socket [/run/haproxy/admin.sock]"},
               {"h2", 0, "", "HTTP/2 to the data planes (gRPC needs it)"},
               {"form-bind", 0, "ADDRESS", "where clients register by form; needs --form-server"},
               {"form-server", 0, "HOST:PORT", "form port of a control plane", true},
               {"interval", 0, "DURATION", "between two looks at the data planes [500ms]"},
           },
           WordKind::none,
           haproxy_config}};
}

}  // namespace dirigent::cli
