//! Label selectors (`metav1.LabelSelector`), in canonical form.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::labels::Labels;

/// One condition on labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    /// The key is there, and its value is one of these. `matchLabels` is this
    /// with one value.
    In(Arc<str>, BTreeSet<Arc<str>>),
    /// The key is absent, or its value is none of these.
    NotIn(Arc<str>, BTreeSet<Arc<str>>),
    /// The key is there.
    Exists(Arc<str>),
    /// The key is absent.
    DoesNotExist(Arc<str>),
}

impl Requirement {
    /// Whether labels meet the condition.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

/// A selector: all its requirements. None at all selects everything.
///
/// Equal selectors are equal values, however they were written: requirements
/// are sorted and unique, and `matchLabels` is `In` with one value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Selects everything.
    pub const EVERYTHING: Self = Self {
        requirements: Vec::new(),
    };

    /// A selector of all these requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let unique: BTreeSet<_> = requirements.into_iter().collect();
        Self {
            requirements: unique.into_iter().collect(),
        }
    }

    /// Whether labels meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| (Arc::from(*k), Arc::from(*v)))
            .collect()
    }

    fn values(list: &[&str]) -> BTreeSet<Arc<str>> {
        list.iter().map(|v| Arc::from(*v)).collect()
    }

    #[test]
    fn empty_selector_selects_everything() {
        assert!(Selector::EVERYTHING.matches(&labels(&[])));
    }

    #[test]
    fn not_in_is_true_for_an_absent_key_and_in_is_not() {
        let not_in = Selector::new([Requirement::NotIn("a".into(), values(&["x"]))]);
        let is_in = Selector::new([Requirement::In("a".into(), values(&["x"]))]);
        assert!(not_in.matches(&labels(&[])) && !is_in.matches(&labels(&[])));
        assert!(!not_in.matches(&labels(&[("a", "x")])) && is_in.matches(&labels(&[("a", "x")])));
    }

    #[test]
    fn exists_sees_an_empty_value() {
        let exists = Selector::new([Requirement::Exists("a".into())]);
        let absent = Selector::new([Requirement::DoesNotExist("a".into())]);
        assert!(exists.matches(&labels(&[("a", "")])) && !absent.matches(&labels(&[("a", "")])));
        assert!(!exists.matches(&labels(&[])) && absent.matches(&labels(&[])));
    }

    #[test]
    fn equal_selectors_are_equal_however_they_are_written() {
        let one = Selector::new([
            Requirement::Exists("b".into()),
            Requirement::In("a".into(), values(&["x"])),
        ]);
        let other = Selector::new([
            Requirement::In("a".into(), values(&["x"])),
            Requirement::Exists("b".into()),
            Requirement::Exists("b".into()),
        ]);
        assert_eq!(one, other);
    }
}
