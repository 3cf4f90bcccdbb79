//! Which class an address and a prefix are in.
//!
//! Addresses whose owner changed are looked at one by one. Where policies name
//! other peers, whole classes are: what an address loses is what its class loses,
//! and what it gains is known from the new peers. Classes whose members stay
//! together keep their number, so that no address has to be written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use super::state::State;
use crate::desired::{ClassId, HostSpec, PodRef};
use crate::model::{IpBlock, NamespaceMatch, Peer, Pod};
use crate::resolve::atoms::{AtomChanges, AtomId, Signature};
use crate::store::Store;

/// A change of class: to that of a signature, or to none of its own.
#[derive(Debug)]
struct Move {
    what: Member,
    from: Option<ClassId>,
    to: Option<Signature>,
}

#[derive(Debug)]
enum Member {
    Host { address: IpAddr, node: bool },
    Prefix(IpNet),
}

/// Addresses that were in one class and gain the same peers.
type Groups = BTreeMap<(Option<ClassId>, Vec<AtomId>), Vec<IpAddr>>;

impl State {
    /// Brings the classes of addresses and prefixes up to date.
    pub(super) fn settle_addresses(&mut self, store: &Store) {
        let atoms = self.atoms.settle();
        let mut single = std::mem::take(&mut self.dirty.addresses);
        let mut groups = Groups::new();
        let by_policy = !self.dirty.all_addresses && !atoms.is_empty();
        if by_policy {
            single.extend(self.naming_differently(store, &atoms));
            let gained = self.gained(store, &atoms.added, &mut single);
            // This node's addresses have an entry whatever their class.
            single.extend(&self.node.addresses);
            for (address, gained) in gained {
                if !single.contains(&address) {
                    let class = self.out.hosts.get(&address).map(|host| host.class);
                    groups.entry((class, gained)).or_default().push(address);
                }
            }
        }
        let mut moves = Vec::new();
        for prefix in &atoms.prefixes {
            moves.extend(self.prefix_move(*prefix));
        }
        for address in &single {
            moves.extend(self.host_move(store, *address));
        }
        if by_policy {
            self.move_classes(&atoms, &single, groups, &mut moves);
        }
        for change in moves {
            self.carry_out(change);
        }
    }

    /// Pods that may resolve port names for rules that did not ask them before.
    fn naming_differently(&self, store: &Store, atoms: &AtomChanges) -> BTreeSet<IpAddr> {
        let mut found = BTreeSet::new();
        for (name, with) in &atoms.names_used {
            let Some((_, name)) = self.atoms.port_name(*name) else {
                continue;
            };
            let block = match with.and_then(|atom| self.atoms.peer(atom)) {
                Some(Peer::IpBlock(block)) => Some(block),
                Some(Peer::Pods { .. }) => {
                    // New peers are found with what addresses gain.
                    let classes: BTreeSet<ClassId> =
                        with.map_or_else(BTreeSet::new, |a| self.classes.with_atom(a).collect());
                    found.extend(self.hosts_of(&classes).map(|(address, _)| *address));
                    continue;
                }
                None => None,
            };
            let has_port = |pod: &Pod| pod.ports.iter().any(|port| port.name == *name);
            for (key, pod) in store.pods() {
                if pod.is_selectable() && has_port(pod) {
                    let owned = pod.addresses().filter(|a| store.owner(*a) == Some(key));
                    found.extend(owned.filter(|a| block.is_none_or(|b| covers(b, *a))));
                }
            }
        }
        found
    }

    fn hosts_of(&self, classes: &BTreeSet<ClassId>) -> impl Iterator<Item = (&IpAddr, &HostSpec)> {
        let none = classes.is_empty();
        let hosts = self.out.hosts.iter().take_while(move |_| !none);
        hosts.filter(|(_, host)| classes.contains(&host.class))
    }

