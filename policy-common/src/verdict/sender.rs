//! The egress policy of a pod of this node, asked where its packet leaves: on
//! the destination that it has after everybody who translates addresses.
//!
//! Two kinds of packets come here. Those that were left undecided at the source
//! are judged by policy alone: they are no replies, and were never judged. Those
//! without a mark are judged with the sender's records, because a mark that
//! somebody wiped may have said that the packet was a reply.

use crate::abi::Direction;
use crate::abi::conntrack::{CT_FROM_NODE, CT_OPENED_BY_POD, CtKey};
use crate::abi::endpoint::PolicyWord;
use crate::abi::event::DropReason;
use crate::packet::{Kind, Packet, bytes16};

use super::decide::{Identities, Records, Verdict, port_of, reason_of};
use super::judge::PolicyTables;

/// The pod that sent a packet.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// Slot of its endpoint.
    pub slot: u32,
    /// Number of its endpoint.
    pub endpoint: u32,
    /// Its policies.
    pub word: PolicyWord,
    /// The mark says that the packet was left undecided.
    pub marked: bool,
}

/// Judges a packet on its destination as it is now. That it does not go back to
/// its sender is for the caller to know.
#[inline(always)]
pub fn judge_sender<T: PolicyTables + Identities, R: Records>(
    tables: &T,
    records: &R,
    sender: &Sender,
    packet: &Packet,
) -> Verdict {
    let policy = sender.word.policy(Direction::Egress);
    if policy == PolicyWord::NOT_ISOLATED {
        return Verdict::PASS;
    }
    if packet.kind == Kind::Fragment {
        return Verdict::drop(DropReason::Fragment);
    }
    let peer = tables.peer(packet.family, packet.dst);
    let port = port_of(packet.kind, packet.dst_port);
    let said = tables.judge(policy, peer.identity, packet.protocol, port);
    let mut verdict = Verdict {
        denied: reason_of(packet.kind, said.denied),
        rule: said.rule,
        identity: peer.identity,
        log: said.log,
        ..Verdict::PASS
    };
    if said.allows() || sender.marked || packet.kind.only_opens() {
        return verdict;
    }
    let key = CtKey {
        peer: bytes16(packet.dst),
        endpoint: sender.endpoint,
        local_port: packet.src_port,
        peer_port: packet.dst_port,
        protocol: packet.protocol,
        family: packet.family,
        pad: [0; 2],
    };
    // It is isolated for egress: that is why it is asked.
    let (record, entry, _) = records.look_up(sender.slot, &key, true);
    if record.is_none() || entry.flags & CT_OPENED_BY_POD != 0 {
        return verdict;
    }
    let ingress = sender.word.policy(Direction::Ingress);
    let is_reply = ingress == PolicyWord::NOT_ISOLATED
        || entry.generation == sender.word.generation()
        || entry.flags & CT_FROM_NODE != 0
        || tables
            .judge(
                ingress,
                peer.identity,
                packet.protocol,
                port_of(packet.kind, packet.src_port),
            )
            .allows();
    if is_reply {
        verdict = Verdict {
            identity: peer.identity,
            ..Verdict::PASS
        };
    }
    verdict
}

#[cfg(test)]
mod tests;
