//! A desired state in the form in which the kernel asks it.
//!
//! Each compiled policy becomes rows, port sets and an extent of its own, as
//! `plan` would lay them out for the kernel, and [`judge`] is asked: the code
//! that the kernel runs. Nothing here decides anything.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy_common::abi::identity::Identity;
use policy_common::abi::policy::{INLINE_INTERVALS, Interval, PolicyKey, PortSet};
use policy_common::verdict::judge::{Judgement, PolicyTables, judge};

use crate::desired::{ClassId, CompiledPolicy, DesiredState, HostSpec, PortSetSpec};

/// The number under which a table knows its policy.
const POLICY: u16 = 1;

/// One compiled policy.
#[derive(Debug, Clone)]
pub struct PolicyTable {
    rows: HashMap<Identity, u32>,
    /// By number less one: 0 is no port set.
    sets: Vec<PortSet>,
    /// The first element is in no set: 0 says that there is no extent.
    extents: Vec<Interval>,
}

impl PolicyTable {
    /// Lays a compiled policy out.
    pub fn new(policy: &CompiledPolicy) -> Self {
        let mut table = Self {
            rows: HashMap::with_capacity(policy.rows.len() + 1),
            sets: Vec::new(),
            extents: vec![Interval::default()],
        };
        let mut numbers: HashMap<&PortSetSpec, u32> = HashMap::new();
        let default = (&ClassId::OTHER, &policy.default);
        for (class, spec) in [default].into_iter().chain(&policy.rows) {
            let number = match numbers.get(&**spec) {
                Some(number) => *number,
                None => {
                    let number = table.add(spec);
                    numbers.insert(spec, number);
                    number
                }
            };
            table.rows.insert(class.0, number);
        }
        table
    }

    fn add(&mut self, spec: &PortSetSpec) -> u32 {
        let mut set = PortSet {
            count: size(spec.intervals.len()),
            extent: 0,
            default_rule: spec.default_rule,
            default_action: spec.default_action,
            inline: [Interval::default(); INLINE_INTERVALS],
        };
        match set.inline.get_mut(..spec.intervals.len()) {
            Some(inline) => inline.copy_from_slice(&spec.intervals),
            None => {
                set.extent = size(self.extents.len());
                self.extents.extend(&spec.intervals);
            }
        }
        self.sets.push(set);
        size(self.sets.len())
    }

    /// What the policy says to a class.
    pub fn judge(&self, class: ClassId, protocol: u8, port: u16) -> Judgement {
        judge(self, POLICY, class.0, protocol, port)
    }
}

impl PolicyTables for PolicyTable {
    fn row(&self, key: PolicyKey) -> Option<u32> {
        let mine = key.policy == u32::from(POLICY);
        self.rows.get(&key.identity).copied().filter(|_| mine)
    }

    fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R> {
        let at = usize::try_from(id.checked_sub(1)?).ok()?;
        self.sets.get(at).map(read)
    }

    fn extent(&self, index: u32) -> Option<Interval> {
        self.extents.get(usize::try_from(index).ok()?).copied()
    }
}

fn size(length: usize) -> u32 {
    u32::try_from(length).expect("a table in memory has fewer than 2^32 elements")
}

/// Which class an address is in: its own, else that of its longest prefix.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    hosts: HashMap<IpAddr, ClassId>,
    prefixes: HashMap<IpNet, ClassId>,
    /// Lengths of prefixes, longest first, IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

impl Identities {
    /// Those of a desired state.
    pub fn new(desired: &DesiredState) -> Self {
        let class = |(address, host): (&IpAddr, &HostSpec)| (*address, host.class);
        let mut lengths: [BTreeMap<u8, ()>; 2] = Default::default();
        for prefix in desired.prefixes.keys() {
            lengths[family(prefix.addr())].insert(prefix.prefix_len(), ());
        }
        Self {
            hosts: desired.hosts.iter().map(class).collect(),
            prefixes: desired.prefixes.iter().map(|(p, c)| (*p, *c)).collect(),
            lengths: lengths.map(|lengths| lengths.into_keys().rev().collect()),
        }
    }

    /// The class of an address.
    pub fn class(&self, address: IpAddr) -> ClassId {
        if let Some(class) = self.hosts.get(&address) {
            return *class;
        }
        let lengths = self.lengths[family(address)].iter();
        let prefixes = lengths.filter_map(|length| IpNet::new(address, *length).ok());
        prefixes
            .filter_map(|prefix| self.prefixes.get(&prefix.trunc()).copied())
            .next()
            .unwrap_or(ClassId::OTHER)
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// The tables of one node, made as they are asked for.
#[derive(Debug)]
pub struct NodeTables {
    /// What must be in force there.
    pub desired: DesiredState,
    /// Its identities.
    pub identities: Identities,
    policies: BTreeMap<crate::desired::PolicyRef, Arc<PolicyTable>>,
}

impl NodeTables {
    /// Of a desired state.
    pub fn new(desired: DesiredState) -> Self {
        Self {
            identities: Identities::new(&desired),
            desired,
            policies: BTreeMap::new(),
        }
    }

    /// The table of a policy of the desired state.
    pub fn policy(&mut self, policy: crate::desired::PolicyRef) -> Option<Arc<PolicyTable>> {
        if let Some(table) = self.policies.get(&policy) {
            return Some(table.clone());
        }
        let table = Arc::new(PolicyTable::new(self.desired.policies.get(&policy)?));
        self.policies.insert(policy, table.clone());
        Some(table)
    }
}
