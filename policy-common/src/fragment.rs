//! Which fragments may follow the first of their datagram, as pure functions of a
//! record and time.
//!
//! The first holds the ports and is judged as a whole packet. The others follow it
//! if it passed, and are dropped if it did not, was not seen, or comes after them.
//!
//! What this rests on: a receiver hands nothing on before it has the beginning of
//! a datagram, and every beginning is judged on its own ports. So a fragment that
//! rides on another's verdict can add data to what passed, and nothing else,
//! provided that it does not write over what was judged. Therefore nothing follows
//! that overlaps the first (RFC 1858, RFC 3128, RFC 5722), and the first holds
//! the whole header ([`crate::packet::fragment`]).

use crate::abi::fragment::{AT_EGRESS, AT_INGRESS, AT_LEAVING, FragEntry, FragKey};
use crate::packet::{Packet, bytes16, fragment, words6};

/// How long after the first the others may come, nanoseconds: 30 s, as long as
/// Linux keeps an incomplete IPv4 datagram (`IP_FRAG_TIME`); RFC 791 section 3.2
/// recommends 15 s, RFC 8200 section 4.5 asks for 60 s. What comes later than that
/// was not sent together with the first.
pub const LIFETIME_NS: u64 = 30_000_000_000;

/// Where a fragment is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the endpoint receives it.
    Ingress,
    /// Where the endpoint sends it.
    Egress,
    /// Where what the endpoint sent leaves, to its real destination.
    Leaving,
}

impl Place {
    /// The number that stands for it in maps.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ingress => AT_INGRESS,
            Self::Egress => AT_EGRESS,
            Self::Leaving => AT_LEAVING,
        }
    }
}

/// Key of the datagram that a packet is a fragment of.
#[inline(always)]
pub fn key_of(packet: &Packet, endpoint: u32, place: u8) -> FragKey {
    FragKey {
        src: bytes16(packet.src),
        dst: bytes16(packet.dst),
        id: packet.fragment_id,
        endpoint,
        protocol: if packet.is_v4() { packet.protocol } else { 0 },
        place,
        pad: [0; 2],
    }
}

/// The record of a first fragment that passed under this generation and left this
/// state in the mark.
#[inline(always)]
pub fn record_of(packet: &Packet, tag: u32, generation: u32, state: u8, now_ns: u64) -> FragEntry {
    FragEntry {
        seen_ns: now_ns,
        generation,
        units: fragment::units(packet.fragment),
        state,
        pad: 0,
        tag,
        reserved: 0,
    }
}

/// Whether a fragment that is not the first may follow the one in this record.
#[inline(always)]
pub const fn follows(
    entry: &FragEntry,
    tag: u32,
    generation: u32,
    packet: &Packet,
    now_ns: u64,
) -> bool {
    // What another CPU noted a moment ago may be from the future.
    entry.tag == tag
        && entry.generation == generation
        && now_ns.saturating_sub(entry.seen_ns) <= LIFETIME_NS
        && fragment::units(packet.fragment) >= entry.units
}

/// Hash of a key, for [`FragEntry::tag`]; never 0.
#[inline(always)]
pub fn tag(key: &FragKey) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let (src, dst) = (words6(key.src), words6(key.dst));
    let id = (key.id as u64) << 32 | key.endpoint as u64;
    let rest = (key.protocol as u64) << 8 | key.place as u64;
    let mixed = (src[0] ^ dst[1].rotate_left(17) ^ id).wrapping_mul(K)
        ^ (src[1] ^ dst[0].rotate_left(41) ^ rest)
            .rotate_left(29)
            .wrapping_mul(K);
    (mixed >> 32) as u32 | 1
}

#[cfg(test)]
mod tests;
