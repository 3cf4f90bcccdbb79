//! Where the addresses of Services lead, kept up to date a Service at a time.
//!
//! Nothing is derived while no endpoint's egress is isolated: nobody asks then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::state::State;
use crate::desired::{Backends, Frontend};
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::NamespacedName;
use crate::resolve::services::frontends;
use crate::store::{ChangeSet, Store};

/// What is derived of Services.
#[derive(Debug, Clone, Default)]
pub(super) struct Services {
    /// Some endpoint's egress is isolated.
    asked: bool,
    /// Where each Service's addresses lead.
    of: BTreeMap<NamespacedName, BTreeMap<Frontend, Arc<Backends>>>,
    /// The Services that have an address and port: one, unless somebody made a
    /// mistake.
    by: BTreeMap<Frontend, BTreeSet<NamespacedName>>,
}

impl State {
    /// Notes which Services changed, or what is behind them.
    pub(super) fn note_services(&mut self, changes: &ChangeSet) {
        self.dirty.services.extend(changes.services.keys().cloned());
        for change in changes.slices.values() {
            let both = [&change.old, &change.new].into_iter().flatten();
            let behind = both.filter_map(|slice| slice.service_key());
            self.dirty.services.extend(behind);
        }
    }

    /// Brings the addresses of Services up to date; endpoints must be.
    pub(super) fn settle_services(&mut self, store: &Store) {
        let asked = self.local.values().any(|local| local.egress.is_some());
        if asked != self.services.asked {
            self.services.asked = asked;
            self.dirty.services.extend(self.services.of.keys().cloned());
            self.dirty.services.extend(store.services().keys().cloned());
        }
        for key in std::mem::take(&mut self.dirty.services) {
            let service = store.services().get(&key).filter(|_| asked);
            let new = service.map(|service| frontends(store, service, &self.node.name));
            self.settle_service(key, new.unwrap_or_default());
        }
    }

    fn settle_service(&mut self, key: NamespacedName, new: BTreeMap<Frontend, Arc<Backends>>) {
        let services = &mut self.services;
        let old = services.of.remove(&key).unwrap_or_default();
        let all: BTreeSet<Frontend> = old.keys().chain(new.keys()).copied().collect();
        let differing = all
            .into_iter()
            .filter(|frontend| old.get(frontend) != new.get(frontend));
        let differing: Vec<Frontend> = differing.collect();
        for frontend in &differing {
            let names = services.by.entry(*frontend).or_default();
            if new.contains_key(frontend) {
                names.insert(key.clone());
            } else {
                names.remove(&key);
            }
        }
        if !new.is_empty() {
            services.of.insert(key, new);
        }
        for frontend in differing {
            let after = services.leads(&frontend);
            if after.is_none() {
                services.by.remove(&frontend);
            }
            let before = match after.clone() {
                Some(backends) => self.out.services.insert(frontend, backends),
                None => self.out.services.remove(&frontend),
            };
            if before != after {
                self.changes.services.insert(frontend);
            }
        }
    }

    /// Addresses and ports that several Services have.
    pub(super) fn service_diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        let several = self.services.by.iter().filter(|(_, names)| names.len() > 1);
        several.map(|(frontend, names)| {
            let mut names = names.iter();
            let first = names.next().map(ToString::to_string).unwrap_or_default();
            let others: Vec<_> = names.map(ToString::to_string).collect();
            Diagnostic {
                object: format!("Service {first}"),
                source: None,
                path: "spec.ports".to_owned(),
                severity: Severity::Warning,
                message: format!(
                    "{frontend} is also an address of Service {}; it may lead to the \
                     endpoints of each; give each Service addresses or ports of its own",
                    others.join(" and of ")
                ),
            }
        })
    }
}

impl Services {
    /// Where an address and port lead, with all Services that have them; `None`:
    /// none has.
    fn leads(&self, frontend: &Frontend) -> Option<Arc<Backends>> {
        let names = self.by.get(frontend)?.iter();
        let mut all = names.filter_map(|name| self.of.get(name)?.get(frontend));
        let mut first = all.next()?.clone();
        for more in all {
            if *more != first {
                Arc::make_mut(&mut first).extend(more.iter());
            }
        }
        Some(first)
    }
}
