//! What CNI told of pods: the plugin by its question or its note, the library by
//! its record. Pure; which interfaces there are is handed in.
//!
//! A pod's policies follow from its object, and nothing here replaces that. What
//! is told is whose an interface is, and which addresses the pod has: known as
//! soon as the interface is, long before the API server tells either. It counts
//! for the pod with the same name and UID, and only while the interface is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use policy_core::desired::PodRef;
use policy_core::model::Pod;
use policy_core::store::{Key, Object, SourceEvent};

use crate::cni::results::Records;
use crate::cni::statement::{AttachmentId, Statement};
use crate::iface::{LinkKind, Snapshot};

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Teller {
    /// The CNI library. It says no more than names and addresses.
    Library,
    /// Our plugin, which saw the interface itself.
    Plugin,
}

/// What is told of one attachment.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) statement: Statement,
    pub(super) teller: Teller,
    pub(super) since: Instant,
    /// The node's end, while it is there and fits what is told.
    pub(super) interface: Option<u32>,
    /// Later ones have greater numbers.
    order: u64,
}

impl Told {
    /// The pod, by name.
    pub(super) fn pod(&self) -> PodRef {
        PodRef {
            namespace: self.statement.namespace.as_str().into(),
            name: self.statement.name.as_str().into(),
        }
    }

    /// Whether it is of this pod of its name. Manifests and old runtimes may
    /// have no UID.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        let own = &self.statement.uid;
        own.is_empty() || uid.is_empty() || own == uid
    }
}

/// Everything that was told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    all: BTreeMap<AttachmentId, Told>,
    /// Pods of the store that have told addresses in place of their own: as
    /// their objects have them.
    objects: BTreeMap<PodRef, Arc<Pod>>,
    /// Pods about which something was told or taken back.
    stirred: BTreeSet<PodRef>,
    next: u64,
    /// Records and notes that are not understood.
    pub(super) bad: BTreeMap<PathBuf, String>,
}

impl Telling {
    /// Takes a statement in. What the plugin told, the library does not overrule.
    pub(super) fn tell(&mut self, statement: Statement, teller: Teller, now: Instant) {
        let before = self.all.get(&statement.id);
        let is_known = before.is_some_and(|told| {
            told.teller > teller || (told.teller == teller && told.statement == statement)
        });
        if is_known {
            return;
        }
        self.next += 1;
        let told = Told {
            statement,
            teller,
            since: now,
            interface: None,
            order: self.next,
        };
        self.stirred.insert(told.pod());
        self.all.insert(told.statement.id.clone(), told);
    }

    /// Takes the library's records in: those that are gone are taken back.
    pub(super) fn take_records(&mut self, records: Records, now: Instant) {
        let there: BTreeSet<AttachmentId> = records
            .statements
            .iter()
            .map(|statement| statement.id.clone())
            .collect();
        let gone: Vec<AttachmentId> = self
            .all
            .values()
            .filter(|told| told.teller == Teller::Library)
            .map(|told| told.statement.id.clone())
            .filter(|id| !there.contains(id))
            .collect();
        for id in gone {
            self.forget(&id);
        }
        for statement in records.statements {
            self.tell(statement, Teller::Library, now);
        }
        self.bad = records.bad;
    }

    /// Takes back what was told; the interface that it was of.
    pub(super) fn forget(&mut self, id: &AttachmentId) -> Option<u32> {
        let told = self.all.remove(id)?;
        self.stirred.insert(told.pod());
        told.interface
    }

    /// Takes back what the plugin told of a network, but for these; the
    /// interfaces.
    pub(super) fn keep(&mut self, network: &str, valid: &[AttachmentId]) -> Vec<u32> {
        let gone: Vec<AttachmentId> = self
            .all
            .values()
            .filter(|told| told.teller == Teller::Plugin && told.statement.network == network)
            .map(|told| told.statement.id.clone())
            .filter(|id| !valid.contains(id))
            .collect();
        gone.iter().filter_map(|id| self.forget(id)).collect()
    }

    /// What is told of an attachment.
    pub(super) fn get(&self, id: &AttachmentId) -> Option<&Told> {
        self.all.get(id)
    }

    /// What is told of interfaces that are there, the latest last.
    pub(super) fn present(&self) -> Vec<&Told> {
        let there = |told: &&Told| told.interface.is_some();
        let mut all: Vec<&Told> = self.all.values().filter(there).collect();
        all.sort_by_key(|told| told.order);
        all
    }

