//! Which selectors match a pod, without asking all of them.
//!
//! Selectors are filed by namespace (or by namespace selector), and there under
//! a label that every pod they match must have. A pod is compared only with the
//! selectors filed under its own labels, and with the few that require no label.
//! What a selector means is `model::selector`'s business.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Labels, NamespaceMatch, Requirement, Selector};

/// Pod selectors with a number each.
#[derive(Debug, Clone, Default)]
pub struct SelectorIndex {
    named: HashMap<Arc<str>, Scope>,
    labelled: HashMap<Selector, Scope>,
    /// The keys of `labelled` that match a namespace, for namespaces asked about.
    matching: HashMap<Arc<str>, Vec<Selector>>,
}

/// Selectors of one namespace, or of the namespaces of one selector.
#[derive(Debug, Clone, Default)]
struct Scope {
    by_key: HashMap<Arc<str>, Bucket>,
    /// Those that every label set may match.
    rest: Vec<Entry>,
    count: usize,
}

/// Selectors that require one key.
#[derive(Debug, Clone, Default)]
struct Bucket {
    any_value: Vec<Entry>,
    by_value: HashMap<Arc<str>, Vec<Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    id: u32,
    selector: Selector,
}

impl SelectorIndex {
    /// Files a selector under a number of its own.
    pub fn insert(&mut self, namespaces: &NamespaceMatch, pods: &Selector, id: u32) {
        let scope = match namespaces {
            NamespaceMatch::Name(name) => self.named.entry(name.clone()).or_default(),
            NamespaceMatch::Labels(selector) => {
                if !self.labelled.contains_key(selector) {
                    self.matching.clear();
                }
                self.labelled.entry(selector.clone()).or_default()
            }
        };
        scope.insert(pods, id);
    }

    /// Takes a selector out again.
    pub fn remove(&mut self, namespaces: &NamespaceMatch, pods: &Selector, id: u32) {
        match namespaces {
            NamespaceMatch::Name(name) => {
                if let Some(scope) = self.named.get_mut(name) {
                    scope.remove(pods, id);
                    if scope.count == 0 {
                        self.named.remove(name);
                    }
                }
            }
            NamespaceMatch::Labels(selector) => {
                if let Some(scope) = self.labelled.get_mut(selector) {
                    scope.remove(pods, id);
                    if scope.count == 0 {
                        self.labelled.remove(selector);
                        self.matching.clear();
                    }
                }
            }
        }
    }

    /// Takes new labels of a namespace in; whether other selectors match its pods
    /// now. `None`: it is gone.
    pub fn namespace_changed(&mut self, namespace: &str, labels: Option<&Labels>) -> bool {
        if self.labelled.is_empty() {
            return false;
        }
        let Some(before) = self.matching.remove(namespace) else {
            // Which selectors matched it is not known any more.
            return true;
        };
        let Some(labels) = labels else {
            return !before.is_empty();
        };
        let after = self.labelled_matching(labels);
        let changed = before.len() != after.len() || before.iter().any(|s| !after.contains(s));
        self.matching.insert(namespace.into(), after);
        changed
    }

    fn labelled_matching(&self, labels: &Labels) -> Vec<Selector> {
        let selectors = self.labelled.keys();
        selectors.filter(|s| s.matches(labels)).cloned().collect()
    }

    /// Calls `found` with the number of each selector that matches a pod, each
    /// once, in no order.
    ///
    /// `namespace_labels` are those that the last [`Self::namespace_changed`]
    /// told, if any did.
    pub fn matches(
        &mut self,
        namespace: &str,
        namespace_labels: &Labels,
        labels: &Labels,
        mut found: impl FnMut(u32),
    ) {
        if let Some(scope) = self.named.get(namespace) {
            scope.matches(labels, &mut found);
        }
        if self.labelled.is_empty() {
            return;
        }
        if !self.matching.contains_key(namespace) {
            let matching = self.labelled_matching(namespace_labels);
            self.matching.insert(namespace.into(), matching);
        }
        for selector in self.matching.get(namespace).into_iter().flatten() {
            if let Some(scope) = self.labelled.get(selector) {
                scope.matches(labels, &mut found);
            }
        }
    }
}

