//! Labels and label selectors over a universe so small that they meet.

use serde_json::{Map, Value, json};

use super::Rng;

/// Pod labels; the empty string is a value like others.
const POD_LABELS: [(&str, &[&str]); 4] = [
    ("app", &["web", "db", "api"]),
    ("tier", &["front", "back"]),
    ("env", &["prod", "dev", ""]),
    ("example.com/zone", &["a", "b"]),
];

/// Namespace labels; `env` is a key of both.
const NAMESPACE_LABELS: [(&str, &[&str]); 2] =
    [("team", &["red", "blue"]), ("env", &["prod", "dev"])];

/// Whose labels.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Pods,
    Namespaces,
}

impl Of {
    fn universe(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::Pods => &POD_LABELS,
            Self::Namespaces => &NAMESPACE_LABELS,
        }
    }
}

/// Some labels, each key present in two of three objects.
pub(super) fn labels(rng: &mut Rng, of: Of) -> Value {
    let mut labels = Map::new();
    for (key, values) in of.universe() {
        if rng.percent(65) {
            labels.insert((*key).to_owned(), json!(rng.pick(values)));
        }
    }
    Value::Object(labels)
}

/// A selector: empty, one requirement, or two.
pub(super) fn selector(rng: &mut Rng, of: Of) -> Value {
    let mut labels = Map::new();
    let mut expressions = Vec::new();
    for _ in 0..rng.weighted(&[15, 60, 25]) {
        let (key, values) = *rng.pick(of.universe());
        if rng.percent(45) {
            labels.insert(key.to_owned(), json!(rng.pick(values)));
        } else {
            expressions.push(expression(rng, key, values));
        }
    }
    if matches!(of, Of::Namespaces) && rng.percent(15) {
        let name = format!("ns-{}", rng.below(4));
        labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    }
    let mut selector = Map::new();
    if !labels.is_empty() {
        selector.insert("matchLabels".to_owned(), Value::Object(labels));
    } else if rng.percent(10) {
        selector.insert("matchLabels".to_owned(), Value::Null);
    }
    if !expressions.is_empty() {
        selector.insert("matchExpressions".to_owned(), Value::Array(expressions));
    } else if rng.percent(10) {
        selector.insert("matchExpressions".to_owned(), json!([]));
    }
    Value::Object(selector)
}

fn expression(rng: &mut Rng, key: &str, values: &[&str]) -> Value {
    let operator = *rng.pick(&["In", "NotIn", "NotIn", "Exists", "DoesNotExist"]);
    if !operator.ends_with("In") {
        return json!({"key": key, "operator": operator});
    }
    let mut listed = vec![*rng.pick(values)];
    if rng.percent(30) {
        listed.push(*rng.pick(values));
    }
    json!({"key": key, "operator": operator, "values": listed})
}
