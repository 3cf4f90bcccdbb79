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
    assert!(size_of::<Id4>() == 12);
    assert!(size_of::<Id6>() == 24);
    assert!(size_of::<Cidr4>() == 12);
    assert!(size_of::<Cidr6>() == 24);
};
