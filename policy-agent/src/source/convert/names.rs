//! Strings, and sets of labels, that many objects share: kept once.
//!
//! What no object holds any more is dropped now and then, by itself: after as many
//! questions as there are strings, so that it costs each of them next to nothing.
//! Whoever knows better when says so with [`Names::prune`].

use std::collections::HashSet;
use std::sync::Arc;

use policy_core::model::Labels;

/// Gives equal strings the same allocation, and equal sets of labels.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    /// Questions since strings were dropped that nobody else held.
    asked: usize,
    /// Questions after which that is done again.
    prune_at: usize,
}

/// Questions after which a scan of the strings is worth it, at least.
const PRUNE_AT_LEAST: usize = 4096;

impl Names {
    /// No strings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shared form of a string.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        self.asked += 1;
        if self.asked > self.prune_at.max(PRUNE_AT_LEAST) {
            self.prune();
        }
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        self.known.insert(name.clone());
        name
    }

    /// The shared form of an object's labels.
    pub fn share(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        self.labels.insert(labels.clone());
        labels
    }

    /// Drops what nobody else holds, and the room for it.
    pub fn prune(&mut self) {
        // First: they hold strings.
        self.labels.retain(Labels::is_shared);
        self.labels.shrink_to(2 * self.labels.len());
        self.known.retain(|name| Arc::strong_count(name) > 1);
        // With room for as many again: those that come are most often as many as
        // those that went.
        self.known.shrink_to(2 * self.known.len());
        self.prune_at = self.known.len();
        self.asked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_as_long_as_somebody_has_it() {
        let mut names = Names::new();
        let first = names.get("app");
        assert!(Arc::ptr_eq(&first, &names.get("app")));
        names.prune();
        assert!(Arc::ptr_eq(&first, &names.get("app")));
        assert_eq!(&*names.get("tier"), "tier");
    }

    #[test]
    fn equal_sets_of_labels_are_one_as_long_as_somebody_has_it() {
        let mut names = Names::new();
        let mut pod = |app: &str| {
            let label = (names.get("app"), names.get(app));
            names.share(Labels::from([label]))
        };
        let (first, second, other) = (pod("web"), pod("web"), pod("db"));
        assert_eq!(first, second);
        assert_ne!(first, other);
        let same =
            |a: &Labels, b: &Labels| std::ptr::eq(a.get("app").unwrap(), b.get("app").unwrap());
        assert!(same(&first, &second), "one allocation");
        drop((first, other));
        names.prune();
        assert_eq!((names.labels.len(), names.known.len()), (1, 2), "of second");
        drop(second);
        names.prune();
        assert_eq!((names.labels.len(), names.known.len()), (0, 0));
    }

    #[test]
    fn strings_of_objects_that_went_are_dropped_without_being_told() {
        let mut names = Names::new();
        let held = names.get("held");
        // As a watch does it: a pod is read when it comes, and once more when it goes.
        for pod in 0..10 * PRUNE_AT_LEAST {
            let name = format!("pod-{pod}");
            let _comes = names.get(&name);
            let _goes = names.get(&name);
            assert!(names.known.len() <= PRUNE_AT_LEAST, "{}", names.known.len());
        }
        assert!(Arc::ptr_eq(&held, &names.get("held")));
    }

    #[test]
    fn pruned_there_is_neither_string_nor_room_left() {
        let mut names = Names::new();
        let pods: Vec<_> = (0..1_000)
            .map(|pod| names.get(&format!("pod-{pod}")))
            .collect();
        names.prune();
        assert_eq!(names.known.len(), pods.len(), "they are held");
        drop(pods);
        names.prune();
        assert_eq!((names.known.len(), names.known.capacity()), (0, 0));
    }
}
