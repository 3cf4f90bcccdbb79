//! Label selectors (semantics 3).
//!
//! Parsing fails on everything that an API server rejects; what a failure means differs between
//! a peer (matches nothing) and a subject (the whole namespace), so it is left to the caller.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{self, NotUnderstood};

/// An object's labels.
pub(super) type Labels = BTreeMap<String, String>;

/// All requirements hold: `matchLabels` AND `matchExpressions`. None at all matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// The selector that matches every object: `{}`.
    pub(super) fn everything() -> Self {
        Self::default()
    }

    /// Reads a LabelSelector object. Unknown fields are ignored, as an API server drops them.
    pub(super) fn parse(value: &Value) -> Result<Self, NotUnderstood> {
        if !value.is_object() {
            return Err(NotUnderstood);
        }
        let mut requirements = Vec::new();
        for (key, label) in json::string_map(value, "matchLabels")? {
            if !is_label_key(&key) || !is_label_value(&label) {
                return Err(NotUnderstood);
            }
            requirements.push(Requirement {
                key,
                test: Test::In(vec![label]),
            });
        }
        for expression in json::list(value, "matchExpressions")? {
            requirements.push(Requirement::parse(expression)?);
        }
        Ok(Self { requirements })
    }

    /// Whether the labels satisfy every requirement.
    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.holds_for(labels))
    }

    /// Whether any requirement is a negative one (NotIn or DoesNotExist).
    pub(super) fn has_negative(&self) -> bool {
        self.requirements.iter().any(Requirement::is_negative)
    }
}

impl Requirement {
    fn parse(value: &Value) -> Result<Self, NotUnderstood> {
        let key = json::text(value, "key").ok_or(NotUnderstood)?;
        if !is_label_key(key) {
            return Err(NotUnderstood);
        }
        let values = json::list(value, "values")?
            .iter()
            .map(|v| v.as_str().filter(|s| is_label_value(s)).map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or(NotUnderstood)?;
        // Semantics 3: In and NotIn need a value, Exists and DoesNotExist none.
        let test = match (json::text(value, "operator"), values.is_empty()) {
            (Some("In"), false) => Test::In(values),
            (Some("NotIn"), false) => Test::NotIn(values),
            (Some("Exists"), true) => Test::Exists,
            (Some("DoesNotExist"), true) => Test::DoesNotExist,
            _ => return Err(NotUnderstood),
        };
        Ok(Self {
            key: key.to_owned(),
            test,
        })
    }

    fn holds_for(&self, labels: &Labels) -> bool {
        let actual = labels.get(&self.key);
        match &self.test {
            Test::In(values) => actual.is_some_and(|value| values.contains(value)),
            // Semantics 3: NotIn is true when the key is absent.
            Test::NotIn(values) => actual.is_none_or(|value| !values.contains(value)),
            Test::Exists => actual.is_some(),
            Test::DoesNotExist => actual.is_none(),
        }
    }

    /// Whether this is NotIn or DoesNotExist.
    pub(super) fn is_negative(&self) -> bool {
        matches!(self.test, Test::NotIn(_) | Test::DoesNotExist)
    }
}

/// `[prefix/]name`, the prefix a DNS subdomain; the API server refuses any other key.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_qualified_name(key),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_name(name),
    }
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified_name(value)
}

/// At most 63 of letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_qualified_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_dns_subdomain(name: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|part| {
            part.starts_with(lower)
                && part.ends_with(lower)
                && part.chars().all(|c| lower(c) || c == '-')
        })
}
