// SPDX-License-Identifier: MIT
//
// Messages of the group to and from schemas/consensus.capnp. read() trusts nothing.
#pragma once

#include <vector>

#include "consensus.capnp.h"
#include "consensus/messages.h"

namespace dirigent::consensus {

// About how many bytes it takes on the wire.
std::size_t weight(const Message& message);
void write(schema::PeerMessage::Builder to, const Message& from);
// Messages of kinds that are not known are left out. corrupt: an entry of an unknown kind, or a broken list of members.
Result<std::vector<Message>> read(capnp::List<schema::PeerMessage>::Reader from, MemberId sender, MemberId receiver);

}  // namespace dirigent::consensus
