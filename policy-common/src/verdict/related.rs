//! Whether an ICMP error belongs to something that a pod may do: judged by the
//! packet that it quotes.
//!
//! An error passes where a connection of the pod is known to which the quoted
//! packet belongs, and which is allowed now, or where a policy that isolates the
//! pod allows the quoted flow by name. That nothing isolates a direction is not
//! enough without a record: anybody could then quote anything to a pod that is to
//! be reached by nobody.
//!
//! Nothing is written: an error keeps no connection alive.

use crate::abi::Direction;
use crate::abi::conntrack::{CT_FROM_NODE, CT_OPENED_BY_POD, CtKey};
use crate::abi::endpoint::PolicyWord;
use crate::packet::{Packet, bytes16};

use super::decide::{Identities, Records, port_of};
use super::judge::PolicyTables;

/// The pod that sends or receives an error.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Slot of its endpoint.
    pub slot: u32,
    /// Number of its endpoint.
    pub endpoint: u32,
    /// Its policies.
    pub word: PolicyWord,
    /// Which way the error goes.
    pub direction: Direction,
}

/// Whether an error, and the packet that it quotes, belong to what the pod may do.
#[inline(always)]
pub fn is_related<T: PolicyTables + Identities, R: Records>(
    tables: &T,
    records: &R,
    owner: &Owner,
    error: &Packet,
    quoted: &Packet,
) -> bool {
    // An error goes to who sent what it quotes, and a pod reports of what it got.
    if quoted.src != error.dst || owner.direction == Direction::Egress && quoted.dst != error.src {
        return false;
    }
    let (peer_address, peer_port, local_port) = match owner.direction {
        Direction::Ingress => (quoted.dst, quoted.dst_port, quoted.src_port),
        Direction::Egress => (quoted.src, quoted.src_port, quoted.dst_port),
    };
    let key = CtKey {
        peer: bytes16(peer_address),
        endpoint: owner.endpoint,
        local_port,
        peer_port,
        protocol: quoted.protocol,
        family: quoted.family,
        pad: [0; 2],
    };
    // It is isolated: that is why it is asked.
    let (record, entry, _) = records.look_up(owner.slot, &key, true);
    let word = owner.word;
    let opener = if entry.flags & CT_OPENED_BY_POD != 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    if record.is_some()
        && (word.policy(opener) == PolicyWord::NOT_ISOLATED
            || entry.generation == word.generation()
            || entry.flags & CT_FROM_NODE != 0)
    {
        return true;
    }
    let peer = tables.peer(quoted.family, peer_address);
    let allows = |direction| {
        let policy = word.policy(direction);
        let port = match direction {
            Direction::Ingress => local_port,
            Direction::Egress => peer_port,
        };
        let port = port_of(quoted.kind, port);
        policy != PolicyWord::NOT_ISOLATED
            && tables
                .judge(policy, peer.identity, quoted.protocol, port)
                .allows()
    };
    // A connection that is known is allowed in its opener's direction, or not.
    allows(opener) || record.is_none() && allows(opener.reverse())
}