impl Scope {
    fn insert(&mut self, selector: &Selector, id: u32) {
        self.count += 1;
        let entry = Entry {
            id,
            selector: selector.clone(),
        };
        match self.filing(selector) {
            Some(Requirement::In(key, values)) => {
                let bucket = self.by_key.entry(key.clone()).or_default();
                for value in values {
                    let list = bucket.by_value.entry(value.clone()).or_default();
                    list.push(entry.clone());
                }
            }
            Some(Requirement::Exists(key)) => {
                let bucket = self.by_key.entry(key.clone()).or_default();
                bucket.any_value.push(entry);
            }
            Some(Requirement::NotIn(..) | Requirement::DoesNotExist(_)) | None => {
                self.rest.push(entry);
            }
        }
    }

    /// The requirement under which fewest selectors are filed yet.
    fn filing<'s>(&self, selector: &'s Selector) -> Option<&'s Requirement> {
        let requirements = selector.requirements().iter();
        let load = |requirement: &Requirement| match requirement {
            Requirement::In(key, values) => Some(self.by_key.get(key).map_or(0, |bucket| {
                let lists = values.iter().filter_map(|value| bucket.by_value.get(value));
                lists.map(Vec::len).sum()
            })),
            // Every pod with the key comes here, so a value is worth more.
            Requirement::Exists(key) => {
                let filed = self.by_key.get(key).map_or(0, |b| b.any_value.len());
                Some(4 * (filed + 1))
            }
            Requirement::NotIn(..) | Requirement::DoesNotExist(_) => None,
        };
        requirements
            .filter_map(|requirement| Some((load(requirement)?, requirement)))
            .min_by_key(|(load, _)| *load)
            .map(|(_, requirement)| requirement)
    }

    fn remove(&mut self, selector: &Selector, id: u32) {
        let before = self.filed(selector, id);
        if !before {
            return;
        }
        self.count -= 1;
        self.rest.retain(|entry| entry.id != id);
        for requirement in selector.requirements() {
            let (Requirement::In(key, _) | Requirement::Exists(key)) = requirement else {
                continue;
            };
            let Some(bucket) = self.by_key.get_mut(key) else {
                continue;
            };
            bucket.any_value.retain(|entry| entry.id != id);
            if let Requirement::In(_, values) = requirement {
                for value in values {
                    if let Some(list) = bucket.by_value.get_mut(value) {
                        list.retain(|entry| entry.id != id);
                        if list.is_empty() {
                            bucket.by_value.remove(value);
                        }
                    }
                }
            }
            if bucket.any_value.is_empty() && bucket.by_value.is_empty() {
                self.by_key.remove(key);
            }
        }
    }

    fn filed(&self, selector: &Selector, id: u32) -> bool {
        let is_it = |entry: &Entry| entry.id == id;
        self.rest.iter().any(is_it)
            || selector.requirements().iter().any(|requirement| {
                let (Requirement::In(key, _) | Requirement::Exists(key)) = requirement else {
                    return false;
                };
                self.by_key.get(key).is_some_and(|bucket| {
                    bucket.any_value.iter().any(is_it)
                        || bucket.by_value.values().flatten().any(is_it)
                })
            })
    }

    fn matches(&self, labels: &Labels, found: &mut impl FnMut(u32)) {
        let mut ask = |entries: &[Entry]| {
            for entry in entries {
                if entry.selector.matches(labels) {
                    found(entry.id);
                }
            }
        };
        ask(&self.rest);
        if self.by_key.is_empty() {
            return;
        }
        for (key, value) in labels.iter() {
            if let Some(bucket) = self.by_key.get(key) {
                ask(&bucket.any_value);
                if let Some(entries) = bucket.by_value.get(value) {
                    ask(entries);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace()
            .map(|pair| {
                let (key, value) = pair.split_once('=').expect("key=value");
                (key.into(), value.into())
            })
            .collect()
    }

    fn values(list: &str) -> BTreeSet<Arc<str>> {
        list.split('|').map(Arc::from).collect()
    }

    /// Every kind of requirement, alone and together.
    fn selectors() -> Vec<Selector> {
        let single = [
            Requirement::In("app".into(), values("web")),
            Requirement::In("app".into(), values("web|db")),
            Requirement::NotIn("app".into(), values("web")),
            Requirement::Exists("tier".into()),
            Requirement::DoesNotExist("tier".into()),
        ];
        let mut all = vec![Selector::EVERYTHING];
        for one in &single {
            all.push(Selector::new([one.clone()]));
            all.extend(
                single
                    .iter()
                    .map(|two| Selector::new([one.clone(), two.clone()])),
            );
        }
        all
    }

    fn found(index: &mut SelectorIndex, namespace: &str, ns: &Labels, pod: &Labels) -> Vec<u32> {
        let mut ids = Vec::new();
        index.matches(namespace, ns, pod, |id| ids.push(id));
        ids.sort_unstable();
        ids
    }

    #[test]
    fn finds_exactly_the_selectors_that_match_also_after_removals() {
        let team = Selector::new([Requirement::In("team".into(), values("a"))]);
        let namespaces = [
            NamespaceMatch::Name("one".into()),
            NamespaceMatch::Labels(team),
            NamespaceMatch::Labels(Selector::EVERYTHING),
        ];
        let mut index = SelectorIndex::default();
        let mut filed = Vec::new();
        for namespace in &namespaces {
            for selector in selectors() {
                let id = u32::try_from(filed.len()).expect("few selectors");
                index.insert(namespace, &selector, id);
                filed.push(Some((namespace.clone(), selector)));
            }
        }
        let ns_labels = [("one", labels("")), ("two", labels("team=a"))];
        let pods = ["", "app=web", "app=db tier=x", "app=other", "tier=y"].map(labels);
        for round in 0..3 {
            for (name, ns) in &ns_labels {
                for pod in &pods {
                    let expected: Vec<u32> = (0u32..)
                        .zip(&filed)
                        .filter(|(_, slot)| {
                            slot.as_ref().is_some_and(|(namespaces, selector)| {
                                let namespace = match namespaces {
                                    NamespaceMatch::Name(wanted) => **wanted == **name,
                                    NamespaceMatch::Labels(wanted) => wanted.matches(ns),
                                };
                                namespace && selector.matches(pod)
                            })
                        })
                        .map(|(id, _)| id)
                        .collect();
                    assert!(round == 2 || !expected.is_empty(), "a check that can fail");
                    assert_eq!(found(&mut index, name, ns, pod), expected, "round {round}");
                }
            }
            for (id, slot) in (0u32..).zip(&mut filed) {
                let goes = round == 1 || id % 2 == 0;
                if let Some((namespaces, selector)) = slot.take_if(|_| goes) {
                    index.remove(&namespaces, &selector, id);
                }
            }
        }
        assert!(index.named.is_empty() && index.labelled.is_empty());
    }

    #[test]
    fn new_labels_of_a_namespace_are_seen_and_only_relevant_ones_are_a_change() {
        let mut index = SelectorIndex::default();
        let team = Selector::new([Requirement::In("team".into(), values("a"))]);
        index.insert(&NamespaceMatch::Labels(team), &Selector::EVERYTHING, 7);
        let (a, b, a2) = (labels("team=a"), labels("team=b"), labels("team=a x=y"));
        assert_eq!(found(&mut index, "n", &a, &labels("")), [7]);
        assert!(!index.namespace_changed("n", Some(&a2)));
        assert!(index.namespace_changed("n", Some(&b)));
        assert_eq!(found(&mut index, "n", &b, &labels("")), [0u32; 0]);
    }
}
