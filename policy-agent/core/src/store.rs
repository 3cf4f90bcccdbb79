//! The cluster as the sources tell it: the only mutable cluster state.
//!
//! Sources send [`SourceEvent`]s, the store answers with a [`ChangeSet`]: what
//! is different now, with the value before. It leaves to the sources whether an
//! object is well formed, to `compile` what objects mean for policy.
//!
//! The contents are a function of the objects, never of the order in which they
//! came; what did not change is not in a change set. A relist of a kind (`Begin`,
//! `Item`s, `End`) takes effect at its end, as one change.

pub mod change;
pub mod event;
mod namespaces;
mod owners;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use change::{Change, ChangeSet};
pub use event::{Key, Kind, Object, SourceEvent};
pub use namespaces::{METADATA_NAME, implied_labels};

use crate::desired::PodRef;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{
    EndpointSlice, Labels, Namespace, NamespacedName, Node, Pod, Policy, PolicyId, Service,
};
use namespaces::Namespaces;
use owners::Owners;

/// The cluster's objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Store {
    pods: BTreeMap<PodRef, Arc<Pod>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    services: BTreeMap<NamespacedName, Arc<Service>>,
    slices: BTreeMap<NamespacedName, Arc<EndpointSlice>>,
    /// Slices by the Service that they are behind, and their own names.
    behind: BTreeSet<(NamespacedName, NamespacedName)>,
    policies: BTreeMap<PolicyId, Arc<Policy>>,
    namespaces: Namespaces,
    owners: Owners,
    ready: BTreeSet<Kind>,
    /// Lists that have begun and not ended.
    lists: BTreeMap<Kind, BTreeMap<Key, Object>>,
}

impl Store {
    /// An empty store; no kind is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event in.
    pub fn apply(&mut self, event: SourceEvent) -> ChangeSet {
        self.apply_all([event])
    }

