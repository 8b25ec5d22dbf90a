# SPDX-License-Identifier: MIT
#
# The protocol between the roles of a dirigent cluster, and its manual.
#
# A worker or data plane opens one connection to the control plane's RPC address, asks for the bootstrap capability
# (ControlPlane), and says who it is with `joinWorker` or `joinDataPlane`, giving a capability of its own along. From
# then on both sides call `deliver` on each other with ordered batches of messages. A batch holds what was sent in one
# turn of the sender's loop; a sender has at most three unanswered batches. An answered batch has been decoded and
# accepted; what it led to is told by messages of the other direction. That a side lives is told below
# this protocol, see docs/protocol_rpc.md.
#
# Skew: a receiver ignores union members and fields it does not know. A value it does know must be in its range: an
# unknown enumerant or a negative duration is refused with the field's name, and the connection is closed.
#
# Units are in the names: Ns = nanoseconds, Us = microseconds, Bytes = bytes, Milli = thousandths. Text is UTF-8.
# Ordinals are for ever: new fields and union members go to the end, nothing is renumbered or reused.
@0xd1b4d16e47c1a75e;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("dirigent::schema");

# --- joining ------------------------------------------------------------------------------------------------------

# The bootstrap capability of the control plane's port. One connection joins once.
interface ControlPlane {
  # A worker says who it is and all that it runs. `worker` receives its orders as long as the connection lives.
  joinWorker @0 (hello :WorkerHello, worker :Worker) -> (session :WorkerSession, answer :JoinAnswer);
  # The same for a data plane.
  joinDataPlane @1 (hello :DataPlaneHello, dataPlane :DataPlane) -> (session :DataPlaneSession, answer :JoinAnswer);
}

# What the control plane says to a hello.
struct JoinAnswer {
  # Empty: welcome. Otherwise why not, in words for the operator of the peer; the control plane then closes the
  # connection and the peer tries again later, elsewhere first.
  refusal @0 :Text;
  # The leadership term of this control plane. Orders of an older term are to be refused.
  term @1 :UInt64;
  # The protocol number the control plane speaks. One number of difference works.
  protocol @2 :UInt32;
  # The version of dirigent that the control plane runs, for logs.
  version @3 :Text;
  # With a refusal: the RPC address of the control plane that leads; empty = unknown. The peer tries there at once.
  leader @4 :Text;
}

# The control plane's end of a worker's session.
interface WorkerSession {
  # What happened at the worker, oldest first.
  deliver @0 (messages :List(WorkerMessage)) -> ();
}

# The worker's end of its session.
interface Worker {
  # What the worker shall do, oldest first.
  deliver @0 (messages :List(WorkerOrder)) -> ();
  # The last lines a sandbox printed. An unknown sandbox has none.
  logs @1 (query :LogQuery) -> (answer :LogAnswer);
  # The control plane is about to close this session, and why. The worker joins again later.
  goodbye @2 (why :Text) -> ();
}

# The control plane's end of a data plane's session.
interface DataPlaneSession {
  # What happened at the data plane, oldest first.
  deliver @0 (messages :List(DataPlaneMessage)) -> ();
}

# The data plane's end of its session.
interface DataPlane {
  # What the data plane shall know, oldest first.
  deliver @0 (messages :List(DataPlaneOrder)) -> ();
  # The control plane is about to close this session, and why. The data plane joins again later.
  goodbye @1 (why :Text) -> ();
}

# --- worker -> control --------------------------------------------------------------------------------------------

# The first words of a worker.
struct WorkerHello {
  # The protocol number the worker speaks.
  protocol @0 :UInt32;
  # Who it is.
  node @1 :NodeInfo;
  # Everything it runs, in any state but gone.
  sandboxes @2 :List(SandboxStatus);
}

# A machine, or part of one, on which a worker starts sandboxes.
struct NodeInfo {
  # Chosen by the operator or made once and kept on the node's disk. 1 to 256 bytes.
  id @0 :Text;
  # The address under which other hosts reach the node.
  host @1 :Text;
  # Equal for processes of one network namespace of one boot of one machine.
  hostId @2 :Text;
  # What sandboxes may take in all.
  capacity @3 :Resources;
  # The most sandboxes at a time; 0 = no limit but the capacity.
  sandboxesMax @4 :UInt32;
  # The name of its default runtime.
  runtime @5 :Text;
  # The version of dirigent it runs.
  version @6 :Text;
  # For placement constraints. Names are unique.
  labels @7 :List(Pair);
  # The most sandboxes on their way to ready at a time; 0 = no limit. What is wanted beyond it waits in the control plane.
  startsMax @8 :UInt32;
}

