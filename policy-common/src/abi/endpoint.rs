//! Endpoints: what the kernel knows of each pod of this node.

use super::Direction;

/// An element of the direct-mapped ifindex table.
///
/// The element is `ifindex % IFINDEX_ENTRIES`; its own ifindex tells whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct IfindexEntry {
    /// Interface that the element belongs to; 0: nobody's.
    pub ifindex: u32,
    /// Slot of its endpoint; 0: none.
    pub slot: u32,
}

/// What the packet path knows of a pod. One cache line.
///
/// Everything but `word` is written before the slot's interface is published and
/// stays while the endpoint lives, except the addresses' flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Endpoint {
    /// The policy word, see [`PolicyWord`]: read once per packet, replaced by one
    /// aligned 8-byte store.
    pub word: u64,
    /// Number of the endpoint, never used again: part of every connection
    /// record, so that a new pod never inherits an old one's connections.
    pub number: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// The pod's IPv4 address, wire order; zero: it has none.
    pub addr4: [u8; 4],
    /// Interface index of the host side of its veth.
    pub ifindex: u32,
    /// The pod's IPv6 address, wire order; zero: it has none.
    pub addr6: [u8; 16],
    /// The link-local IPv6 address of the pod's interface, wire order; zero:
    /// not known.
    pub link_local6: [u8; 16],
    /// Zero.
    pub reserved: [u8; 8],
}

impl Endpoint {
    /// An empty slot.
    pub const EMPTY: Self = Self {
        word: 0,
        number: 0,
        flags: 0,
        addr4: [0; 4],
        ifindex: 0,
        addr6: [0; 16],
        link_local6: [0; 16],
        reserved: [0; 8],
    };
}

/// The slot holds an endpoint.
pub const FLAG_USED: u32 = 1;
/// Sources that are not the pod's own address are let through.
pub const FLAG_NO_SPOOF_CHECK: u32 = 2;

/// A pod's whole policy in one word: generation, ingress policy, egress policy.
///
/// Storing it is how a policy change takes effect: the next packet, on every
/// CPU, sees all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct PolicyWord(pub u64);

impl PolicyWord {
    /// Policy number of a direction that nothing isolates.
    pub const NOT_ISOLATED: u16 = 0;

    /// Packs a word.
    #[inline(always)]
    pub const fn new(generation: u32, ingress: u16, egress: u16) -> Self {
        Self((generation as u64) << 32 | (ingress as u64) << 16 | egress as u64)
    }

    /// Number of the change that made this word, unique on the node while it
    /// runs; what is remembered of a verdict carries it.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The policy of a direction; [`Self::NOT_ISOLATED`]: everything passes.
    #[inline(always)]
    pub const fn policy(self, direction: Direction) -> u16 {
        match direction {
            Direction::Ingress => (self.0 >> 16 & 0xffff) as u16,
            Direction::Egress => (self.0 & 0xffff) as u16,
        }
    }
}

const _: () = {
    assert!(size_of::<IfindexEntry>() == 8);
    assert!(size_of::<Endpoint>() == 64);
    assert!(core::mem::offset_of!(Endpoint, word) == 0);
    assert!(core::mem::offset_of!(Endpoint, addr6) == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_gives_back_what_was_packed() {
        let word = PolicyWord::new(u32::MAX - 1, 7, 65_535);
        assert_eq!(word.generation(), u32::MAX - 1);
        assert_eq!(word.policy(Direction::Ingress), 7);
        assert_eq!(word.policy(Direction::Egress), 65_535);
    }
}