    /// Looks which of the interfaces are there. Those that the plugin saw and
    /// that are gone do not come back.
    pub(super) fn look(&mut self, snapshot: &Snapshot) {
        let mut gone = Vec::new();
        for told in self.all.values_mut() {
            let before = told.interface;
            // A pod chooses its addresses: they are asked for once.
            let stays = |index: &u32| {
                let link = snapshot.links.get(index);
                link.is_some_and(|link| told.statement.node_interfaces.contains(&link.name))
                    || (told.teller == Teller::Plugin && link.is_some())
            };
            told.interface = before
                .filter(stays)
                .or_else(|| find(&told.statement, snapshot));
            if told.interface != before {
                self.stirred.insert(told.pod());
            }
            if before.is_some() && told.interface.is_none() && told.teller == Teller::Plugin {
                gone.push(told.statement.id.clone());
            }
        }
        for id in gone {
            self.forget(&id);
        }
    }

    /// Whether something was told or taken back that [`Self::news`] was not asked
    /// for yet.
    pub(super) fn is_stirred(&self) -> bool {
        !self.stirred.is_empty()
    }

    /// A pod of this node as it is to be taken: with the addresses that were told.
    fn take(&mut self, pod: Arc<Pod>) -> Arc<Pod> {
        let key = PodRef {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        };
        let told = pod.is_selectable().then(|| self.addresses(&key, &pod.uid));
        let [ipv4, ipv6] = told.unwrap_or_default();
        let merged = Pod {
            ipv4: match ipv4 {
                Some(IpAddr::V4(told)) => Some(told),
                _ => pod.ipv4,
            },
            ipv6: match ipv6 {
                Some(IpAddr::V6(told)) => Some(told),
                _ => pod.ipv6,
            },
            ..Pod::clone(&pod)
        };
        if merged == *pod {
            self.objects.remove(&key);
            return pod;
        }
        self.objects.insert(key, pod);
        Arc::new(merged)
    }

    /// The addresses that were told last of a pod, IPv4 and IPv6.
    fn addresses(&self, key: &PodRef, uid: &str) -> [Option<IpAddr>; 2] {
        let latest = self
            .present()
            .into_iter()
            .rfind(|told| told.pod() == *key && told.is_of(uid));
        let all = latest.map_or(&[][..], |told| &told.statement.addresses);
        let first = |of: fn(&IpAddr) -> bool| all.iter().copied().find(of);
        [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)]
    }

    /// An event of a source as the store is to take it.
    pub(super) fn merge(&mut self, event: SourceEvent, node: &str) -> SourceEvent {
        let is_here = |pod: &Pod| pod.node.as_deref().unwrap_or_default() == node;
        match event {
            SourceEvent::Apply(Object::Pod(pod)) if is_here(&pod) => {
                SourceEvent::Apply(Object::Pod(self.take(pod)))
            }
            SourceEvent::Item(Object::Pod(pod)) if is_here(&pod) => {
                SourceEvent::Item(Object::Pod(self.take(pod)))
            }
            SourceEvent::Delete(Key::Pod(key)) => {
                self.objects.remove(&key);
                SourceEvent::Delete(Key::Pod(key))
            }
            other => other,
        }
    }

    /// What is different in the store because of what was told since this was
    /// last asked.
    pub(super) fn news<'s>(
        &mut self,
        node: &str,
        pod: impl Fn(&PodRef) -> Option<&'s Arc<Pod>>,
    ) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        for key in std::mem::take(&mut self.stirred) {
            let Some(now) = pod(&key) else { continue };
            if now.node.as_deref().unwrap_or_default() != node {
                continue;
            }
            let object = self.objects.get(&key).unwrap_or(now).clone();
            let taken = self.take(object);
            if taken != *now {
                events.push(SourceEvent::Apply(Object::Pod(taken)));
            }
        }
        events
    }
}

/// The interface that a statement is of, if it is there. The plugin has seen it;
/// a record may be of a pod that is long gone, so an address must be behind what
/// it names.
fn find(statement: &Statement, snapshot: &Snapshot) -> Option<u32> {
    if let Some(index) = statement.ifindex {
        let link = snapshot.links.get(&index)?;
        return (link.kind == LinkKind::Veth).then_some(index);
    }
    let named = snapshot
        .links
        .values()
        .filter(|link| link.kind == LinkKind::Veth && link.foreign_peer().is_some())
        .filter(|link| statement.node_interfaces.contains(&link.name));
    let has_address = |index: u32| {
        let behind = snapshot.behind(index);
        behind.is_some_and(|behind| {
            let all = behind.on_peer.iter().chain(&behind.beside);
            all.into_iter().any(|a| statement.addresses.contains(a))
        })
    };
    named
        .map(|link| link.index)
        .find(|index| has_address(*index))
}

#[cfg(test)]
mod tests;