# A name and a value.
struct Pair {
  # Unique in its list.
  name @0 :Text;
  # Any text.
  value @1 :Text;
}

# What a sandbox takes and a node has. No part is negative.
struct Resources {
  # Thousandths of one CPU.
  cpuMilli @0 :Int64;
  # Memory.
  memoryBytes @1 :Int64;
}

# One thing a worker has to say.
struct WorkerMessage {
  union {
    # This is how busy it is. Said on joining and when it changes, see docs/protocol_rpc.md.
    heartbeat @0 :NodeUsage;
    # A sandbox has changed its state or its address.
    sandboxChanged @1 :SandboxStatus;
    # It wants to leave: no new sandboxes, the old ones are being drained.
    leaving @2 :Void;
    # What images it has. After the hello, and whenever it has changed.
    images @3 :NodeImages;
  }
}

# The images of a node.
struct NodeImages {
  # As functions call them.
  images @0 :List(Text);
  # The last prefetches that went wrong: by image, why. Names are unique.
  failed @1 :List(Pair);
}

# How busy a node is.
struct NodeUsage {
  # Measured on the machine, all processes.
  used @0 :Resources;
  # Sandboxes there now, in any state but gone.
  sandboxes @1 :UInt32;
}

# The life of a sandbox. Only forward, see the table in the model.
enum SandboxState {
  # A node is chosen and resources are reserved; the order is on its way.
  placed @0;
  # The worker has accepted the order: creating, launching, probing.
  starting @1;
  # Answers its probe; may be routed.
  ready @2;
  # Out of the routes; finishing what it has.
  draining @3;
  # Told to end.
  stopping @4;
  # Ended and cleaned up, or never came to be.
  gone @5;
}

# What a worker knows of one sandbox.
struct SandboxStatus {
  # Unique in the cluster, never reused.
  id @0 :UInt64;
  # The function it runs. 1 to 256 bytes.
  function @1 :Text;
  # The number of the function's revision.
  revision @2 :UInt32;
  # The term of the order that made it.
  term @3 :UInt64;
  # Where it is in its life.
  state @4 :SandboxState;
  # Where it is reached; set once ready.
  address @5 :SandboxAddress;
  # How long each step of its start took.
  phases @6 :StartPhases;
  # Since it was created.
  ageNs @7 :Int64;
  # Why it is gone; the cause is `none` until then.
  end @8 :SandboxEnd;
  # What the reference of its image stood for; empty = not known, or no reference.
  imageDigest @9 :Text;
}

# Where a sandbox is reached. A data plane with the same host id takes `direct`, any other `published`.
struct SandboxAddress {
  # host:port inside the worker's host; empty when only `published` works.
  direct @0 :Text;
  # host:port from anywhere; empty when the node publishes nothing.
  published @1 :Text;
  # Of the worker's host.
  hostId @2 :Text;
}

# How long each step of a cold start took; 0 = the step did not happen. No part is negative.
struct StartPhases {
  # From the arrival of the demand to the sending of the order.
  scheduleNs @0 :Int64;
  # From the arrival of the order to a sandbox's shell and root.
  createNs @1 :Int64;
  # Namespace, link and address.
  networkNs @2 :Int64;
  # Until the process was started.
  startNs @3 :Int64;
  # From there to the first answered probe.
  probeNs @4 :Int64;
  # How often it was probed.
  probeTries @5 :UInt32;
}

# Why a sandbox is no more.
enum EndCause {
  # It is still there.
  none @0;
  # It was told to stop.
  requested @1;
  # It could not be created or launched.
  startFailed @2;
  # It did not become ready in time.
  startTimeout @3;
  # The function's process ended by itself.
  exited @4;
  # The kernel ended it for exceeding its memory limit.
  outOfMemory @5;
  # Its worker is gone.
  nodeLost @6;
  # Its image cannot be had on the node.
  imageMissing @7;
  # The worker had no room.
  noCapacity @8;
}

# The end of a sandbox.
struct SandboxEnd {
  # In one word.
  cause @0 :EndCause;
  # Of the function's process, when it exited.
  exitCode @1 :Int32;
  # The signal that ended it, 0 = none. 0..255.
  signal @2 :Int32;
  # One line: what was tried and what happened.
  detail @3 :Text;
  # The last lines it printed.
  lastOutput @4 :Text;
}

# --- control -> worker --------------------------------------------------------------------------------------------

