//! The kernel's maps in memory, for tests and dry runs.
//!
//! Takes the operations that the kernel's maps take, and answers as the kernel
//! does: the same judge reads these tables. Sees the maps' layout only, and knows
//! nothing of how a plan was made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use policy_common::abi::endpoint::{Endpoint, FLAG_USED, PolicyWord};
use policy_common::abi::identity::{self, Identity};
use policy_common::abi::policy::{INLINE_INTERVALS, Interval, PolicyKey, PortSet};
use policy_common::abi::service::{Svc, SvcKey};
use policy_common::abi::{Direction, family};
use policy_common::packet::{Words, bytes16};
use policy_common::verdict::judge::{Judgement, judge};
use policy_common::verdict::{Identities, Peer, PolicyTables};

use crate::ops::Op;
use crate::plan::{HostRow, Mirror, StoredPortSet};

/// An element of the port sets that nobody wrote.
const ZERO_SET: PortSet = PortSet {
    count: 0,
    extent: 0,
    default_rule: 0,
    default_action: 0,
    inline: [Interval {
        first: 0,
        last: 0,
        rule: 0,
        action: 0,
    }; INLINE_INTERVALS],
};

/// The maps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryDatapath {
    rows: HashMap<PolicyKey, u32>,
    port_sets: BTreeMap<u32, PortSet>,
    extents: Vec<Interval>,
    hosts: HashMap<IpAddr, HostRow>,
    prefixes: HashMap<IpNet, Identity>,
    /// Prefixes of each family and length: others are not looked for.
    lengths: BTreeMap<(bool, u8), usize>,
    services: BTreeMap<SvcKey, Svc>,
    endpoints: BTreeMap<u32, Endpoint>,
    interfaces: BTreeMap<u32, u32>,
    attached: BTreeSet<u32>,
    generation: u32,
    endpoint_number: u32,
}

