//! Identities: which peers an address belongs to, in one number.
//!
//! Two addresses have the same identity when every peer that a policy in force
//! on this node names matches both or neither. Numbers are the node's own.
//!
//! Values repeat their key, in front. A hash element may be given to another
//! key while a reader still holds it, and the kernel copies a value front to
//! back: whoever reads the identity first and the key after it, and finds the
//! key to be the one asked for, has read that key's identity.

/// A number that stands for a class of addresses.
pub type Identity = u32;

/// No identity of its own: what no peer of a policy in force matches, and in a
/// policy's rows "every other".
pub const OTHER: Identity = 0;
/// An address whose rows do not fit: denied for every isolated pod.
pub const UNRESOLVED: Identity = u32::MAX;

/// The address is this node's own.
pub const FLAG_NODE: u32 = 1;
/// The address is a pod's of this node; its slot is in the upper half of the
/// flags.
pub const FLAG_LOCAL: u32 = 1 << 1;

const SLOT_SHIFT: u32 = 16;

/// Flags of the address of the pod in this slot, 65,535 at most.
#[inline(always)]
pub const fn local(slot: u32) -> u32 {
    FLAG_LOCAL | slot << SLOT_SHIFT
}

/// Slot of the pod of this node whose address it is; 0: it is none's.
#[inline(always)]
pub const fn local_slot(flags: u32) -> u32 {
    if flags & FLAG_LOCAL == 0 {
        0
    } else {
        flags >> SLOT_SHIFT
    }
}

/// Identity of an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Id4 {
    /// The key once more, wire order.
    pub addr: [u8; 4],
    /// `FLAG_*`.
    pub flags: u32,
    /// Its class.
    pub identity: Identity,
}

/// Identity of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Id6 {
    /// The key once more, wire order.
    pub addr: [u8; 16],
    /// `FLAG_*`.
    pub flags: u32,
    /// Its class.
    pub identity: Identity,
}

/// Identity of the IPv4 addresses whose longest prefix is the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Cidr4 {
    /// Network address of the key once more, wire order.
    pub addr: [u8; 4],
    /// Prefix length of the key once more, in bits.
    pub prefix_len: u32,
    /// Their class.
    pub identity: Identity,
}

/// Identity of the IPv6 addresses whose longest prefix is the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Cidr6 {
    /// Network address of the key once more, wire order.
    pub addr: [u8; 16],
    /// Prefix length of the key once more, in bits.
    pub prefix_len: u32,
    /// Their class.
    pub identity: Identity,
}

const _: () = {
    assert!(super::maps::ENDPOINT_ENTRIES <= 1 << (u32::BITS - SLOT_SHIFT));
    assert!(size_of::<Id4>() == 12);
    assert!(size_of::<Id6>() == 24);
    assert!(size_of::<Cidr4>() == 12);
    assert!(size_of::<Cidr6>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_told_only_of_local_addresses() {
        assert_eq!(local_slot(local(4_095)), 4_095);
        assert_eq!(local_slot(local(7) | FLAG_NODE), 7);
        assert_eq!(local_slot(local(7) & !FLAG_LOCAL), 0);
        assert_eq!(local_slot(FLAG_NODE), 0);
    }
}
