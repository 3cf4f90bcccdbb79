//! The per-CPU cache of flows that passed: no helper call on a hit.
//!
//! Only what passed is cached, the whole key is compared, and an entry is good
//! for one generation of the endpoint's policy word: a policy change empties the
//! cache for that pod by itself. Entries live [`LIFETIME_TICKS`], so the slow
//! path, which refreshes the connection record, runs a few times a second.
//! TCP SYN, FIN and RST, ICMP and fragments must not be put here.

/// How long an entry is good, in kernel ticks (jiffies): 0.13 s at 1000 Hz, half
/// a second at 250 Hz, 1.3 s at 100 Hz. Any of them is far below every
/// connection timeout, so nothing needs to know the kernel's tick rate.
pub const LIFETIME_TICKS: u32 = 128;

/// The whole flow, as words to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FlowKey {
    /// Source address, 16 bytes as they stand in a [`crate::packet::Packet`].
    pub src: [u64; 2],
    /// Destination address, likewise.
    pub dst: [u64; 2],
    /// Source port, destination port << 16, protocol << 32, direction << 40,
    /// family << 48, sent by the node << 56.
    pub tuple: u64,
    /// Endpoint slot, generation << 32.
    pub owner: u64,
}

/// One cached flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FlowEntry {
    /// Whose entry it is.
    pub key: FlowKey,
    /// Tick (low 32 bits of jiffies) from which it is no longer good.
    pub expiry: u32,
    /// State that a packet of the flow gets in its mark, see
    /// [`crate::abi::mark`], where its sender is isolated for egress.
    pub state: u32,
    /// Zero; rounds an entry up to a cache line.
    pub reserved: u64,
}

/// Two flows that share a place in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FlowSet {
    /// The newer is first.
    pub ways: [FlowEntry; 2],
}

const _: () = assert!(size_of::<FlowEntry>() == 64);

#[expect(
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time, far below 2^24"
)]
const SET_MASK: u32 = crate::abi::maps::FLOW_SETS as u32 - 1;

impl FlowKey {
    /// Place in the cache: the set's index.
    #[inline(always)]
    pub fn set_index(&self) -> u32 {
        // Three rounds of multiply and fold: addresses and ports that count up
        // together must not cancel each other out. The cache compares whole keys,
        // so a collision costs time, never a wrong verdict.
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |hash: u64, word: u64| {
            let product = (hash ^ word).wrapping_mul(K);
            product ^ product >> 32
        };
        let addresses = fold(self.src[0].rotate_left(32) ^ self.src[1], self.owner);
        let both = fold(addresses, self.dst[0].rotate_left(32) ^ self.dst[1]);
        let product = (both ^ self.tuple).wrapping_mul(K);
        // 24 bits are left, and a set's index takes fewer.
        (product >> 40) as u32 & SET_MASK
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
        if self.ways[0].key != *key {
            self.ways[1] = self.ways[0];
        }
        self.ways[0] = FlowEntry {
            key: *key,
            expiry: now_ticks.wrapping_add(LIFETIME_TICKS),
            state,
            reserved: 0,
        };
    }
}

impl FlowEntry {
    /// The state with which the flow passed, if it is this one's entry and still
    /// good.
    #[inline(always)]
    pub fn recall(&self, key: &FlowKey, now_ticks: u32) -> Option<u32> {
        // Unsigned and wrapping: an entry from the future or long past is stale.
        let fresh = self.expiry.wrapping_sub(now_ticks).wrapping_sub(1) < LIFETIME_TICKS;
        if fresh && self.key == *key {
            Some(self.state)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> FlowKey {
        FlowKey {
            src: [n, 1],
            dst: [2, 3],
            tuple: 4,
            owner: 5 | 9 << 32,
        }
    }

    #[test]
    fn hit_needs_the_whole_key_and_generation() {
        let mut set = FlowSet::default();
        set.insert(&key(1), 0, 100);
        assert_eq!(set.hit(&key(1), 100), Some(0));
        assert_eq!(set.hit(&key(2), 100), None);
        let newer = FlowKey {
            owner: 5 | 10 << 32,
            ..key(1)
        };
        assert_eq!(set.hit(&newer, 100), None);
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
    }
}