    /// The new peers that each address gains. Those that may resolve port names
    /// because of it are `single`.
    fn gained(
        &self,
        store: &Store,
        added: &[AtomId],
        single: &mut BTreeSet<IpAddr>,
    ) -> HashMap<IpAddr, Vec<AtomId>> {
        let mut added = added.to_vec();
        added.sort_unstable();
        let mut gained: HashMap<IpAddr, Vec<AtomId>> = HashMap::new();
        for atom in added {
            let names = self.atoms.names_with(&[atom]);
            let mut note = |address| {
                if names {
                    single.insert(address);
                } else {
                    gained.entry(address).or_default().push(atom);
                }
            };
            match self.atoms.peer(atom) {
                Some(Peer::Pods { namespaces, pods }) => {
                    each_pod(store, namespaces, |key, pod| {
                        if pod.is_selectable() && pods.matches(&pod.labels) {
                            let owned = pod.addresses().filter(|a| store.owner(*a) == Some(key));
                            owned.for_each(&mut note);
                        }
                    });
                }
                // What has no entry has the class of its prefix.
                Some(Peer::IpBlock(block)) => {
                    let first = Bound::Included(block.cidr.network());
                    let last = Bound::Included(block.cidr.broadcast());
                    let inside = self.out.hosts.range((first, last)).map(|(a, _)| *a);
                    inside.filter(|a| covers(block, *a)).for_each(&mut note);
                }
                None => {}
            }
        }
        gained
    }

    fn host_move(&mut self, store: &Store, address: IpAddr) -> Option<Move> {
        let node = self.node.addresses.contains(&address);
        let pod: Option<&Pod> = store
            .owner(address)
            .and_then(|owner| store.pod(owner))
            .map(AsRef::as_ref);
        let namespace = pod.map(|pod| store.namespace_labels(&pod.namespace));
        let (signature, special) =
            self.atoms
                .signature(address, pod.zip(namespace.as_deref()), node);
        let before = self.out.hosts.get(&address).copied();
        let same = match before {
            None => !special,
            Some(host) => {
                special && host.node == node && self.classes.find(&signature) == Some(host.class)
            }
        };
        (!same).then_some(Move {
            what: Member::Host { address, node },
            from: before.map(|host| host.class),
            to: special.then_some(signature),
        })
    }

    fn prefix_move(&self, prefix: IpNet) -> Option<Move> {
        let signature = self
            .atoms
            .prefixes()
            .blocks(&prefix)
            .map(|blocks| Signature {
                atoms: blocks.to_vec(),
                names: Vec::new(),
            });
        let before = self.out.prefixes.get(&prefix).copied();
        let after = signature.as_ref().map(|s| self.classes.find(s));
        let same = match (before, after) {
            (None, None) => true,
            (Some(before), Some(after)) => after == Some(before),
            (None, Some(_)) | (Some(_), None) => false,
        };
        (!same).then_some(Move {
            what: Member::Prefix(prefix),
            from: before,
            to: signature,
        })
    }

    /// Moves classes, and groups of their members, to what is left of them and
    /// what they gain. `moves` holds those that go by themselves.
    ///
    /// A class that is renamed keeps its rows: policies that are not new do not
    /// name the peers that make the difference.
    fn move_classes(
        &mut self,
        atoms: &AtomChanges,
        single: &BTreeSet<IpAddr>,
        groups: Groups,
        moves: &mut Vec<Move>,
    ) {
        // How many members of a class do not simply stay with it.
        let mut leaving: HashMap<ClassId, usize> = HashMap::new();
        for change in moves.iter() {
            if let (Member::Prefix(_), Some(from)) = (&change.what, change.from) {
                *leaving.entry(from).or_default() += 1;
            }
        }
        for host in single.iter().filter_map(|a| self.out.hosts.get(a)) {
            *leaving.entry(host.class).or_default() += 1;
        }
        for ((class, _), addresses) in &groups {
            if let Some(class) = class {
                *leaving.entry(*class).or_default() += addresses.len();
            }
        }
        let lessened: BTreeMap<ClassId, Signature> =
            if atoms.removed.is_empty() && !atoms.names_dropped {
                BTreeMap::new()
            } else {
                let classes = self.classes.iter();
                let less = classes
                    .filter_map(|(id, s)| Some((id, self.atoms.retained(s, &atoms.removed)?)));
                less.collect()
            };
        // Signatures have to be read before any class gets another.
        let grown = self.grown(&lessened, groups);

        let mut scattered = BTreeMap::new();
        for (class, left) in lessened {
            let staying = self.classes.members(class);
            let staying = staying.saturating_sub(leaving.get(&class).copied().unwrap_or(0));
            if staying == 0 {
                continue;
            }
            let special = self.atoms.is_special(&left);
            if special && self.classes.find(&left).is_none() {
                self.classes.rename(class, left);
            } else {
                scattered.insert(class, special.then_some(left));
            }
        }
        for (from, to, addresses) in grown {
            let special = self.atoms.is_special(&to);
            let whole = from.filter(|class| self.classes.members(*class) == addresses.len());
            let free = special && self.classes.find(&to).is_none();
            if let Some(class) = whole.filter(|_| free) {
                self.classes.rename(class, to);
                continue;
            }
            moves.extend(addresses.into_iter().map(|address| Move {
                what: Member::Host {
                    address,
                    node: false,
                },
                from,
                to: special.then(|| to.clone()),
            }));
        }
        self.move_staying(scattered, moves);
    }