impl MemoryDatapath {
    /// Empty maps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does the operations in order.
    pub fn apply_all(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
        }
    }

    /// Does one operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Extent { start, intervals } => {
                let start = *start as usize;
                let end = start + intervals.len();
                if self.extents.len() < end {
                    self.extents.resize(end, Interval::default());
                }
                self.extents[start..end].copy_from_slice(intervals);
            }
            Op::PortSet { id, value } => {
                self.port_sets.insert(*id, *value);
            }
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
                if self.prefixes.insert(*prefix, *identity).is_none() {
                    *self.lengths.entry(length(prefix)).or_default() += 1;
                }
            }
            Op::Service { value } => {
                self.services.insert(value.key, *value);
            }
            Op::Endpoint { slot, value } => {
                self.count(PolicyWord(value.word));
                self.endpoint_number = self.endpoint_number.max(value.number);
                self.endpoints.insert(*slot, *value);
            }
            Op::Interface { ifindex, slot } => {
                self.interfaces.insert(*ifindex, *slot);
            }
            Op::Attach { ifindex } => {
                self.attached.insert(*ifindex);
            }
            Op::LinkLocal { slot, address } => {
                self.slot(*slot).link_local6 = address.octets();
            }
            Op::Word { slot, word } => {
                self.count(*word);
                self.slot(*slot).word = word.0;
            }
            Op::Grace => {}
            Op::DeleteRow { key } => {
                self.rows.remove(key);
            }
            Op::DeleteHost { address } => {
                self.hosts.remove(address);
            }
            Op::DeletePrefix { prefix } => {
                if self.prefixes.remove(prefix).is_some() {
                    let count = self.lengths.entry(length(prefix)).or_default();
                    *count = count.saturating_sub(1);
                }
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

    /// Reads the maps back, as an agent does that was just started.
    pub fn mirror(&self) -> Mirror {
        let used = |(_, endpoint): &(&u32, &Endpoint)| endpoint.flags & FLAG_USED != 0;
        let endpoints = self.endpoints.iter().filter(used);
        let sets = self.port_sets.iter().filter(|(_, set)| **set != ZERO_SET);
        Mirror {
            rows: self.rows.iter().map(|(key, set)| (*key, *set)).collect(),
            port_sets: sets.map(|(id, set)| (*id, self.read_back(set))).collect(),
            staged: BTreeMap::new(),
            hosts: self.hosts.iter().map(|(a, row)| (*a, *row)).collect(),
            prefixes: self.prefixes.iter().map(|(p, id)| (*p, *id)).collect(),
            services: self.services.clone(),
            endpoints: endpoints.map(|(slot, value)| (*slot, *value)).collect(),
            interfaces: self.interfaces.clone(),
            attached: self.attached.clone(),
            generation: self.generation,
            endpoint_number: self.endpoint_number,
        }
    }

    /// What is behind an address and port of a Service.
    pub fn service(&self, key: &SvcKey) -> Option<&Svc> {
        self.services.get(key)
    }

    /// The endpoint that an interface leads to.
    pub fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        self.endpoints.get(self.interfaces.get(&ifindex)?)
    }

    /// What the policy of an interface's pod says to a peer; `None`: nothing
    /// isolates the pod. An interface that leads nowhere denies.
    pub fn judge(
        &self,
        ifindex: u32,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Judgement> {
        let identity = self.who(peer).identity;
        self.judge_identity(ifindex, direction, identity, protocol, port)
    }

    /// The same of a peer with this identity.
    pub fn judge_identity(
        &self,
        ifindex: u32,
        direction: Direction,
        identity: Identity,
        protocol: u8,
        port: u16,
    ) -> Option<Judgement> {
        let word = self.endpoint(ifindex).map(|e| PolicyWord(e.word));
        // A number without rows denies.
        let policy = word.map_or(u16::MAX - 1, |word| word.policy(direction));
        (policy != PolicyWord::NOT_ISOLATED).then(|| judge(self, policy, identity, protocol, port))
    }

    /// Who an address is.
    pub fn who(&self, address: IpAddr) -> Peer {
        if let Some(row) = self.hosts.get(&address) {
            let (identity, node) = (row.identity, row.node);
            return Peer { identity, node };
        }
        let v6 = address.is_ipv6();
        let lengths = self.lengths.range((v6, 0)..=(v6, 128)).rev();
        let mut lengths = lengths.filter(|(_, count)| **count > 0);
        let around = lengths.find_map(|((_, length), _)| {
            let prefix = IpNet::new(address, *length).ok()?;
            self.prefixes.get(&prefix.trunc()).copied()
        });
        Peer {
            identity: around.unwrap_or(identity::OTHER),
            node: false,
        }
    }

    fn read_back(&self, set: &PortSet) -> StoredPortSet {
        let count = set.count as usize;
        let intervals = if set.extent == 0 {
            set.inline[..count.min(INLINE_INTERVALS)].to_vec()
        } else {
            let run = self.extents.iter().skip(set.extent as usize);
            run.take(count).copied().collect()
        };
        StoredPortSet {
            extent: set.extent,
            intervals,
            default_rule: set.default_rule,
            default_action: set.default_action,
        }
    }

    fn count(&mut self, word: PolicyWord) {
        self.generation = self.generation.max(word.generation());
    }

    fn slot(&mut self, slot: u32) -> &mut Endpoint {
        self.endpoints.entry(slot).or_insert(Endpoint::EMPTY)
    }
}

/// Family and length.
fn length(prefix: &IpNet) -> (bool, u8) {
    (prefix.addr().is_ipv6(), prefix.prefix_len())
}

impl PolicyTables for MemoryDatapath {
    fn row(&self, key: PolicyKey) -> Option<u32> {
        self.rows.get(&key).copied()
    }

    fn port_set<R>(&self, id: u32, read: impl FnOnce(&PortSet) -> R) -> Option<R> {
        Some(read(self.port_sets.get(&id).unwrap_or(&ZERO_SET)))
    }

    fn extent(&self, index: u32) -> Option<Interval> {
        self.extents.get(index as usize).copied()
    }
}

impl Identities for MemoryDatapath {
    fn peer(&self, family: u8, address: Words) -> Peer {
        let bytes = bytes16(address);
        let [.., a, b, c, d] = bytes;
        self.who(if family == family::V4 {
            Ipv4Addr::new(a, b, c, d).into()
        } else {
            Ipv6Addr::from(bytes).into()
        })
    }
}
