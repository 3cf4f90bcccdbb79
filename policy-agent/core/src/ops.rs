//! Operations on the kernel's state: what `plan` says and a datapath does.
//!
//! The order of a list of operations is its meaning: stopping after any of them
//! leaves the old policy in force for every endpoint whose word was not stored
//! yet, and the new one for the others.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use policy_common::abi::endpoint::{Endpoint, PolicyWord};
use policy_common::abi::identity::Identity;
use policy_common::abi::policy::{Interval, PolicyKey, PortSet};
use policy_common::abi::service::{Svc, SvcKey};

/// One write, or one step that writes need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes intervals from this element of the extents on.
    Extent {
        /// First element.
        start: u32,
        /// The intervals.
        intervals: Vec<Interval>,
    },
    /// Writes a port set.
    PortSet {
        /// Its number.
        id: u32,
        /// Its contents.
        value: PortSet,
    },
    /// Makes the policy answer with this port set for this identity.
    Row {
        /// Policy and identity.
        key: PolicyKey,
        /// Number of the port set.
        port_set: u32,
    },
    /// Gives an address an identity.
    Host {
        /// The address.
        address: IpAddr,
        /// Its identity.
        identity: Identity,
        /// It is this node's own.
        node: bool,
        /// The slot of the pod of this node whose it is and whose egress is
        /// isolated; 0: none's.
        slot: u32,
    },
    /// Gives the addresses of a prefix, less longer prefixes, an identity.
    Prefix {
        /// The prefix.
        prefix: IpNet,
        /// Their identity.
        identity: Identity,
    },
    /// Says what is behind an address and port of a Service.
    Service {
        /// The row, its key included.
        value: Svc,
    },
    /// Writes a slot that no interface leads to yet.
    Endpoint {
        /// The slot.
        slot: u32,
        /// Everything in it.
        value: Endpoint,
    },
    /// Leads an interface to a slot.
    Interface {
        /// Interface index of the host side of the veth.
        ifindex: u32,
        /// The slot.
        slot: u32,
    },
    /// Puts the programs on an interface, in front, and pins their links; does
    /// nothing where they are.
    Attach {
        /// Interface index of the host side of the veth.
        ifindex: u32,
    },
    /// Stores the link-local address of a slot.
    LinkLocal {
        /// The slot.
        slot: u32,
        /// The address.
        address: Ipv6Addr,
    },
    /// Stores an endpoint's word: the moment at which a change takes effect.
    Word {
        /// The slot.
        slot: u32,
        /// The word.
        word: PolicyWord,
    },
    /// Waits until no packet that is being judged can still hold what the
    /// operations after this one remove or write anew (an RCU grace period).
    Grace,
    /// Removes a row.
    DeleteRow {
        /// Policy and identity.
        key: PolicyKey,
    },
    /// Removes an address.
    DeleteHost {
        /// The address.
        address: IpAddr,
    },
    /// Removes a prefix.
    DeletePrefix {
        /// The prefix.
        prefix: IpNet,
    },
    /// Removes an address and port of a Service.
    DeleteService {
        /// The row's key.
        key: SvcKey,
    },
    /// Takes the programs off an interface; an interface that is gone is fine.
    Detach {
        /// Interface index.
        ifindex: u32,
    },
    /// Leads an interface nowhere.
    DeleteInterface {
        /// Interface index.
        ifindex: u32,
    },
    /// Empties a slot.
    DeleteEndpoint {
        /// The slot.
        slot: u32,
    },
}
