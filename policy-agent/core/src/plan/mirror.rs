//! What is in the kernel's maps, as far as planning needs it.
//!
//! Read back from the kernel when an agent starts, kept up to date by
//! [`Mirror::apply`] while it runs. Planning depends on this and on the desired
//! state alone, never on what an earlier agent remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::abi::endpoint::Endpoint;
use policy_common::abi::identity::Identity;
use policy_common::abi::policy::{Interval, PolicyKey};

/// An address's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRow {
    /// Its identity.
    pub identity: Identity,
    /// It is this node's own.
    pub node: bool,
}

/// A port set with its intervals, wherever they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPortSet {
    /// Element of the extents where the intervals start; 0: in the set itself.
    pub extent: u32,
    /// The intervals, sorted and disjoint.
    pub intervals: Vec<Interval>,
    /// Rule that answers everywhere else.
    pub default_rule: u32,
    /// What it says.
    pub default_action: u32,
}

/// Contents of the kernel's maps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirror {
    /// Rows: policy and identity to port set.
    pub rows: BTreeMap<PolicyKey, u32>,
    /// Port sets that are not empty.
    pub port_sets: BTreeMap<u32, StoredPortSet>,
    /// Addresses.
    pub hosts: BTreeMap<IpAddr, HostRow>,
    /// Prefixes.
    pub prefixes: BTreeMap<IpNet, Identity>,
    /// Slots that hold an endpoint.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Interface index to slot.
    pub interfaces: BTreeMap<u32, u32>,
    /// Interfaces that have both programs of this agent's version.
    pub attached: BTreeSet<u32>,
    /// The newest generation given to a word.
    pub generation: u32,
    /// The newest endpoint number.
    pub endpoint_number: u32,
}
