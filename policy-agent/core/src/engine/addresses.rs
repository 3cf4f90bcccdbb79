//! Which class an address and a prefix are in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use super::state::State;
use crate::desired::{ClassId, HostSpec, PodRef};
use crate::model::{NamespaceMatch, Peer, Pod};
use crate::resolve::atoms::{AtomChanges, Signature};
use crate::store::Store;

/// Something that has a class, which is out of date.
#[derive(Debug)]
struct Move {
    what: Member,
    from: Option<ClassId>,
    to: Option<Signature>,
    /// Only because policies name other peers.
    by_policy: bool,
}

#[derive(Debug)]
enum Member {
    Host { address: IpAddr, node: bool },
    Prefix(IpNet),
}

impl State {
    /// Brings the classes of addresses and prefixes up to date.
    pub(super) fn settle_addresses(&mut self, store: &Store) {
        let atoms = self.atoms.settle();
        let own = std::mem::take(&mut self.dirty.addresses);
        let by_policy = if self.dirty.all_addresses {
            BTreeSet::new()
        } else {
            self.touched(store, &atoms)
        };
        let mut moves = Vec::new();
        for address in own.iter().chain(by_policy.difference(&own)) {
            let by_policy = !own.contains(address);
            moves.extend(self.host_move(store, *address, by_policy));
        }
        for prefix in &atoms.prefixes {
            moves.extend(self.prefix_move(*prefix));
        }
        self.rename_whole_classes(&mut moves);
        for change in moves {
            self.carry_out(change);
        }
    }

    /// Addresses whose peers may be others because other peers are named.
    fn touched(&self, store: &Store, atoms: &AtomChanges) -> BTreeSet<IpAddr> {
        let mut touched = BTreeSet::new();
        for atom in &atoms.added {
            if let Some(Peer::Pods { namespaces, pods }) = self.atoms.peer(*atom) {
                each_pod(store, namespaces, |key, pod| {
                    if pod.is_selectable() && pods.matches(&pod.labels) {
                        let owned = pod.addresses().filter(|a| store.owner(*a) == Some(key));
                        touched.extend(owned);
                    }
                });
            }
        }
        if !atoms.removed.is_empty() {
            let lost: BTreeSet<ClassId> = self
                .classes
                .iter()
                .filter(|(_, signature)| signature.atoms.iter().any(|a| atoms.removed.contains(a)))
                .map(|(id, _)| id)
                .collect();
            let hosts = self.out.hosts.iter();
            touched.extend(
                hosts
                    .filter(|(_, host)| lost.contains(&host.class))
                    .map(|(address, _)| *address),
            );
        }
        for prefix in &atoms.prefixes {
            let first = Bound::Included(prefix.network());
            let last = Bound::Included(prefix.broadcast());
            let inside = self.out.hosts.range((first, last));
            touched.extend(inside.map(|(address, _)| *address));
        }
        if atoms.own_node {
            touched.extend(&self.node.addresses);
        }
        if atoms.names {
            for (key, pod) in store.pods() {
                if pod.is_selectable() && !pod.ports.is_empty() {
                    let owned = pod.addresses().filter(|a| store.owner(*a) == Some(key));
                    touched.extend(owned);
                }
            }
        }
        touched
    }

    fn host_move(&mut self, store: &Store, address: IpAddr, by_policy: bool) -> Option<Move> {
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
            // A flag that changes has to be written with the address.
            by_policy: by_policy && before.is_some_and(|host| host.node == node),
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
            by_policy: true,
        })
    }

    /// Where all members of a class go to one new class, because of policies
    /// alone, the class goes there with them, and no member has to be written.
    ///
    /// Its rows stay right: policies that are not new do not name the peers that
    /// make the difference.
    fn rename_whole_classes(&mut self, moves: &mut Vec<Move>) {
        let mut leaving: BTreeMap<ClassId, Vec<usize>> = BTreeMap::new();
        for (at, change) in moves.iter().enumerate() {
            if let (Some(from), true, Some(_)) = (change.from, change.by_policy, &change.to) {
                leaving.entry(from).or_default().push(at);
            }
        }
        let mut done = BTreeSet::new();
        for (class, members) in leaving {
            let Some(to) = members.first().and_then(|at| moves[*at].to.clone()) else {
                continue;
            };
            let all = members.len() == self.classes.members(class)
                && members.iter().all(|at| moves[*at].to.as_ref() == Some(&to));
            if all && self.classes.find(&to).is_none() {
                self.classes.rename(class, to);
                done.extend(members);
            }
        }
        let mut at = 0;
        moves.retain(|_| {
            at += 1;
            !done.contains(&(at - 1))
        });
    }

    fn carry_out(&mut self, change: Move) {
        let class = change.to.map(|signature| self.classes.join(signature));
        if let Some(from) = change.from {
            self.classes.leave(from);
        }
        match change.what {
            Member::Host { address, node } => {
                match class {
                    Some(class) => self.out.hosts.insert(address, HostSpec { class, node }),
                    None => self.out.hosts.remove(&address),
                };
                self.changes.hosts.insert(address);
            }
            Member::Prefix(prefix) => {
                match class {
                    Some(class) => self.out.prefixes.insert(prefix, class),
                    None => self.out.prefixes.remove(&prefix),
                };
                self.changes.prefixes.insert(prefix);
            }
        }
    }
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