    /// Takes events in as one change: what they undo among themselves is no
    /// change.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = SourceEvent>) -> ChangeSet {
        let mut changes = ChangeSet::default();
        for event in events {
            self.take(event, &mut changes);
        }
        changes
    }

    fn take(&mut self, event: SourceEvent, changes: &mut ChangeSet) {
        match event {
            SourceEvent::Apply(object) => {
                if let Some(list) = self.lists.get_mut(&object.kind()) {
                    list.insert(object.key(), object.clone());
                }
                self.insert(object, changes);
            }
            SourceEvent::Delete(key) => {
                if let Some(list) = self.lists.get_mut(&key.kind()) {
                    list.remove(&key);
                }
                self.remove(&key, changes);
            }
            SourceEvent::Begin(kind) => {
                self.lists.insert(kind, BTreeMap::new());
            }
            SourceEvent::Item(object) => match self.lists.get_mut(&object.kind()) {
                Some(list) => {
                    list.insert(object.key(), object);
                }
                // A list whose beginning was missed cannot say what is gone.
                None => self.insert(object, changes),
            },
            SourceEvent::End(kind) => {
                if let Some(list) = self.lists.remove(&kind) {
                    self.replace(&kind, list, changes);
                    self.ready.insert(kind);
                }
            }
        }
    }

    /// Makes `list` all there is of `kind`.
    fn replace(&mut self, kind: &Kind, list: BTreeMap<Key, Object>, changes: &mut ChangeSet) {
        let gone: Vec<Key> = self
            .keys(kind)
            .into_iter()
            .filter(|key| !list.contains_key(key))
            .collect();
        for key in &gone {
            self.remove(key, changes);
        }
        for object in list.into_values() {
            self.insert(object, changes);
        }
    }

    fn keys(&self, kind: &Kind) -> Vec<Key> {
        match kind {
            Kind::Pod => self.pods.keys().cloned().map(Key::Pod).collect(),
            Kind::Namespace => self.namespaces.declared().map(Key::Namespace).collect(),
            Kind::Node => self.nodes.keys().cloned().map(Key::Node).collect(),
            Kind::Service => self.services.keys().cloned().map(Key::Service).collect(),
            Kind::EndpointSlice => {
                let slices = self.slices.keys().cloned();
                slices.map(Key::EndpointSlice).collect()
            }
            Kind::Policy(api_kind) => {
                let of_kind = self.policies.keys().filter(|id| id.kind == *api_kind);
                of_kind.cloned().map(Key::Policy).collect()
            }
        }
    }

    fn insert(&mut self, object: Object, changes: &mut ChangeSet) {
        match object {
            Object::Pod(pod) => {
                let key = PodRef {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                };
                self.put_pod(key, Some(pod), changes);
            }
            Object::Namespace(namespace) => {
                let name = namespace.name.clone();
                self.namespaces
                    .declare(&name, Some(namespace), &mut changes.namespaces);
            }
            Object::Node(node) => {
                put(
                    &mut self.nodes,
                    node.name.clone(),
                    Some(node),
                    &mut changes.nodes,
                );
            }
            Object::Service(service) => {
                put(
                    &mut self.services,
                    service.key(),
                    Some(service),
                    &mut changes.services,
                );
            }
            Object::EndpointSlice(slice) => self.put_slice(slice.key(), Some(slice), changes),
            Object::Policy(policy) => {
                put(
                    &mut self.policies,
                    policy.id.clone(),
                    Some(policy),
                    &mut changes.policies,
                );
            }
        }
    }

    fn remove(&mut self, key: &Key, changes: &mut ChangeSet) {
        match key {
            Key::Pod(pod) => self.put_pod(pod.clone(), None, changes),
            Key::Namespace(name) => {
                self.namespaces.declare(name, None, &mut changes.namespaces);
            }
            Key::Node(name) => {
                put(&mut self.nodes, name.clone(), None, &mut changes.nodes);
            }
            Key::Service(name) => {
                put(
                    &mut self.services,
                    name.clone(),
                    None,
                    &mut changes.services,
                );
            }
            Key::EndpointSlice(name) => self.put_slice(name.clone(), None, changes),
            Key::Policy(id) => {
                put(&mut self.policies, id.clone(), None, &mut changes.policies);
            }
        }
    }

    fn put_pod(&mut self, key: PodRef, new: Option<Arc<Pod>>, changes: &mut ChangeSet) {
        let Some(old) = put(&mut self.pods, key.clone(), new.clone(), &mut changes.pods) else {
            return;
        };
        match (&old, &new) {
            (None, Some(_)) => self
                .namespaces
                .add_pod(&key.namespace, &mut changes.namespaces),
            (Some(_), None) => self
                .namespaces
                .remove_pod(&key.namespace, &mut changes.namespaces),
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.owners.update(
            &key,
            old.as_deref(),
            new.as_deref(),
            &self.pods,
            &mut changes.owners,
        );
    }

    fn put_slice(
        &mut self,
        key: NamespacedName,
        new: Option<Arc<EndpointSlice>>,
        changes: &mut ChangeSet,
    ) {
        let after = new.as_ref().and_then(|slice| slice.service_key());
        let Some(old) = put(&mut self.slices, key.clone(), new, &mut changes.slices) else {
            return;
        };
        if let Some(service) = old.and_then(|slice| slice.service_key()) {
            self.behind.remove(&(service, key.clone()));
        }
        if let Some(service) = after {
            self.behind.insert((service, key));
        }
    }

    /// Whether a complete list of the kind has been seen.
    pub fn is_ready(&self, kind: &Kind) -> bool {
        self.ready.contains(kind)
    }

    /// Every pod, also finished and host-network ones.
    pub fn pods(&self) -> &BTreeMap<PodRef, Arc<Pod>> {
        &self.pods
    }

    /// A pod.
    pub fn pod(&self, pod: &PodRef) -> Option<&Arc<Pod>> {
        self.pods.get(pod)
    }

    /// The pods of a namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = (&PodRef, &Arc<Pod>)> {
        let first = PodRef {
            namespace: namespace.into(),
            name: "".into(),
        };
        self.pods
            .range(first.clone()..)
            .take_while(move |(key, _)| key.namespace == first.namespace)
    }

    /// The live, selectable pod that an address belongs to.
    ///
    /// Finished and host-network pods own no address. Of several live pods with
    /// one address the newest owns it (`creationTimestamp`), ties by the greater
    /// uid, then namespace and name.
    pub fn owner(&self, address: IpAddr) -> Option<&PodRef> {
        self.owners.owner(address)
    }

    /// Every namespace that is declared or has a pod, by name, with
    /// `kubernetes.io/metadata.name` among its labels.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.all()
    }

    /// A namespace that is declared or has a pod.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// The labels of a namespace, always with `kubernetes.io/metadata.name`, and
    /// that alone where nobody declared it.
    pub fn namespace_labels(&self, name: &str) -> Cow<'_, Labels> {
        match self.namespaces.get(name) {
            Some(namespace) => Cow::Borrowed(&namespace.labels),
            None => Cow::Owned(implied_labels(&name.into())),
        }
    }

    /// Every node, by name.
    pub fn nodes(&self) -> &BTreeMap<Arc<str>, Arc<Node>> {
        &self.nodes
    }

    /// Every Service.
    pub fn services(&self) -> &BTreeMap<NamespacedName, Arc<Service>> {
        &self.services
    }

    /// Every EndpointSlice, by its own name.
    pub fn slices(&self) -> &BTreeMap<NamespacedName, Arc<EndpointSlice>> {
        &self.slices
    }

    /// The slices behind a Service, by their names.
    pub fn slices_of(&self, service: &NamespacedName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let first = NamespacedName {
            namespace: "".into(),
            name: "".into(),
        };
        self.behind
            .range((service.clone(), first)..)
            .take_while(move |(behind, _)| behind == service)
            .filter_map(|(_, slice)| self.slices.get(slice))
    }

    /// Every policy, of all kinds.
    pub fn policies(&self) -> &BTreeMap<PolicyId, Arc<Policy>> {
        &self.policies
    }

    /// The policies that belong to a namespace, of all kinds, in the order of
    /// their ids.
    pub fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Policy>> {
        let namespace: Arc<str> = namespace.into();
        self.policy_kinds().flat_map(move |kind| {
            let first = PolicyId {
                kind,
                namespace: Some(namespace.clone()),
                name: "".into(),
            };
            let range = self.policies.range(first.clone()..);
            range
                .take_while(move |(id, _)| id.kind == first.kind && id.namespace == first.namespace)
                .map(|(_, policy)| policy)
        })
    }

    /// API kinds that have a policy.
    fn policy_kinds(&self) -> impl Iterator<Item = Arc<str>> {
        let first = self.policies.keys().next().map(|id| id.kind.clone());
        std::iter::successors(first, |kind| {
            // The least string that is greater.
            let after = PolicyId {
                kind: format!("{kind}\0").into(),
                namespace: None,
                name: "".into(),
            };
            let (id, _) = self.policies.range(after..).next()?;
            Some(id.kind.clone())
        })
    }

    /// What is odd about the objects together, sorted: two live pods with one
    /// address (everywhere), and pods of node `local` that have no address yet.
    pub fn diagnostics(&self, local: Option<&str>) -> Vec<Diagnostic> {
        let waiting = self.owners.waiting().filter_map(|key| {
            let pod = self.pods.get(key)?;
            (local.is_some() && pod.node.as_deref() == local).then(|| Diagnostic {
                object: format!("Pod {key}"),
                source: None,
                path: "status.podIPs".to_owned(),
                severity: Severity::Info,
                message: "the pod has no address yet; \
                          its policies take effect as soon as it has one"
                    .to_owned(),
            })
        });
        let mut all: Vec<_> = waiting.chain(self.owners.conflicts()).collect();
        all.sort();
        all
    }
}

/// Makes `new` the value of `key` and notes the change; the old value, or `None`
/// if nothing changed.
#[expect(
    clippy::option_option,
    reason = "no change and no value before are different answers"
)]
fn put<K: Ord + Clone, T: PartialEq>(
    map: &mut BTreeMap<K, Arc<T>>,
    key: K,
    new: Option<Arc<T>>,
    changes: &mut BTreeMap<K, Change<T>>,
) -> Option<Option<Arc<T>>> {
    let old = map.get(&key);
    if old == new.as_ref() {
        return None;
    }
    let old = match new.clone() {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(&key),
    };
    change::note(changes, key, old.clone(), new);
    Some(old)
}

#[cfg(test)]
mod tests;