    /// The signature to which each group goes, without those that gain no more
    /// than their prefix does.
    fn grown(
        &self,
        lessened: &BTreeMap<ClassId, Signature>,
        groups: Groups,
    ) -> Vec<(Option<ClassId>, Signature, Vec<IpAddr>)> {
        let mut grown: BTreeMap<(Option<ClassId>, Signature), Vec<IpAddr>> = BTreeMap::new();
        for ((class, gained), addresses) in groups {
            let with = |mut base: Signature| {
                base.atoms.extend(&gained);
                base.atoms.sort_unstable();
                base.atoms.dedup();
                base
            };
            match class {
                Some(class) => {
                    let known = lessened
                        .get(&class)
                        .or_else(|| self.classes.signature(class).map(AsRef::as_ref));
                    let to = with(known.cloned().unwrap_or_default());
                    grown
                        .entry((Some(class), to))
                        .or_default()
                        .extend(addresses);
                }
                None => {
                    for address in addresses {
                        let to = with(Signature {
                            atoms: self.atoms.prefixes().covering_address(address).to_vec(),
                            names: Vec::new(),
                        });
                        grown.entry((None, to)).or_default().push(address);
                    }
                }
            }
        }
        let grown = grown.into_iter();
        grown.map(|((from, to), all)| (from, to, all)).collect()
    }

    /// Moves the members of classes that could not be renamed, other than those
    /// that move already.
    fn move_staying(&self, scattered: BTreeMap<ClassId, Option<Signature>>, moves: &mut Vec<Move>) {
        let moving: BTreeSet<IpAddr> = moves
            .iter()
            .filter_map(|change| match change.what {
                Member::Host { address, .. } => Some(address),
                Member::Prefix(_) => None,
            })
            .collect();
        let classes = scattered.keys().copied().collect();
        for (address, host) in self.hosts_of(&classes) {
            if moving.contains(address) {
                continue;
            }
            moves.push(Move {
                what: Member::Host {
                    address: *address,
                    node: host.node,
                },
                from: Some(host.class),
                to: scattered.get(&host.class).cloned().flatten(),
            });
        }
    }

    fn carry_out(&mut self, change: Move) {
        let class = change.to.map(|signature| self.classes.join(signature));
        if let Some(from) = change.from {
            self.classes.leave(from);
        }
        match change.what {
            Member::Host { address, node } => {
                let after = class.map(|class| HostSpec { class, node });
                let before = match after {
                    Some(host) => self.out.hosts.insert(address, host),
                    None => self.out.hosts.remove(&address),
                };
                if before != after {
                    self.changes.hosts.insert(address);
                }
            }
            Member::Prefix(prefix) => {
                let before = match class {
                    Some(class) => self.out.prefixes.insert(prefix, class),
                    None => self.out.prefixes.remove(&prefix),
                };
                if before != class {
                    self.changes.prefixes.insert(prefix);
                }
            }
        }
    }
}

fn covers(block: &IpBlock, address: IpAddr) -> bool {
    let covered = |prefix: &IpNet| prefix.contains(&address);
    covered(&block.cidr) && !block.except.iter().any(covered)
}

/// Every pod of some namespaces.
fn each_pod(store: &Store, namespaces: &NamespaceMatch, mut each: impl FnMut(&PodRef, &Pod)) {
    let mut all_of = |namespace: &str| {
        for (key, pod) in store.pods_in(namespace) {
            each(key, pod);
        }
    };
    match namespaces {
        NamespaceMatch::Name(name) => all_of(name),
        NamespaceMatch::Labels(selector) => {
            for namespace in store.namespaces() {
                if selector.matches(&namespace.labels) {
                    all_of(&namespace.name);
                }
            }
        }
    }
}
