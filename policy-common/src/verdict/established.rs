//! The middle of a TCP connection whose record says all there is to say: most packets
//! that the flow cache does not know.
//!
//! [`mod@super::decide`] comes to the same, by more questions; tests hold the two
//! together. Who the peer is need not be known, where the record's opener was judged
//! under the word in force: but for what an isolated pod sends, which is looked at once
//! more where it leaves if it is for the node.

use super::decide::{Identities, Records, Table};
use crate::abi::Direction;
use crate::abi::conntrack::{
    CT_CONFIRMED, CT_OPENED_BY_POD, CT_REPLIED, CT_RESET, CT_UNDECIDED, CtEntry,
};
use crate::abi::endpoint::PolicyWord;
use crate::conntrack;
use crate::packet::{Kind, Packet};

/// Whether a packet passes by its record alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// It passes, changes nothing in the record, and its flow may be cached.
    Passes,
    /// [`mod@super::decide`] knows.
    Ask,
}

/// Asks the record of a packet that goes this way from or to an endpoint, under this word
/// (which is in force), and that nothing exempts from policy: neither did the node send
/// it, nor the endpoint to itself.
#[inline(always)]
pub fn established<T: Identities, R: Records>(
    tables: &T,
    records: &R,
    word: PolicyWord,
    endpoint: u32,
    direction: Direction,
    packet: &Packet,
) -> Middle {
    // The first fragment of a segment is one that others follow.
    if !matches!(packet.kind, Kind::TcpData) || !packet.is_whole() {
        return Middle::Ask;
    }
    let key = records.key(endpoint, direction, packet);
    let Some(record) = records.find(Table::Main, &key) else {
        return Middle::Ask;
    };
    let entry = records.read(record);
    let isolated_egress = direction == Direction::Egress
        && word.policy(Direction::Egress) != PolicyWord::NOT_ISOLATED;
    if entry.tag == conntrack::tag(&key)
        && entry.generation == word.generation()
        && stays(&entry)
        && !(isolated_egress && is_open_ended(tables, &entry, packet))
        && records.now_ns().saturating_sub(entry.last_seen_ns) < conntrack::REFRESH_NS
    {
        Middle::Passes
    } else {
        Middle::Ask
    }
}

/// Whether a segment leaves the flags as they are.
#[inline(always)]
const fn stays(entry: &CtEntry) -> bool {
    const BOTH: u32 = CT_REPLIED | CT_CONFIRMED;
    entry.flags & (BOTH | CT_RESET) == BOTH
}

/// Whether what the pod sends on a connection of its own may be translated on its way.
/// (What goes back to an opener is not.)
#[inline(always)]
fn is_open_ended<T: Identities>(tables: &T, entry: &CtEntry, packet: &Packet) -> bool {
    entry.flags & CT_OPENED_BY_POD != 0
        && (entry.flags & CT_UNDECIDED != 0 || tables.peer(packet.family, packet.dst).node)
}
