//! Namespaces as policy sees them: declared ones, and those that pods imply.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::{Change, note};
use crate::model::{Labels, Namespace};

/// The label that the API server sets on every namespace, with its name; nobody
/// can change it (Kubernetes documentation, "Automatic labelling").
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// The labels of a namespace that nobody declared.
pub fn implied_labels(name: &Arc<str>) -> Labels {
    Labels::from([(METADATA_NAME.into(), name.clone())])
}

type Changes = BTreeMap<Arc<str>, Change<Namespace>>;

/// Every namespace that is declared or has a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Namespaces(BTreeMap<Arc<str>, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    declared: bool,
    pods: usize,
    value: Arc<Namespace>,
}

impl Namespaces {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.0.get(name).map(|entry| &entry.value)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.0.values().map(|entry| &entry.value)
    }

    pub(super) fn declared(&self) -> impl Iterator<Item = Arc<str>> {
        let declared = self.0.iter().filter(|(_, entry)| entry.declared);
        declared.map(|(name, _)| name.clone())
    }

    /// Its declaration is now this one, or gone.
    pub(super) fn declare(
        &mut self,
        name: &Arc<str>,
        declaration: Option<Arc<Namespace>>,
        changes: &mut Changes,
    ) {
        let pods = self.0.get(name).map_or(0, |entry| entry.pods);
        self.put(name, declaration.map(with_name_label), pods, changes);
    }

    pub(super) fn add_pod(&mut self, name: &Arc<str>, changes: &mut Changes) {
        match self.0.get_mut(name) {
            Some(entry) => entry.pods += 1,
            None => self.put(name, None, 1, changes),
        }
    }

    pub(super) fn remove_pod(&mut self, name: &Arc<str>, changes: &mut Changes) {
        if let Some(entry) = self.0.get_mut(name) {
            entry.pods = entry.pods.saturating_sub(1);
            if entry.pods == 0 && !entry.declared {
                self.put(name, None, 0, changes);
            }
        }
    }

    fn put(
        &mut self,
        name: &Arc<str>,
        declaration: Option<Arc<Namespace>>,
        pods: usize,
        changes: &mut Changes,
    ) {
        let declared = declaration.is_some();
        let implied = || {
            Arc::new(Namespace {
                name: name.clone(),
                labels: implied_labels(name),
            })
        };
        let new = declaration.or_else(|| (pods > 0).then(implied));
        let entry = new.clone().map(|value| Entry {
            declared,
            pods,
            value,
        });
        let old = match entry {
            Some(entry) => self.0.insert(name.clone(), entry),
            None => self.0.remove(name),
        };
        let old = old.map(|entry| entry.value);
        if old != new {
            note(changes, name.clone(), old, new);
        }
    }
}

/// The declaration as the API server would show it.
fn with_name_label(namespace: Arc<Namespace>) -> Arc<Namespace> {
    if namespace.labels.get(METADATA_NAME) == Some(&namespace.name) {
        return namespace;
    }
    let mut namespace = Arc::unwrap_or_clone(namespace);
    let name = namespace.name.clone();
    namespace.labels.insert(METADATA_NAME.into(), name);
    Arc::new(namespace)
}