# One thing a worker shall do.
struct WorkerOrder {
  union {
    # Start a sandbox. For a sandbox that is there, answer with its status.
    start @0 :StartSandbox;
    # Stop one. For an unknown sandbox, answer that it is gone.
    stop @1 :StopSandbox;
    # Get an image. What became of it is told with the node's images.
    prefetch @2 :PrefetchImage;
  }
}

# An order to get an image.
struct PrefetchImage {
  # Of the leader that orders it.
  term @0 :UInt64;
  # As functions call it.
  image @1 :Text;
}

# An order to start a sandbox.
struct StartSandbox {
  # Of the leader that orders it. Older terms than the last one heard are refused.
  term @0 :UInt64;
  # Of the new sandbox.
  id @1 :UInt64;
  # What it runs. 1 to 256 bytes.
  function @2 :Text;
  # Which revision of it.
  revision @3 :UInt32;
  # All there is to know about the revision.
  spec @4 :RevisionSpec;
  # What the image's reference has stood for since the revision's first start; empty = not known yet.
  imageDigest @5 :Text;
}

# An order to stop a sandbox.
struct StopSandbox {
  # Of the leader that orders it.
  term @0 :UInt64;
  # Of the sandbox.
  id @1 :UInt64;
}

# What a function speaks.
enum HttpProtocol {
  # HTTP/1.1.
  http1 @0;
  # HTTP/2 without TLS, from the first byte.
  h2c @1;
}

# Everything that makes a revision.
struct RevisionSpec {
  # builtin:NAME, exec:/path [args], dir:/rootfs, tar:FILE, or a reference to an image.
  image @0 :Text;
  # Appended to the entry point, or instead of an image's.
  arguments @1 :List(Text);
  # Environment variables. Names are unique.
  environment @2 :List(Pair);
  # Empty = the image's.
  workingDirectory @3 :Text;
  # Where the function listens.
  port @4 :UInt16;
  # What it speaks there.
  protocol @5 :HttpProtocol;
  # Asked for until it answers; empty = a TCP connect is enough.
  readyPath @6 :Text;
  # What it is given, and limited to where no limit of its own is set.
  resources @7 :Resources;
  # The most CPU, in thousandths of one; 0 = shares only. Not negative.
  cpuLimitMilli @8 :Int64;
  # The most processes and threads.
  pidsMax @9 :UInt32;
  # The most requests at a time in one sandbox; 0 = no limit.
  concurrencyLimit @10 :UInt32;
  # The limits of its requests.
  limits @11 :RequestLimits;
  # How its sandboxes are counted.
  scaling @12 :ScalingSettings;
  # For people and constraints. Names are unique.
  labels @13 :List(Pair);
  # On node labels: "k=v", "k!=v".
  constraints @14 :List(Text);
  # Empty = the worker's default.
  runtime @15 :Text;
  # UID[:GID] or NAME[:GROUP] of the image; empty = the image's own.
  user @16 :Text;
  # By file name, base64: files that only the function is shown. Names are unique.
  secrets @17 :List(Pair);
}

# The limits of one function's requests. No duration is negative.
struct RequestLimits {
  # The whole request, from its head to the last byte of the response.
  timeoutNs @0 :Int64;
  # Until the response starts; 0 = timeoutNs.
  firstByteTimeoutNs @1 :Int64;
  # Without a byte either way; 0 = no limit.
  idleTimeoutNs @2 :Int64;
  # Waiting for a slot.
  queueTimeoutNs @3 :Int64;
  # Waiting requests per data plane.
  queueDepth @4 :UInt32;
  # From launch to ready.
  startTimeoutNs @5 :Int64;
  # From unrouted to stopped.
  drainTimeoutNs @6 :Int64;
  # Of a request's body; 0 = the data plane's limit.
  bodyMaxBytes @7 :Int64;
}

# What autoscaling looks at.
enum ScalingMetric {
  # Requests at a time.
  concurrency @0;
  # Requests per second.
  rps @1;
}

# How a window of measurements becomes one number.
enum Aggregation {
  # The mean.
  linear @0;
  # The recent ones weigh more.
  weightedExponential @1;
}

# When a decision is taken besides the regular look.
enum Reaction {
  # Only when a function without sandboxes gets a request.
  fromZero @0;
  # Whenever a request has to wait for a sandbox that nobody has ordered yet.
  everyQueue @1;
}

