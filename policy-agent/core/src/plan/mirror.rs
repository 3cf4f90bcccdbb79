//! What is in the kernel's maps, as far as planning needs it.
//!
//! Read back from the kernel when an agent starts, kept up to date by
//! [`Mirror::apply`] while it runs. Planning depends on this and on the desired
//! state alone, never on what an earlier agent remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::abi::endpoint::{Endpoint, PolicyWord};
use policy_common::abi::identity::Identity;
use policy_common::abi::policy::{Interval, PolicyKey, PortSet};
use policy_common::abi::service::{Svc, SvcKey};

use crate::ops::Op;

/// An address's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRow {
    /// Its identity.
    pub identity: Identity,
    /// It is this node's own.
    pub node: bool,
    /// The slot of the pod of this node whose it is and whose egress is
    /// isolated; 0: none's.
    pub slot: u32,
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
    /// Port sets that are not all zero. Those that no row names count for
    /// nothing, except that they need not be written again.
    pub port_sets: BTreeMap<u32, StoredPortSet>,
    /// Runs of extents that were written and that no port set names yet, by
    /// first element. Nothing to read back: without it they count as free.
    pub staged: BTreeMap<u32, Vec<Interval>>,
    /// Addresses.
    pub hosts: BTreeMap<IpAddr, HostRow>,
    /// Prefixes.
    pub prefixes: BTreeMap<IpNet, Identity>,
    /// What is behind addresses and ports of Services.
    pub services: BTreeMap<SvcKey, Svc>,
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

impl Mirror {
    /// Takes in an operation that was done.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Extent { start, intervals } => self.stage(*start, intervals),
            Op::PortSet { id, value } => self.store(*id, value),
            Op::Row { key, port_set } => {
                self.rows.insert(*key, *port_set);
            }
            Op::Host {
                address,
                identity,
                node,
                slot,
            } => {
                let row = HostRow {
                    identity: *identity,
                    node: *node,
                    slot: *slot,
                };
                self.hosts.insert(*address, row);
            }
            Op::Prefix { prefix, identity } => {
                self.prefixes.insert(*prefix, *identity);
            }
            Op::Service { value } => {
                self.services.insert(value.key, *value);
            }
            Op::Endpoint { slot, value } => {
                self.endpoints.insert(*slot, *value);
                self.endpoint_number = self.endpoint_number.max(value.number);
                let generation = PolicyWord(value.word).generation();
                self.generation = self.generation.max(generation);
            }
            Op::Interface { ifindex, slot } => {
                self.interfaces.insert(*ifindex, *slot);
            }
            Op::Attach { ifindex } => {
                self.attached.insert(*ifindex);
            }
            Op::LinkLocal { slot, address } => {
                if let Some(endpoint) = self.endpoints.get_mut(slot) {
                    endpoint.link_local6 = address.octets();
                }
            }
            Op::Word { slot, word } => {
                if let Some(endpoint) = self.endpoints.get_mut(slot) {
                    endpoint.word = word.0;
                }
                self.generation = self.generation.max(word.generation());
            }
            Op::Grace => {}
            Op::DeleteRow { key } => {
                self.rows.remove(key);
            }
            Op::DeleteHost { address } => {
                self.hosts.remove(address);
            }
            Op::DeletePrefix { prefix } => {
                self.prefixes.remove(prefix);
            }
            Op::DeleteService { key } => {
                self.services.remove(key);
            }
            Op::Detach { ifindex } => {
                self.attached.remove(ifindex);
            }
            Op::DeleteInterface { ifindex } => {
                self.interfaces.remove(ifindex);
            }
            Op::DeleteEndpoint { slot } => {
                self.endpoints.remove(slot);
            }
        }
    }

    /// The slot that its interface leads to, of an endpoint that is there.
    pub(super) fn is_led(&self, slot: u32, endpoint: &Endpoint) -> bool {
        self.interfaces.get(&endpoint.ifindex) == Some(&slot)
    }

    fn stage(&mut self, start: u32, intervals: &[Interval]) {
        let len = |run: &[Interval]| u32::try_from(run.len()).unwrap_or(u32::MAX);
        let end = start.saturating_add(len(intervals));
        let beside =
            |first: u32, run: &[Interval]| first >= end || first.saturating_add(len(run)) <= start;
        // Whose run this overwrites was named by no row, or it is damage that
        // reading back finds.
        self.port_sets
            .retain(|_, set| set.extent == 0 || beside(set.extent, &set.intervals));
        self.staged.retain(|first, run| beside(*first, run));
        self.staged.insert(start, intervals.to_vec());
    }

    fn store(&mut self, id: u32, value: &PortSet) {
        let count = value.count as usize;
        let intervals = if value.extent == 0 {
            value.inline[..count.min(value.inline.len())].to_vec()
        } else {
            let mut run = self.staged.remove(&value.extent).unwrap_or_default();
            run.truncate(count);
            run
        };
        let zero = count == 0 && (value.default_rule, value.default_action) == (0, 0);
        if zero && value.extent == 0 {
            self.port_sets.remove(&id);
            return;
        }
        let set = StoredPortSet {
            extent: value.extent,
            intervals,
            default_rule: value.default_rule,
            default_action: value.default_action,
        };
        self.port_sets.insert(id, set);
    }
}
