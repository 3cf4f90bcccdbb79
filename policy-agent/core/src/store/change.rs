//! What is different after events: old and new values by key.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::desired::PodRef;
use crate::model::{
    EndpointSlice, Namespace, NamespacedName, Node, Pod, Policy, PolicyId, Service,
};

/// Values before and after; they differ, so at least one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// Before; `None`: it was not there.
    pub old: Option<Arc<T>>,
    /// After; `None`: it is gone.
    pub new: Option<Arc<T>>,
}

/// Everything that events changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeSet {
    /// Pods.
    pub pods: BTreeMap<PodRef, Change<Pod>>,
    /// Namespaces as policy sees them: a namespace nobody declared comes with
    /// its first pod and goes with its last.
    pub namespaces: BTreeMap<Arc<str>, Change<Namespace>>,
    /// Nodes.
    pub nodes: BTreeMap<Arc<str>, Change<Node>>,
    /// Services.
    pub services: BTreeMap<NamespacedName, Change<Service>>,
    /// EndpointSlices, by their own names.
    pub slices: BTreeMap<NamespacedName, Change<EndpointSlice>>,
    /// Policies.
    pub policies: BTreeMap<PolicyId, Change<Policy>>,
    /// Addresses that belong to another pod than before, or to none. A pod whose
    /// labels change and whose addresses stay is not here.
    pub owners: BTreeMap<IpAddr, Change<PodRef>>,
}

impl ChangeSet {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.namespaces.is_empty()
            && self.nodes.is_empty()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.policies.is_empty()
            && self.owners.is_empty()
    }

    /// Adds what changed after this.
    pub fn merge(&mut self, later: Self) {
        merge(&mut self.pods, later.pods);
        merge(&mut self.namespaces, later.namespaces);
        merge(&mut self.nodes, later.nodes);
        merge(&mut self.services, later.services);
        merge(&mut self.slices, later.slices);
        merge(&mut self.policies, later.policies);
        merge(&mut self.owners, later.owners);
    }
}

fn merge<K: Ord + Clone, T: PartialEq>(
    changes: &mut BTreeMap<K, Change<T>>,
    later: BTreeMap<K, Change<T>>,
) {
    for (key, change) in later {
        note(changes, key, change.old, change.new);
    }
}

/// Notes that a value changed from `old` to `new`. What was noted before keeps
/// its old value; back to that is no change.
pub(super) fn note<K: Ord + Clone, T: PartialEq>(
    changes: &mut BTreeMap<K, Change<T>>,
    key: K,
    old: Option<Arc<T>>,
    new: Option<Arc<T>>,
) {
    let first = changes.get(&key).map_or(old, |change| change.old.clone());
    if first == new {
        changes.remove(&key);
    } else {
        changes.insert(key, Change { old: first, new });
    }
}
