//! What the engine derived, what of it is out of date, and the order in which it
//! is brought up to date.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use policy_common::abi::Direction;

use super::policies::{Compiled, RulesetKey};
use super::services::Services;
use super::{Changes, NodeContext};
use crate::compile::part::{self, Part};
use crate::compile::rules::Rules;
use crate::desired::{DesiredState, PodRef, PolicyRef};
use crate::model::{NamespaceMatch, NamespacedName, Pod, Policy, PolicyId, Subject};
use crate::resolve::atoms::{Atoms, PortName};
use crate::resolve::classes::Classes;
use crate::resolve::selector_index::SelectorIndex;
use crate::store::{ChangeSet, Store};

/// Everything that is derived from the objects.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) node: NodeContext,
    /// Subjects of all policies, by handle.
    pub(super) subjects: SelectorIndex,
    pub(super) handles: HashMap<PolicyId, Handle>,
    pub(super) slots: HashMap<Handle, Slot>,
    pub(super) last_handle: Handle,
    /// Endpoints.
    pub(super) local: BTreeMap<PodRef, Local>,
    pub(super) rulesets: HashMap<RulesetKey, PolicyRef>,
    pub(super) compiled: BTreeMap<PolicyRef, Compiled>,
    pub(super) last_ref: u32,
    pub(super) atoms: Atoms,
    pub(super) classes: Classes,
    pub(super) rules: Rules,
    pub(super) services: Services,
    pub(super) dirty: Dirty,
    pub(super) out: DesiredState,
    pub(super) changes: Changes,
}

/// Stands for a policy's name, while it exists.
pub(super) type Handle = u32;

/// A policy.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) policy: Arc<Policy>,
    /// Endpoints that it applies to; more than none: it is in force.
    pub(super) endpoints: usize,
    /// The object is gone.
    pub(super) deleted: bool,
    /// Whether it says anything of ingress, and of egress.
    pub(super) says: [bool; 2],
    /// The port names of its ingress rules.
    pub(super) subject_names: Vec<PortName>,
    /// Its two directions, prepared, once they were needed.
    pub(super) parts: [Option<Arc<Part>>; 2],
}

impl Slot {
    fn new(policy: Arc<Policy>) -> Self {
        let says = [Direction::Ingress, Direction::Egress];
        Self {
            says: says.map(|direction| part::says_anything(&policy, direction)),
            subject_names: part::subject_names(&policy),
            parts: [None, None],
            policy,
            endpoints: 0,
            deleted: false,
        }
    }

    /// Whether it says anything of the direction.
    pub(super) fn says(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.says[0],
            Direction::Egress => self.says[1],
        }
    }
}

/// An endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct Local {
    /// The policies that apply, sorted.
    pub(super) handles: Vec<Handle>,
    pub(super) ingress: Option<PolicyRef>,
    pub(super) egress: Option<PolicyRef>,
}

/// What is out of date.
#[derive(Debug, Clone, Default)]
pub(super) struct Dirty {
    /// Local pods: which policies apply.
    pub(super) endpoints: BTreeSet<PodRef>,
    /// Addresses: whose they are, or what their owner is.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Every address is among them.
    pub(super) all_addresses: bool,
    /// Policies in force that say something else.
    pub(super) policies: BTreeSet<Handle>,
    /// Policies that may not be in force any more.
    pub(super) idle: BTreeSet<Handle>,
    /// Compiled policies that may have no endpoint any more.
    pub(super) unused: BTreeSet<PolicyRef>,
    /// Compiled policies that are not compiled yet.
    pub(super) fresh: BTreeSet<PolicyRef>,
    /// Services: what they are, or what is behind them.
    pub(super) services: BTreeSet<NamespacedName>,
}

impl State {
    pub(super) fn new(node: NodeContext) -> Self {
        let mut state = Self::default();
        state.set_addresses(node.addresses.clone());
        state.node = node;
        state
    }

    pub(super) fn node(&self) -> &NodeContext {
        &self.node
    }

    pub(super) fn desired(&self) -> &DesiredState {
        &self.out
    }

    pub(super) fn into_desired(self) -> DesiredState {
        self.out
    }

    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    pub(super) fn is_dirty(&self) -> bool {
        let dirty = &self.dirty;
        !dirty.endpoints.is_empty()
            || !dirty.addresses.is_empty()
            || !dirty.policies.is_empty()
            || !dirty.services.is_empty()
    }

