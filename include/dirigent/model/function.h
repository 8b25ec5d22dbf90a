// SPDX-License-Identifier: MIT
//
// A function, as the user describes it, and its revisions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirigent/base/result.h"
#include "dirigent/base/time.h"
#include "dirigent/model/ids.h"
#include "dirigent/model/resources.h"
#include "dirigent/model/scaling.h"

namespace dirigent {

// The limits of one function's requests: features.md 2.5. One place, all other timers are derived from these.
struct RequestLimits {
  Duration timeout = 300s;        // whole request, from its head to the last byte of the response
  Duration first_byte_timeout{};  // 0 = timeout
  Duration idle_timeout{};        // 0 = off; any byte either way resets it
  Duration queue_timeout = 30s;   // waiting for a slot
  std::uint32_t queue_depth = 10'000;  // waiting requests per data plane
  Bytes body_max{};               // of a request; 0 = the data plane's limit, which bounds it in any case
  Duration start_timeout = 60s;   // launch to ready
  Duration drain_timeout = 30s;   // unrouted to stopped; a sandbox that is only one too many has `timeout` if that is longer

  friend bool operator==(const RequestLimits&, const RequestLimits&) = default;
};

enum class HttpProtocol { http1, h2c };

// Everything that makes a revision. Two revisions of a function differ in at least one field.
struct RevisionSpec {
  std::string image;                         // builtin:NAME, exec:/path [args], dir:/rootfs, tar:file.tar, or a reference
  std::vector<std::string> arguments;        // appended to (or instead of, for images) the entry point
  std::map<std::string, std::string> environment;
  std::string working_directory;             // "" = the image's
  std::uint16_t port = 8080;                 // where the function listens; told to it as PORT
  HttpProtocol protocol = HttpProtocol::http1;
  std::string ready_path;                    // "" = a TCP connect is enough
  Resources resources{Millicpu{100}, 128_MiB};  // requested, and enforced as limits where `limits_*` are unset
  Millicpu cpu_limit;                        // 0 = no hard limit (shares only)
  std::uint32_t pids_max = 1024;
  std::uint32_t concurrency_limit = 0;       // requests at a time in one sandbox; 0 = no limit
  RequestLimits limits;
  ScalingSettings scaling;
  std::map<std::string, std::string> labels;
  std::vector<std::string> constraints;      // on node labels: "k=v", "k!=v"
  std::string runtime;                       // "" = the worker's default
  std::string user;                          // UID[:GID] or NAME[:GROUP] of the image; "" = the image's own
  std::map<std::string, std::string> secrets;  // by file name, base64: files of /run/secrets that nobody else is shown

  friend bool operator==(const RevisionSpec&, const RevisionSpec&) = default;
};

// Checks every field but the name; the error names the field.
Status validate(const RevisionSpec& spec);

struct Revision {
  RevisionNumber number;
  RevisionSpec spec;
  WallTime created_at;

  friend bool operator==(const Revision&, const Revision&) = default;
};

// The durable state of a function: what the catalog holds.
struct Function {
  FunctionName name;
  WallTime created_at;
  std::vector<Revision> revisions;           // oldest first; the newest ten are kept, and any that serves
  std::optional<RevisionNumber> serving;     // gets the traffic; none until one has been verified
  std::optional<RevisionNumber> candidate;   // being verified; becomes `serving` when it proves ready
  std::optional<std::uint32_t> manual_scale; // set by `ctl scale NAME N`; overrides the autoscaler

  [[nodiscard]] const Revision* find(RevisionNumber number) const;

  friend bool operator==(const Function&, const Function&) = default;
};

// What `image` names.
enum class ImageKind { builtin, exec, directory, tar, reference };
struct Image {
  ImageKind kind;
  std::string location;                 // the part after the colon: a name, path or reference
  std::vector<std::string> arguments;   // of exec:, split at blanks
};
Result<Image> parse_image(std::string_view text);
// The names behind builtin:, for messages and completion.
const std::vector<std::string>& builtin_names();

}  // namespace dirigent
