//! Label selectors.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy_core::model::{Requirement, Selector};
use serde_json::Value;

use super::names::Names;
use super::path::Path;
use super::report::{Fields, Report, field};

/// Longest name part of a label key, and longest label value
/// (Kubernetes documentation, "Labels and Selectors").
const MAX_LABEL_BYTES: usize = 63;
/// Longest prefix of a label key, a DNS subdomain.
const MAX_PREFIX_BYTES: usize = 253;

/// Reads a LabelSelector; `None` if it cannot be understood, which is reported
/// with what happens because of it.
pub(super) fn convert(
    value: &Value,
    at: &Path<'_>,
    consequence: &str,
    names: &mut Names,
    report: &mut Report,
) -> Option<Selector> {
    let fields = report.fields(at, value, consequence).ok()?;
    report.unknown_fields(at, fields, &["matchLabels", "matchExpressions"]);
    let mut reader = Reader {
        consequence,
        names,
        report,
    };
    let labels = reader.match_labels(fields, at);
    let expressions = reader.match_expressions(fields, at);
    Some(Selector::new(labels?.into_iter().chain(expressions?)))
}

struct Reader<'r> {
    consequence: &'r str,
    names: &'r mut Names,
    report: &'r mut Report,
}

impl Reader<'_> {
    fn match_labels(&mut self, fields: &Fields, at: &Path<'_>) -> Option<Vec<Requirement>> {
        let at = at.field("matchLabels");
        let Some(labels) = field(fields, "matchLabels") else {
            return Some(Vec::new());
        };
        let labels = self.report.fields(&at, labels, self.consequence).ok()?;
        // All are read, so that all that is wrong is told at once.
        let requirements: Vec<_> = labels
            .iter()
            .map(|(key, value)| {
                let at = at.field(key);
                let key = self.key(key, &at);
                let value = self.value(value, &at);
                Some(Requirement::In(key?, BTreeSet::from([value?])))
            })
            .collect();
        requirements.into_iter().collect()
    }

    fn match_expressions(&mut self, fields: &Fields, at: &Path<'_>) -> Option<Vec<Requirement>> {
        let list = self
            .report
            .list(at, fields, "matchExpressions", self.consequence)
            .ok()?;
        let at = at.field("matchExpressions");
        let requirements: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(i, item)| self.expression(item, &at.index(i)))
            .collect();
        requirements.into_iter().collect()
    }

    fn expression(&mut self, value: &Value, at: &Path<'_>) -> Option<Requirement> {
        let consequence = self.consequence;
        let fields = self.report.fields(at, value, consequence).ok()?;
        self.report
            .unknown_fields(at, fields, &["key", "operator", "values"]);
        let key = self.report.text(at, fields, "key", consequence).ok()?;
        let key = self.key(key.unwrap_or_default(), &at.field("key"))?;
        let operator = self.report.text(at, fields, "operator", consequence).ok()?;
        let list = self.report.list(at, fields, "values", consequence).ok()?;
        let values_at = at.field("values");
        let values: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(i, value)| self.value(value, &values_at.index(i)))
            .collect();
        let values: BTreeSet<_> = values.into_iter().collect::<Option<_>>()?;
        match (operator.unwrap_or_default(), values.is_empty()) {
            ("In", false) => Some(Requirement::In(key, values)),
            ("NotIn", false) => Some(Requirement::NotIn(key, values)),
            ("Exists", true) => Some(Requirement::Exists(key)),
            ("DoesNotExist", true) => Some(Requirement::DoesNotExist(key)),
            (operator @ ("In" | "NotIn"), true) => {
                self.wrong(&values_at, &format!("{operator} needs at least one value"))
            }
            (operator @ ("Exists" | "DoesNotExist"), false) => {
                self.wrong(&values_at, &format!("{operator} takes no values"))
            }
            (operator, _) => self.wrong(
                &at.field("operator"),
                &format!("{operator:?} is not In, NotIn, Exists or DoesNotExist"),
            ),
        }
    }

    fn key(&mut self, key: &str, at: &Path<'_>) -> Option<Arc<str>> {
        if is_label_key(key) {
            return Some(self.names.get(key));
        }
        self.wrong(at, &format!("{key:?} is not a label key"))
    }

    fn value(&mut self, value: &Value, at: &Path<'_>) -> Option<Arc<str>> {
        match value {
            Value::String(text) if text.is_empty() || is_label_name(text) => {
                Some(self.names.get(text))
            }
            Value::String(text) => self.wrong(at, &format!("{text:?} is not a label value")),
            other => {
                self.report.malformed(
                    at,
                    "text (in YAML, quote numbers, true and false)",
                    &format!("it is {other}; {}", self.consequence),
                );
                None
            }
        }
    }

    fn wrong<T>(&mut self, at: &Path<'_>, what: &str) -> Option<T> {
        let message = format!("{what}; {}", self.consequence);
        self.report.error(at, &message);
        None
    }
}

/// `[prefix/]name`.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_label_name(key),
        Some((prefix, name)) => is_label_prefix(prefix) && is_label_name(name),
    }
}

/// Letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_label_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= MAX_LABEL_BYTES
        && ends
            .iter()
            .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A DNS subdomain (RFC 1123).
fn is_label_prefix(prefix: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    prefix.len() <= MAX_PREFIX_BYTES
        && prefix.split('.').map(str::as_bytes).all(|part| {
            part.first().is_some_and(plain)
                && part.last().is_some_and(plain)
                && part.iter().all(|b| plain(b) || *b == b'-')
        })
}
