//! The peers that policies in force name: atoms of which address classes are made.
//!
//! A peer that several rules name is one atom, counted. An atom goes at
//! [`Atoms::settle`], when nothing names it any more, so that replacing a policy
//! by a similar one does not touch what both name. Port names that egress rules
//! use are kept here too: pods that resolve such a name differently are
//! different peers of that rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::prefixes::Prefixes;
use super::selector_index::SelectorIndex;
use crate::model::{Labels, Peer, Peers, Pod, Policy, PortMatch, Ports, Protocol, Rule};
use policy_common::abi::policy::point;

/// A peer in force. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AtomId(pub u32);

/// A port name that egress rules use. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(pub u32);

/// A port name as rules write it; without a protocol, any.
pub type PortName = (Option<Protocol>, Arc<str>);

/// This node, as a peer of its own pods' egress.
pub const OWN_NODE: AtomId = AtomId(0);

/// What every address of a class has in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Signature {
    /// The peers that match it, sorted.
    pub atoms: Vec<AtomId>,
    /// The [`point`]s to which it resolves port names, where a rule that matches
    /// it asks; sorted, none empty.
    pub names: Vec<(NameId, Vec<u32>)>,
}

/// What [`Atoms::settle`] found different since it was last asked.
#[derive(Debug, Clone, Default)]
pub struct AtomChanges {
    /// Peers that are now named.
    pub added: Vec<AtomId>,
    /// Peers that are no longer named.
    pub removed: BTreeSet<AtomId>,
    /// Prefixes that came, went, or are covered by other blocks.
    pub prefixes: BTreeSet<IpNet>,
    /// Port names that are now used with these peers; `None`: with every peer.
    pub names_used: BTreeSet<(NameId, Option<AtomId>)>,
    /// Some port name is no longer used with some peer.
    pub names_dropped: bool,
}

impl AtomChanges {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.prefixes.is_empty()
            && self.names_used.is_empty()
            && !self.names_dropped
    }
}

/// The peers and port names of the policies in force.
#[derive(Debug, Clone, Default)]
pub struct Atoms {
    ids: HashMap<Peer, AtomId>,
    peers: BTreeMap<AtomId, Named>,
    index: SelectorIndex,
    prefixes: Prefixes,
    own_node: usize,
    own_node_before: bool,
    name_ids: HashMap<PortName, NameId>,
    names: BTreeMap<NameId, NameUse>,
    changes: AtomChanges,
    /// Nothing may name these any more.
    unnamed: BTreeSet<AtomId>,
    last: u32,
}

#[derive(Debug, Clone)]
struct Named {
    peer: Peer,
    rules: usize,
}

/// A port name, and the peers of the rules that use it.
#[derive(Debug, Clone)]
struct NameUse {
    name: PortName,
    /// Rules without peers.
    any: usize,
    peers: BTreeMap<AtomId, usize>,
}

impl Atoms {
    /// Counts what a policy names.
    pub fn add(&mut self, policy: &Policy) {
        for rule in effective(policy.ingress.as_ref()) {
            self.add_peers(rule);
        }
        for rule in effective(policy.egress.as_ref()) {
            let peers = self.add_peers(rule);
            for name in names(rule) {
                self.add_name(name, &peers);
            }
        }
        if names_own_node(policy) {
            self.own_node += 1;
        }
    }

    /// Takes a policy's names out of the count.
    pub fn remove(&mut self, policy: &Policy) {
        for rule in effective(policy.ingress.as_ref()) {
            self.remove_peers(rule);
        }
        for rule in effective(policy.egress.as_ref()) {
            let peers = self.remove_peers(rule);
            for name in names(rule) {
                self.remove_name(&name, &peers);
            }
        }
        if names_own_node(policy) {
            self.own_node -= 1;
        }
    }

    /// The atoms of a rule's peers; `None`: everything.
    fn add_peers(&mut self, rule: &Rule) -> Option<Vec<AtomId>> {
        let Peers::Of(peers) = &rule.peers else {
            return None;
        };
        Some(peers.iter().map(|peer| self.add_peer(peer)).collect())
    }

    fn add_peer(&mut self, peer: &Peer) -> AtomId {
        if let Some(id) = self.ids.get(peer) {
            if let Some(named) = self.peers.get_mut(id) {
                named.rules += 1;
            }
            return *id;
        }
        self.last += 1;
        let id = AtomId(self.last);
        self.ids.insert(peer.clone(), id);
        let named = Named {
            peer: peer.clone(),
            rules: 1,
        };
        self.peers.insert(id, named);
        self.changes.added.push(id);
        match peer {
            Peer::Pods { namespaces, pods } => self.index.insert(namespaces, pods, id.0),
            Peer::IpBlock(block) => {
                let prefixes = self.prefixes.insert(block, id);
                self.changes.prefixes.extend(prefixes);
            }
        }
        id
    }

