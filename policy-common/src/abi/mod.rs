//! The layout of every map: the contract between the kernel programs, the agent
//! that fills the maps, and an agent of another version that adopts them.
//!
//! Rules for what stands here: integers and byte arrays only, explicit padding,
//! no `bool`, `Option` or `enum` fields; size and offsets asserted at compile
//! time. A byte array holds wire order, an integer host order. Whoever changes
//! a layout raises [`ABI_VERSION`]: it is part of the pin directory, and no
//! program ever sees a map of another version.

pub mod config;
pub mod conntrack;
pub mod endpoint;
pub mod event;
pub mod fragment;
pub mod identity;
pub mod maps;
pub mod mark;
pub mod policy;
pub mod service;
pub mod stats;

/// Version of the layout in this module; names the pin directory.
pub const ABI_VERSION: u32 = 5;

/// The first version from which this one takes over what is in force: since then
/// an element of the same size means the same in the map of the same name.
pub const FIRST_OF_KIN: u32 = 2;

/// Which way traffic goes, seen from the pod: ingress is what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod; the host side of its veth sees it on egress (`to_pod`).
    Ingress,
    /// From the pod; the host side of its veth sees it on ingress (`from_pod`).
    Egress,
}

impl Direction {
    /// The number that stands for the direction in maps: 0 ingress, 1 egress.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
        }
    }

    /// The direction with this number; any number but 0 is egress.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        if index == 0 {
            Self::Ingress
        } else {
            Self::Egress
        }
    }

    /// The other direction.
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// IP version of a packet, as maps store it.
pub mod family {
    /// IPv4.
    pub const V4: u8 = 4;
    /// IPv6.
    pub const V6: u8 = 6;
}

/// IANA protocol numbers that the datapath treats by name.
pub mod protocol {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
}
