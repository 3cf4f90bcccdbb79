//! The per-CPU cache of flows that passed: no helper call on a hit.
//!
//! Only what passed is cached, the whole key is compared, and an entry is good
//! for one generation of the endpoint's policy word: a policy change empties the
//! cache for that pod by itself. Entries live [`LIFETIME_TICKS`], so the slow
//! path, which refreshes the connection record, runs a few times a second.
//! TCP SYN, FIN and RST, ICMP and fragments must not be put here, nor a packet whose
//! own end is not the pod's address: that one is not in the key, so that a set is one
//! cache line.

/// How long an entry is good, in kernel ticks (jiffies): 0.13 s at 1000 Hz, half
/// a second at 250 Hz, 1.3 s at 100 Hz. Any of them is far below every
/// connection timeout, so nothing needs to know the kernel's tick rate.
pub const LIFETIME_TICKS: u32 = 128;

use crate::abi::Direction;
use crate::abi::family;
use crate::packet::{Packet, Words};

/// The whole flow of an endpoint, as words to compare; the endpoint's own address is
/// its slot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FlowKey {
    /// Address of the other end, 16 bytes as they stand in a [`Packet`].
    pub peer: Words,
    /// Source port, destination port << 16, protocol << 32, slot << 40, direction <<
    /// 56, sent by the node << 57, IPv6 << 58; the bits of an entry's state are zero.
    pub tuple: u64,
    /// Generation of the endpoint's word.
    pub generation: u32,
}

/// Where an entry's state begins in its tuple: two bits, see [`crate::abi::mark`].
/// In the word that is compared, so that it is never another flow's.
const STATE_SHIFT: u32 = 62;

/// One cached flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FlowEntry {
    /// As in [`FlowKey`].
    pub peer: Words,
    /// As in [`FlowKey`], with the state that a packet of the flow gets in its mark,
    /// where its sender is isolated for egress.
    pub tuple: u64,
    /// As in [`FlowKey`].
    pub generation: u32,
    /// Tick (low 32 bits of jiffies) from which it is no longer good.
    pub expiry: u32,
}

/// Two flows that share a place in the cache: one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FlowSet {
    /// The newer is first.
    pub ways: [FlowEntry; 2],
}

const _: () = assert!(size_of::<FlowSet>() == 64);

#[expect(
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time, far below 2^24"
)]
const SET_MASK: u32 = crate::abi::maps::FLOW_SETS as u32 - 1;

impl FlowKey {
    /// The flow of a packet whose own end is the address of the endpoint in this slot.
    #[inline(always)]
    pub const fn new(
        packet: &Packet,
        direction: Direction,
        local_origin: bool,
        slot: u32,
        generation: u32,
    ) -> Self {
        Self {
            peer: match direction {
                Direction::Ingress => packet.src,
                Direction::Egress => packet.dst,
            },
            tuple: packet.src_port as u64
                | (packet.dst_port as u64) << 16
                | (packet.protocol as u64) << 32
                | ((slot & 0xffff) as u64) << 40
                | (direction.index() as u64) << 56
                | (local_origin as u64) << 57
                | ((packet.family == family::V6) as u64) << 58,
            generation,
        }
    }

    /// Place in the cache: the set's index.
    #[inline(always)]
    pub const fn set_index(&self) -> u32 {
        // Two rounds of multiply and fold: addresses and ports that count up together
        // must not cancel each other out. The cache compares whole keys, so a
        // collision costs time, never a wrong verdict.
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let once = (self.peer[0].rotate_left(32) ^ self.peer[1]).wrapping_mul(K);
        let twice = (once ^ once >> 32 ^ self.tuple).wrapping_mul(K);
        // 24 bits are left, and a set's index takes fewer.
        (twice >> 40) as u32 & SET_MASK
    }
}

impl FlowSet {
    /// The state with which the flow passed under this generation a moment ago;
    /// `None`: it did not.
    #[inline(always)]
    pub fn hit(&self, key: &FlowKey, now_ticks: u32) -> Option<u32> {
        let newer = self.ways[0].recall(key, now_ticks);
        if newer.is_some() {
            newer
        } else {
            self.ways[1].recall(key, now_ticks)
        }
    }

    /// Remembers that the flow passed, and with which state; the older of the two
    /// others gives way.
    #[inline(always)]
    pub fn insert(&mut self, key: &FlowKey, state: u32, now_ticks: u32) {
        if !self.ways[0].is_of(key) {
            self.ways[1] = self.ways[0];
        }
        self.ways[0] = FlowEntry {
            peer: key.peer,
            tuple: key.tuple | (state as u64) << STATE_SHIFT,
            generation: key.generation,
            expiry: now_ticks.wrapping_add(LIFETIME_TICKS),
        };
    }
}