    fn remove_peers(&mut self, rule: &Rule) -> Option<Vec<AtomId>> {
        let Peers::Of(peers) = &rule.peers else {
            return None;
        };
        let ids: Vec<_> = peers
            .iter()
            .filter_map(|peer| self.ids.get(peer).copied())
            .collect();
        for id in &ids {
            if let Some(named) = self.peers.get_mut(id) {
                named.rules -= 1;
                if named.rules == 0 {
                    self.unnamed.insert(*id);
                }
            }
        }
        Some(ids)
    }

    fn add_name(&mut self, name: PortName, peers: &Option<Vec<AtomId>>) {
        let id = match self.name_ids.get(&name) {
            Some(id) => *id,
            None => {
                self.last += 1;
                self.name_ids.insert(name.clone(), NameId(self.last));
                NameId(self.last)
            }
        };
        let entry = self.names.entry(id).or_insert_with(|| NameUse {
            name,
            any: 0,
            peers: BTreeMap::new(),
        });
        let used = &mut self.changes.names_used;
        match peers {
            None => {
                entry.any += 1;
                if entry.any == 1 {
                    used.insert((id, None));
                }
            }
            Some(peers) => {
                for peer in peers {
                    let count = entry.peers.entry(*peer).or_default();
                    *count += 1;
                    if *count == 1 {
                        used.insert((id, Some(*peer)));
                    }
                }
            }
        }
    }

    fn remove_name(&mut self, name: &PortName, peers: &Option<Vec<AtomId>>) {
        let Some(id) = self.name_ids.get(name) else {
            return;
        };
        let Some(entry) = self.names.get_mut(id) else {
            return;
        };
        match peers {
            None => {
                entry.any -= 1;
                self.changes.names_dropped |= entry.any == 0;
            }
            Some(peers) => {
                for peer in peers {
                    if let Some(count) = entry.peers.get_mut(peer) {
                        *count -= 1;
                        if *count == 0 {
                            entry.peers.remove(peer);
                            self.changes.names_dropped = true;
                        }
                    }
                }
            }
        }
    }

    /// Forgets what nothing names any more, and says what is different.
    pub fn settle(&mut self) -> AtomChanges {
        for id in std::mem::take(&mut self.unnamed) {
            let Some(named) = self.peers.get(&id).filter(|named| named.rules == 0) else {
                continue;
            };
            match &named.peer {
                Peer::Pods { namespaces, pods } => self.index.remove(namespaces, pods, id.0),
                Peer::IpBlock(block) => {
                    let prefixes = self.prefixes.remove(block, id);
                    self.changes.prefixes.extend(prefixes);
                }
            }
            if let Some(named) = self.peers.remove(&id) {
                self.ids.remove(&named.peer);
            }
            // One that came and went since the last time is no change.
            match self.changes.added.iter().position(|added| *added == id) {
                Some(at) => {
                    self.changes.added.swap_remove(at);
                }
                None => {
                    self.changes.removed.insert(id);
                }
            }
        }
        if self.changes.names_dropped {
            let unused = |entry: &NameUse| entry.any == 0 && entry.peers.is_empty();
            self.names.retain(|_, entry| !unused(entry));
            let names = &self.names;
            self.name_ids.retain(|_, id| names.contains_key(id));
        }
        let own_node = self.own_node > 0;
        match (self.own_node_before, own_node) {
            (false, true) => self.changes.added.push(OWN_NODE),
            (true, false) => {
                self.changes.removed.insert(OWN_NODE);
            }
            (false, false) | (true, true) => {}
        }
        self.own_node_before = own_node;
        std::mem::take(&mut self.changes)
    }

    /// The atom of a peer that a policy in force names.
    pub fn atom(&self, peer: &Peer) -> Option<AtomId> {
        self.ids.get(peer).copied()
    }

    /// The peer that an atom stands for.
    pub fn peer(&self, atom: AtomId) -> Option<&Peer> {
        self.peers.get(&atom).map(|named| &named.peer)
    }

    /// Whether a signature is more than the longest prefix of an address says.
    pub fn is_special(&self, signature: &Signature) -> bool {
        let is_block = |atom| matches!(self.peer(atom), Some(Peer::IpBlock(_)));
        !signature.names.is_empty() || signature.atoms.iter().any(|atom| !is_block(*atom))
    }