# The settings of autoscaling. Numbers are finite, durations not negative.
struct ScalingSettings {
  # The fewest sandboxes.
  minScale @0 :UInt32;
  # The most; 0 = no limit.
  maxScale @1 :UInt32;
  # Kept until first reached after a revision is made.
  initialScale @2 :UInt32;
  # The least number when anything is wanted.
  activationScale @3 :UInt32;
  # What is measured.
  metric @4 :ScalingMetric;
  # And how it is averaged.
  aggregation @5 :Aggregation;
  target :union {
    # Follows from the metric.
    standard @6 :Void;
    # Wanted per sandbox: requests in flight, or per second.
    perSandbox @7 :Float64;
  }
  # The share of the target that is aimed at, in percent.
  utilizationPercent @8 :Float64;
  # What the regular decision looks back on.
  stableWindowNs @9 :Int64;
  # The part of it that the panic decision looks back on, in percent.
  panicWindowPercent @10 :Float64;
  # Load at which panic starts, in percent of what the ready sandboxes can take.
  panicThresholdPercent @11 :Float64;
  # Spare capacity in requests; -1 = without bound.
  targetBurstCapacity @12 :Float64;
  # The most growth in one decision, as a factor.
  scaleUpRateMax @13 :Float64;
  # The most shrinking in one decision, as a factor.
  scaleDownRateMax @14 :Float64;
  # How long fewer must have been wanted before there are fewer.
  scaleDownDelayNs @15 :Int64;
  # How long the last sandbox is kept at least.
  lastSandboxRetentionNs @16 :Int64;
  # How long the last sandbox outlives the decision to have none.
  scaleToZeroGraceNs @17 :Int64;
  # Whether there may be none at all.
  scaleToZero @18 :Bool;
  # Between two regular decisions.
  lookIntervalNs @19 :Int64;
  # When to decide in between.
  reaction @20 :Reaction;
  # Sandboxes started beside the wanted ones and kept unused until one more is wanted.
  warm @21 :UInt32;
}

# A question for a sandbox's output.
struct LogQuery {
  # Which sandbox.
  sandbox @0 :UInt64;
  # The most lines of the answer, the newest ones.
  linesMax @1 :UInt32;
}

# What a sandbox printed, oldest first.
struct LogAnswer {
  # The lines, without their ends.
  lines @0 :List(LogLine);
}

# One line of output.
struct LogLine {
  # When it was read, since 1970-01-01 UTC.
  timeUs @0 :Int64;
  # Printed to the error stream rather than to the output stream.
  isErrorStream @1 :Bool;
  # The line as printed; bytes that are not UTF-8 included.
  text @2 :Text;
}

# --- data plane -> control ----------------------------------------------------------------------------------------

# The first words of a data plane.
struct DataPlaneHello {
  # The protocol number the data plane speaks.
  protocol @0 :UInt32;
  # Chosen by the operator or made once and kept. 1 to 256 bytes.
  id @1 :Text;
  # host:port that clients of functions use.
  invokeAddress @2 :Text;
  # As in NodeInfo.
  hostId @3 :Text;
  # The version of dirigent it runs.
  version @4 :Text;
  # All that it has of sandboxes' limits.
  shares @5 :List(SlotShare);
  # host:port of its admin port, for dirigent ctl; empty when it has none.
  adminAddress @6 :Text;
}

# What a data plane has of one sandbox's concurrency limit. 0 = nothing, 4294967295 = no limit.
struct SlotShare {
  # Which sandbox. Unique in its list.
  id @0 :UInt64;
  # By the last route; 0 = the sandbox is out of the routes.
  granted @1 :UInt32;
  # What the data plane may use until it says that it has released it.
  held @2 :UInt32;
}

# One thing a data plane has to say.
struct DataPlaneMessage {
  union {
    # How busy one function is.
    load @0 :FunctionLoad;
    # It uses no more of a sandbox's limit than the last update gave it.
    released @1 :SlotsReleased;
    # A connection to a sandbox was refused or broke.
    suspected @2 :SandboxSuspected;
    # It lives.
    heartbeat @3 :DataPlaneHeartbeat;
    # It is about to leave and takes no new requests.
    leaving @4 :Void;
    # Every request that arrives from now on meets the routes of an update that asked for this confirmation.
    applied @5 :RoutesApplied;
  }
}