    /// The node has these addresses now.
    pub(super) fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        let before = std::mem::replace(&mut self.node.addresses, addresses);
        let different = before.symmetric_difference(&self.node.addresses);
        self.dirty.addresses.extend(different);
    }

    /// Takes every object in.
    pub(super) fn load(&mut self, store: &Store) {
        for policy in store.policies().values() {
            self.policy_changed(store, &policy.id, Some(policy));
        }
        for (key, pod) in store.pods() {
            if self.node.runs(pod) {
                self.dirty.endpoints.insert(key.clone());
            }
            let owned = pod.addresses().filter(|a| store.owner(*a) == Some(key));
            self.dirty.addresses.extend(owned);
        }
        self.dirty.addresses.extend(&self.node.addresses);
        self.dirty.all_addresses = true;
    }

    /// Starts again as another node; numbers go on.
    pub(super) fn restart(&mut self, node: NodeContext, store: &Store) {
        let before = std::mem::take(&mut self.out);
        let mut changes = std::mem::take(&mut self.changes);
        changes.endpoints.extend(before.endpoints.into_keys());
        changes.hosts.extend(before.hosts.into_keys());
        changes.prefixes.extend(before.prefixes.into_keys());
        changes.services.extend(before.services.into_keys());
        changes.rules = true;
        for policy in before.policies.into_keys() {
            if !changes.policies_added.remove(&policy) {
                changes.policies_removed.insert(policy);
            }
        }
        let mut classes = std::mem::take(&mut self.classes);
        for class in classes.clear() {
            if !changes.classes_added.remove(&class) {
                changes.classes_removed.insert(class);
            }
        }
        let last_ref = self.last_ref;
        *self = Self {
            classes,
            last_ref,
            changes,
            ..Self::new(node)
        };
        self.load(store);
    }

    /// Notes what a change of objects puts out of date.
    pub(super) fn take(&mut self, store: &Store, changes: &ChangeSet) {
        for (name, change) in &changes.namespaces {
            let labels = change.new.as_ref().map(|namespace| &namespace.labels);
            if self.subjects.namespace_changed(name, labels) {
                let local = self.local.keys().filter(|key| key.namespace == *name);
                self.dirty.endpoints.extend(local.cloned());
            }
            if self.atoms.namespace_changed(name, labels) {
                for (key, pod) in store.pods_in(name) {
                    let owned = pod.addresses().filter(|a| store.owner(*a) == Some(key));
                    self.dirty.addresses.extend(owned);
                }
            }
        }
        for (key, change) in &changes.pods {
            let is_local = change.new.as_ref().is_some_and(|pod| self.node.runs(pod));
            if is_local || self.local.contains_key(key) {
                self.dirty.endpoints.insert(key.clone());
            }
            let pod = change.new.iter();
            let owned = pod
                .flat_map(|pod| pod.addresses())
                .filter(|address| store.owner(*address) == Some(key));
            self.dirty.addresses.extend(owned);
        }
        for (address, change) in &changes.owners {
            self.dirty.addresses.insert(*address);
            for key in change.old.iter().chain(&change.new) {
                let runs_here = store.pod(key).is_some_and(|pod| self.node.runs(pod));
                if runs_here || self.local.contains_key(&**key) {
                    self.dirty.endpoints.insert(PodRef::clone(key));
                }
            }
        }
        for (id, change) in &changes.policies {
            self.policy_changed(store, id, change.new.as_ref());
        }
        self.note_services(changes);
    }

    fn policy_changed(&mut self, store: &Store, id: &PolicyId, new: Option<&Arc<Policy>>) {
        let known = self.handles.get(id).copied();
        let handle = known.unwrap_or_else(|| self.new_handle(id));
        if let Some(slot) = self.slots.get(&handle).filter(|slot| !slot.deleted) {
            let Subject { namespaces, pods } = &slot.policy.subject;
            self.subjects.remove(namespaces, pods, handle);
        }
        for (key, local) in &self.local {
            let applies = || {
                let pod = store.pod(key);
                new.is_some_and(|policy| pod.is_some_and(|pod| selects(store, policy, pod)))
            };
            if local.handles.binary_search(&handle).is_ok() || applies() {
                self.dirty.endpoints.insert(key.clone());
            }
        }
        match new {
            Some(policy) => {
                let Subject { namespaces, pods } = &policy.subject;
                self.subjects.insert(namespaces, pods, handle);
                match self.slots.get_mut(&handle) {
                    Some(slot) => {
                        let new = Slot {
                            endpoints: slot.endpoints,
                            ..Slot::new(policy.clone())
                        };
                        let old = std::mem::replace(slot, new);
                        if old.endpoints > 0 {
                            self.put_in_force(policy);
                            self.put_out_of_force(&old.policy);
                            self.dirty.policies.insert(handle);
                        }
                    }
                    None => {
                        self.slots.insert(handle, Slot::new(policy.clone()));
                    }
                }
            }
            None => {
                if let Some(slot) = self.slots.get_mut(&handle) {
                    slot.deleted = true;
                }
                self.dirty.idle.insert(handle);
            }
        }
    }

    fn new_handle(&mut self, id: &PolicyId) -> Handle {
        loop {
            self.last_handle = self.last_handle.wrapping_add(1);
            let handle = self.last_handle;
            if !self.slots.contains_key(&handle) {
                self.handles.insert(id.clone(), handle);
                return handle;
            }
        }
    }

    /// Brings everything up to date.
    pub(super) fn settle(&mut self, store: &Store) {
        if !self.is_dirty() && self.dirty.idle.is_empty() {
            return;
        }
        // Which policies apply decides which peers are named, these decide the
        // classes, and those the rows.
        self.settle_endpoints(store);
        self.settle_addresses(store);
        self.settle_policies();
        self.settle_services(store);
        self.dirty = Dirty::default();
    }
}

/// Whether a policy applies to a pod.
fn selects(store: &Store, policy: &Policy, pod: &Pod) -> bool {
    let namespace = match &policy.subject.namespaces {
        NamespaceMatch::Name(name) => *name == pod.namespace,
        NamespaceMatch::Labels(selector) => {
            selector.matches(&store.namespace_labels(&pod.namespace))
        }
    };
    namespace && policy.subject.pods.matches(&pod.labels)
}