    /// What is left of a signature without these atoms, and without port names
    /// that are no longer used with what is left; `None`: all of it.
    pub fn retained(&self, signature: &Signature, removed: &BTreeSet<AtomId>) -> Option<Signature> {
        let Signature { atoms, names } = signature;
        let stays = |atom: &AtomId| !removed.contains(atom);
        let used = |id: &NameId| {
            self.names.get(id).is_some_and(|entry| {
                let mut left = atoms.iter().filter(|atom| stays(atom));
                entry.any > 0 || left.any(|atom| entry.peers.contains_key(atom))
            })
        };
        if atoms.iter().all(stays) && names.iter().all(|(id, _)| used(id)) {
            return None;
        }
        Some(Signature {
            atoms: atoms.iter().copied().filter(stays).collect(),
            names: names.iter().filter(|(id, _)| used(id)).cloned().collect(),
        })
    }

    /// Whether a port name is used with one of these peers in particular.
    pub fn names_with(&self, atoms: &[AtomId]) -> bool {
        let mut names = self.names.values();
        names.any(|entry| atoms.iter().any(|atom| entry.peers.contains_key(atom)))
    }

    /// The port name of a number.
    pub fn port_name(&self, name: NameId) -> Option<&PortName> {
        self.names.get(&name).map(|entry| &entry.name)
    }

    /// The number of a port name that an egress rule in force uses.
    pub fn name(&self, name: &PortName) -> Option<NameId> {
        self.name_ids.get(name).copied()
    }

    /// The prefixes of the ipBlocks in force.
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// A namespace has these labels now, or is gone; whether its pods may match
    /// other peers because of it.
    pub fn namespace_changed(&mut self, namespace: &str, labels: Option<&Labels>) -> bool {
        self.index.namespace_changed(namespace, labels)
    }

    /// What peers see in an address.
    ///
    /// `pod` is the pod that owns it, with the labels of its namespace; `node`
    /// says that it is this node's own. The second answer is whether it may be
    /// more than its longest prefix says.
    pub fn signature(
        &mut self,
        address: IpAddr,
        pod: Option<(&Pod, &Labels)>,
        node: bool,
    ) -> (Signature, bool) {
        let mut atoms = Vec::new();
        if node && self.own_node > 0 {
            atoms.push(OWN_NODE);
        }
        if let Some((pod, namespace)) = pod {
            self.index
                .matches(&pod.namespace, namespace, &pod.labels, |id| {
                    atoms.push(AtomId(id));
                });
        }
        let special = node || !atoms.is_empty();
        atoms.extend_from_slice(self.prefixes.covering_address(address));
        atoms.sort_unstable();
        let names = pod.map_or_else(Vec::new, |(pod, _)| self.resolve_names(pod, &atoms));
        let special = special || !names.is_empty();
        (Signature { atoms, names }, special)
    }

    fn resolve_names(&self, pod: &Pod, atoms: &[AtomId]) -> Vec<(NameId, Vec<u32>)> {
        if pod.ports.is_empty() {
            return Vec::new();
        }
        let used = self.names.iter().filter(|(_, entry)| {
            entry.any > 0 || atoms.iter().any(|atom| entry.peers.contains_key(atom))
        });
        used.map(|(id, entry)| (*id, resolve(pod, &entry.name)))
            .filter(|(_, points)| !points.is_empty())
            .collect()
    }
}

/// The [`point`]s of a pod's ports with this name, sorted and unique.
pub fn resolve(pod: &Pod, (protocol, name): &PortName) -> Vec<u32> {
    let mut points: Vec<u32> = pod
        .ports
        .iter()
        .filter(|port| port.name == *name && protocol.is_none_or(|p| p == port.protocol))
        .map(|port| point(port.protocol.number(), port.port))
        .collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// The rules that can match anything.
pub fn effective(rules: Option<&Vec<Rule>>) -> impl Iterator<Item = &Rule> {
    rules.into_iter().flatten().filter(|rule| {
        let peers = match &rule.peers {
            Peers::Any => true,
            Peers::Of(peers) => !peers.is_empty(),
        };
        let ports = match &rule.ports {
            Ports::Any => true,
            Ports::Of(ports) => !ports.is_empty(),
        };
        peers && ports
    })
}

/// The port names of a rule.
pub fn names(rule: &Rule) -> impl Iterator<Item = PortName> {
    let ports = match &rule.ports {
        Ports::Any => &[],
        Ports::Of(ports) => ports.as_slice(),
    };
    ports.iter().filter_map(|port| match port {
        PortMatch::Named { protocol, name } => Some((*protocol, name.clone())),
        PortMatch::Range { .. } => None,
    })
}

/// Whether the policy isolates what its subject sends in a tier that grants the
/// own node.
fn names_own_node(policy: &Policy) -> bool {
    policy.tier.denies_by_default() && policy.egress.is_some()
}