impl FlowEntry {
    #[inline(always)]
    const fn is_of(&self, key: &FlowKey) -> bool {
        // One test at the end: a flow that is looked for is mostly there.
        (self.peer[0] ^ key.peer[0])
            | (self.peer[1] ^ key.peer[1])
            | (self.tuple ^ key.tuple) << (64 - STATE_SHIFT)
            | (self.generation ^ key.generation) as u64
            == 0
    }

    /// The state with which the flow passed, if it is this one's entry and still
    /// good.
    #[inline(always)]
    pub const fn recall(&self, key: &FlowKey, now_ticks: u32) -> Option<u32> {
        // Unsigned and wrapping: an entry from the future or long past is stale.
        let fresh = self.expiry.wrapping_sub(now_ticks).wrapping_sub(1) < LIFETIME_TICKS;
        if fresh && self.is_of(key) {
            Some((self.tuple >> STATE_SHIFT) as u32)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::packet::words4;

    fn packet(last: u8, port: u16) -> Packet {
        Packet {
            src: words4([10, 0, 0, last]),
            dst: words4([10, 0, 1, 1]),
            src_port: port,
            dst_port: 80,
            protocol: 6,
            family: family::V4,
            ..Packet::EMPTY
        }
    }

    fn key(last: u8) -> FlowKey {
        FlowKey::new(&packet(last, 1_000), Direction::Ingress, false, 5, 9)
    }

    #[test]
    fn hit_needs_the_whole_key_and_generation() {
        let of = |packet: &Packet| FlowKey::new(packet, Direction::Ingress, false, 5, 9);
        let mut set = FlowSet::default();
        let base = packet(1, 1_000);
        set.insert(&of(&base), 0, 100);
        assert_eq!(set.hit(&of(&base), 100), Some(0));
        let mut others = [base; 5];
        others[0].src = words4([10, 0, 0, 2]);
        others[1].src_port += 1;
        others[2].dst_port += 1;
        others[3].protocol = 17;
        others[4].family = family::V6;
        for other in &others {
            assert_eq!(set.hit(&of(other), 100), None, "{other:?}");
        }
        for other in [
            FlowKey::new(&base, Direction::Egress, false, 5, 9),
            FlowKey::new(&base, Direction::Ingress, true, 5, 9),
            FlowKey::new(&base, Direction::Ingress, false, 4_095, 9),
            FlowKey::new(&base, Direction::Ingress, false, 5, 10),
        ] {
            assert_eq!(set.hit(&other, 100), None, "{other:?}");
        }
    }

    #[test]
    fn entry_ends_with_its_lifetime_also_across_wrap_around() {
        for start in [0, 1_000, u32::MAX - 5] {
            let mut set = FlowSet::default();
            set.insert(&key(1), 0, start);
            assert!(
                set.hit(&key(1), start.wrapping_add(LIFETIME_TICKS - 1))
                    .is_some()
            );
            assert_eq!(set.hit(&key(1), start.wrapping_add(LIFETIME_TICKS)), None);
            assert_eq!(set.hit(&key(1), start.wrapping_sub(1)), None);
        }
    }

    #[test]
    fn empty_set_hits_no_flow_of_an_endpoint() {
        for now in [0, 1, 127, 128, u32::MAX] {
            assert_eq!(FlowSet::default().hit(&key(1), now), None, "tick {now}");
        }
    }

    #[test]
    fn third_flow_pushes_out_the_oldest() {
        let mut set = FlowSet::default();
        for n in 1..=3 {
            set.insert(&key(n), 0, 10);
        }
        let told = [3, 2, 1].map(|n| set.hit(&key(n), 11).is_some());
        assert_eq!(told, [true, true, false]);
    }

    #[test]
    fn each_flow_is_remembered_with_its_own_state() {
        let mut set = FlowSet::default();
        set.insert(&key(1), 2, 10);
        set.insert(&key(2), 1, 10);
        assert_eq!(set.hit(&key(1), 11), Some(2));
        assert_eq!(set.hit(&key(2), 11), Some(1));
        set.insert(&key(2), 2, 12);
        assert_eq!(set.hit(&key(2), 13), Some(2), "the newer");
        assert_eq!(set.hit(&key(1), 13), Some(2), "the other is still there");
    }

    #[test]
    fn flows_that_count_up_spread_over_the_sets() {
        let sets: HashSet<u32> = (0..=249u8)
            .flat_map(|last| (0..4).map(move |turn| packet(last, 1_000 + turn)))
            .map(|packet| FlowKey::new(&packet, Direction::Ingress, false, 1, 1).set_index())
            .collect();
        assert!(sets.len() > 800, "{} sets for 1,000 flows", sets.len());
    }
}