# The load of one function on one shard since that shard's last report of it.
struct FunctionLoad {
  # Which function. 1 to 256 bytes.
  function @0 :Text;
  # Which shard of the data plane.
  shard @1 :UInt32;
  # Requests waiting for a slot now.
  waiting @2 :UInt32;
  # Requests in sandboxes now.
  inFlight @3 :UInt32;
  # Waiting and in flight, averaged over the interval. Finite, not negative.
  averageConcurrency @4 :Float64;
  # Requests that came in the interval.
  arrivals @5 :UInt64;
  # Requests that were finished in the interval.
  completions @6 :UInt64;
  # Time the finished ones spent in sandboxes, summed.
  busyNs @7 :Int64;
  # What this report covers.
  intervalNs @8 :Int64;
  # Sandboxes with a request in flight now, of any shard; filled in by the function's home shard only.
  occupied @9 :List(UInt64);
}

# See DataPlaneMessage.released. Sent after an update that lowered the share, or took the sandbox out of the routes, once
# so few requests are in the sandbox.
struct SlotsReleased {
  # Which sandbox.
  id @0 :UInt64;
  # What the data plane may still use; 0 = nothing is in flight any more.
  slots @1 :UInt32;
  # The number of the update that lowered it; 0 = an update of an earlier session.
  update @2 :UInt64;
}

# See DataPlaneMessage.applied.
struct RoutesApplied {
  # The number of the update.
  update @0 :UInt64;
}

# See DataPlaneMessage.suspected.
struct SandboxSuspected {
  # Which sandbox.
  id @0 :UInt64;
  # What was tried and what happened.
  detail @1 :Text;
}

# See DataPlaneMessage.heartbeat.
struct DataPlaneHeartbeat {
  # Requests of all functions, waiting ones included.
  requestsInFlight @0 :UInt32;
}

# --- control -> data plane ----------------------------------------------------------------------------------------

# One thing a data plane shall know.
struct DataPlaneOrder {
  union {
    # New routes of functions.
    routes @0 :RouteUpdate;
    # Says nothing: a union has at least two members.
    nothing @1 :Void;
  }
}

# The routes of some functions or of all.
struct RouteUpdate {
  # Of the leader that says so.
  term @0 :UInt64;
  # True: functions that are not in the list are not there.
  complete @1 :Bool;
  # Each function at most once.
  functions @2 :List(FunctionRoute);
  # The next message of the stream holds more functions of the same update: a receiver joins the parts before it looks
  # at any. Senders cut an update into parts of about a mebibyte, so that none comes near the limit of a message.
  continues @3 :Bool;
  # True: the sender has just started and does not know every sandbox; what is missing here stays as it is.
  provisional @4 :Bool;
  # Grows with every update of a term.
  number @5 :UInt64;
  # The sender waits for `applied`.
  confirm @6 :Bool;
}

# The whole route of one function. An older version never replaces a newer one of the same term.
struct FunctionRoute {
  # Which function. 1 to 256 bytes.
  function @0 :Text;
  # The revision that serves; 0 = none yet.
  revision @1 :UInt32;
  # Grows with every change.
  version @2 :UInt64;
  # The limits of its requests.
  limits @3 :RequestLimits;
  # What its sandboxes speak.
  protocol @4 :HttpProtocol;
  # The function is not there any more.
  deleted @5 :Bool;
  # When not `none`: no sandbox can be had now, and this is what requests are answered with.
  unavailable @6 :Reason;
  # In words.
  unavailableDetail @7 :Text;
  # Those that take requests.
  sandboxes @8 :List(RoutedSandbox);
}

# A sandbox that takes requests.
struct RoutedSandbox {
  # Which sandbox.
  id @0 :UInt64;
  # The node it is on. 1 to 256 bytes.
  node @1 :Text;
  # Where it is reached.
  address @2 :SandboxAddress;
  # This data plane's share of its concurrency limit; 0 = no limit.
  slots @3 :UInt32;
  # How long its start took, for Server-Timing of the requests that waited for it.
  phases @4 :StartPhases;
}

# Why the platform answers a request with an error. See docs/errors.md for each.
enum Reason {
  none @0;
  badRequest @1;
  notFound @2;
  tagNotFound @3;
  unauthorized @4;
  forbidden @5;
  rateLimited @6;
  maxInflight @7;
  queueFull @8;
  queueTimeout @9;
  noCapacity @10;
  noNode @11;
  imagePull @12;
  startTimeout @13;
  startFailed @14;
  probeFailed @15;
  paused @16;
  draining @17;
  storeUnavailable @18;
  bodyTooLarge @19;
  requestTimeout @20;
  responseStartTimeout @21;
  idleTimeout @22;
  maxDuration @23;
  sandboxLost @24;
  sandboxReset @25;
  badResponse @26;
  clientGone @27;
  internal @28;
  overloaded @29;
}
