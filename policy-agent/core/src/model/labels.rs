//! Labels of an object: few, asked often and hardly ever changed.
//!
//! Flat and shared, because there are as many as pods: the pods of one Deployment
//! have the same, and a source that knows that gives them the same allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A label: key and value.
type Label = (Arc<str>, Arc<str>);

/// Labels of an object, in the order of their keys; no key twice. A clone has the
/// same allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels(Arc<[Label]>);

impl Labels {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(key));
        let (_, value) = self.0.get(found.ok()?)?;
        Some(value)
    }

    /// Whether there is a label with this key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All labels, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a label this value, and returns the value that it had. Copies all
    /// labels; those of other clones stay as they are.
    pub fn insert(&mut self, key: Arc<str>, value: Arc<str>) -> Option<Arc<str>> {
        let mut all: BTreeMap<Arc<str>, Arc<str>> = self.0.iter().cloned().collect();
        let before = all.insert(key, value);
        *self = all.into_iter().collect();
        before
    }

    /// Whether a clone has the same allocation.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Of labels with the same key, the last one counts.
impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let sorted: BTreeMap<Arc<str>, Arc<str>> = labels.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

impl<const N: usize> From<[Label; N]> for Labels {
    fn from(labels: [Label; N]) -> Self {
        labels.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn labels_are_found_by_their_whole_key() {
        let labels = labels(&[("b", "2"), ("a", "1"), ("bb", ""), ("a", "3")]);
        let found = ["a", "b", "bb", "", "aa", "c"].map(|key| labels.get(key).map(|v| &**v));
        assert_eq!(found, [Some("3"), Some("2"), Some(""), None, None, None]);
        assert!(labels.contains_key("bb") && !labels.contains_key("B"));
        let keys: Vec<&str> = labels.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["a", "b", "bb"]);
    }

    #[test]
    fn equal_labels_are_equal_however_they_were_made() {
        let one = labels(&[("a", "1"), ("b", "2")]);
        let mut other = labels(&[("b", "1")]);
        assert_eq!(other.insert("a".into(), "1".into()), None);
        let clone = other.clone();
        assert_eq!(other.insert("b".into(), "2".into()).as_deref(), Some("1"));
        assert_eq!(one, other);
        assert_eq!(clone, labels(&[("a", "1"), ("b", "1")]), "a clone stays");
        assert!(Labels::new().is_empty() && one.len() == 2);
    }
}
