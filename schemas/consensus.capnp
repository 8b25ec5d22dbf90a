# SPDX-License-Identifier: MIT
#
# The protocol between the members of a group of control planes, and its manual.
#
# Each pair of members has one connection, which the one with the smaller id opens to the other's peer address. It asks
# for the bootstrap capability (Gate) and greets, giving a capability of its own along; from then on both deliver ordered
# batches of messages to each other. A connection that ends is noticed at once by both; a member that says nothing for the
# silence limit is cut off. An empty batch is a sign of life.
#
# Messages may be lost when a connection ends; the algorithm (src/consensus/core.h) does not mind. Nothing that a message
# claims may be said before it is on the sender's disk.
#
# Ordinals are for ever: new fields go to the end, nothing is renumbered or reused. A receiver ignores messages of a kind
# it does not know.
@0xb3f0a9d2c1e85a47;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("dirigent::schema");

# The bootstrap capability of a member's peer port. One connection greets once.
interface Gate {
  # Both say who they are. `sink` takes what the other has to say as long as the connection lives.
  greet @0 (hello :PeerHello, sink :PeerSink) -> (refusal :Text, hello :PeerHello, sink :PeerSink);
}

# The first words of a member.
struct PeerHello {
  # The protocol number it speaks. One number of difference works.
  protocol @0 :UInt32;
  # Its id, and the id of the member that it believes to talk to; both from 1 on.
  from @1 :UInt32;
  to @2 :UInt32;
  # What followers tell clients of it when it leads: addresses of its ports.
  note @3 :Text;
  # The version of dirigent it runs, for logs.
  version @4 :Text;
}

# One direction of a connection.
interface PeerSink {
  # What the peer has to say, oldest first.
  deliver @0 (messages :List(PeerMessage)) -> ();
}

# One message of the algorithm; which fields mean what for which kind is in src/consensus/messages.h.
struct PeerMessage {
  kind @0 :UInt16;
  term @1 :UInt64;
  index @2 :UInt64;
  logTerm @3 :UInt64;
  commit @4 :UInt64;
  entries @5 :List(LogEntry);
  refused @6 :Bool;
  hint @7 :UInt64;
  isHandover @8 :Bool;
  # Opaque: comes back as it was.
  stampNs @9 :Int64;
  offsetBytes @10 :UInt64;
  totalBytes @11 :UInt64;
  bytes @12 :Data;
  members @13 :Text;
}

# One entry of the log.
struct LogEntry {
  index @0 :UInt64;
  term @1 :UInt64;
  # 0 = a command, 1 = members, 2 = nothing.
  kind @2 :UInt16;
  data @3 :Data;
}
