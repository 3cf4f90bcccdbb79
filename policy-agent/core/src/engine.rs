//! From events to the desired state, and what each event changed in it.
//!
//! The engine keeps what it derived and derives again only what a change
//! touches; the result is always the one that [`build`] finds from scratch, up
//! to the numbers of classes and policies ([`DesiredState::canonical`]).
//!
//! What a reader of [`Changes`] may rely on: numbers are never used twice, and
//! what a policy says to a class never changes while both are there. A policy
//! whose answers change is another policy; an address whose peers change is in
//! another class. (A class may come to match other peers without a change of
//! number, when every policy that names them is new.)

mod addresses;
mod canonical;
mod endpoints;
mod policies;
mod services;
mod state;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::desired::{ClassId, DesiredState, Frontend, PodRef, PolicyRef};
use crate::diagnostic::Diagnostic;
use crate::model::Pod;
use crate::store::{ChangeSet, SourceEvent, Store};
use state::State;

/// The node that the desired state is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeContext {
    /// Its name; a pod is local if its `spec.nodeName` is this. Pods without a
    /// node are those of the node with an empty name.
    pub name: Arc<str>,
    /// All its addresses: those of its Node object and of its interfaces.
    pub addresses: BTreeSet<IpAddr>,
}

impl NodeContext {
    /// Whether the pod runs on the node.
    pub fn runs(&self, pod: &Pod) -> bool {
        pod.node.as_deref().unwrap_or_default() == &*self.name
    }
}

/// What differs from the desired state of before: keys that came, went, or have
/// another value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Endpoints.
    pub endpoints: BTreeSet<PodRef>,
    /// Addresses.
    pub hosts: BTreeSet<IpAddr>,
    /// Prefixes.
    pub prefixes: BTreeSet<IpNet>,
    /// Policies that are new.
    pub policies_added: BTreeSet<PolicyRef>,
    /// Policies that are gone.
    pub policies_removed: BTreeSet<PolicyRef>,
    /// Classes that are new; every policy may have a row for them.
    pub classes_added: BTreeSet<ClassId>,
    /// Classes that are gone; no policy has a row for them any more.
    pub classes_removed: BTreeSet<ClassId>,
    /// Addresses and ports of Services.
    pub services: BTreeSet<Frontend>,
    /// `DesiredState::rules` is different.
    pub rules: bool,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Derives the desired state, a change at a time.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    pending: ChangeSet,
    state: State,
    /// The state knows all that was in the store before what is pending.
    loaded: bool,
}

impl Engine {
    /// An engine that knows no objects yet.
    pub fn new(node: NodeContext) -> Self {
        Self {
            store: Store::new(),
            pending: ChangeSet::default(),
            state: State::new(node),
            loaded: false,
        }
    }

    /// Takes events in, as one change together with all since [`Self::desired`]
    /// was last asked.
    pub fn apply(&mut self, events: impl IntoIterator<Item = SourceEvent>) {
        let changes = self.store.apply_all(events);
        if self.pending.is_empty() {
            self.pending = changes;
        } else {
            self.pending.merge(changes);
        }
    }

    /// The node has this name and these addresses now.
    pub fn set_node(&mut self, node: NodeContext) {
        if node.name == self.state.node().name {
            self.state.set_addresses(node.addresses);
        } else {
            // Every endpoint is another one: as if all were new, except that
            // numbers are not used again.
            self.pending = ChangeSet::default();
            self.state.restart(node, &self.store);
            self.loaded = true;
        }
    }

    /// The node.
    pub fn node(&self) -> &NodeContext {
        self.state.node()
    }

    /// The objects.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether [`Self::desired`] has something to derive.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty() || self.state.is_dirty()
    }

    /// What must be in force, with all events so far.
    pub fn desired(&mut self) -> &DesiredState {
        if !self.pending.is_empty() {
            let changes = std::mem::take(&mut self.pending);
            if self.loaded {
                self.state.take(&self.store, &changes);
            } else {
                self.state.load(&self.store);
                self.loaded = true;
            }
        }
        self.state.settle(&self.store);
        self.state.desired()
    }

    /// What is different in [`Self::desired`] since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        self.desired();
        self.state.take_changes()
    }

    /// What is odd about the objects, sorted.
    pub fn diagnostics(&mut self) -> Vec<Diagnostic> {
        self.desired();
        let mut all = self.store.diagnostics(Some(&self.state.node().name));
        all.extend(self.state.diagnostics());
        all.extend(self.state.service_diagnostics());
        all.sort();
        all
    }
}

/// The desired state of a node, from scratch.
pub fn build(store: &Store, node: &NodeContext) -> DesiredState {
    let mut state = State::new(node.clone());
    state.load(store);
    state.settle(store);
    state.into_desired()
}

#[cfg(test)]
mod tests;
