//! NetworkPolicies of every shape that the API server accepts, and its ways to say nothing.

use serde_json::{Map, Value, json};

use super::Rng;
use super::addresses::Anchors;
use super::selectors::{Of, selector};

/// One policy.
pub(super) fn policy(rng: &mut Rng, anchors: &Anchors, namespace: &str, index: usize) -> Value {
    let mut spec = Map::new();
    let subject = if rng.percent(25) {
        nothing(rng, json!({}))
    } else {
        Some(selector(rng, Of::Pods))
    };
    set(&mut spec, "podSelector", subject);
    let types = match rng.weighted(&[35, 25, 25, 10, 5]) {
        0 => Some(json!(["Ingress"])),
        1 => Some(json!(["Egress"])),
        2 => Some(json!(["Ingress", "Egress"])),
        3 => nothing(rng, json!([])),
        _ => Some(json!(["Egress", "Ingress"])),
    };
    set(&mut spec, "policyTypes", types);
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        let count = rng.weighted(&[15, 40, 30, 15]);
        let rules = some_of(rng, count, |rng| rule(rng, anchors, peers));
        set(&mut spec, section, rules);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": format!("policy-{index}")},
        "spec": spec,
    })
}

/// A policy that draws the borders which other policies draw by luck only: a block with an except
/// that somebody is in, a block nested in it, a negative selector, a name, and a range.
pub(super) fn borders(rng: &mut Rng, anchors: &Anchors, namespace: &str, index: usize) -> Value {
    let (kind, section, peers) =
        *rng.pick(&[("Ingress", "ingress", "from"), ("Egress", "egress", "to")]);
    let [wide, nested] = anchors.nested_blocks(rng);
    let without = *rng.pick(&["app", "tier", "env"]);
    let subject = match rng.below(3) {
        0 => json!({}),
        1 => {
            json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]})
        }
        _ => json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": format!("policy-{index}")},
        "spec": {
            "podSelector": subject,
            "policyTypes": [kind],
            section: [
                {peers: [{"ipBlock": wide}], "ports": [{"port": *rng.pick(&[53, 80, 443])}, {"port": "http"}]},
                {peers: [{"ipBlock": nested}], "ports": [{"port": 8000, "endPort": 8100}]},
                {
                    peers: [{
                        "namespaceSelector": {},
                        "podSelector": {"matchExpressions": [{"key": without, "operator": "DoesNotExist"}]},
                    }],
                    "ports": [{"port": "http"}, {"port": 440, "endPort": 445}],
                },
            ],
        },
    })
}

fn rule(rng: &mut Rng, anchors: &Anchors, peers_name: &str) -> Value {
    let mut rule = Map::new();
    if rng.percent(4) {
        return Value::Object(rule);
    }
    let count = rng.weighted(&[15, 45, 25, 15]);
    let peers = some_of(rng, count, |rng| peer(rng, anchors));
    set(&mut rule, peers_name, peers);
    let count = rng.weighted(&[30, 35, 20, 15]);
    let ports = some_of(rng, count, port);
    set(&mut rule, "ports", ports);
    Value::Object(rule)
}

fn peer(rng: &mut Rng, anchors: &Anchors) -> Value {
    match rng.weighted(&[45, 22, 18, 15]) {
        0 => json!({"ipBlock": anchors.block(rng)}),
        1 => json!({"podSelector": selector(rng, Of::Pods)}),
        2 => json!({"namespaceSelector": selector(rng, Of::Namespaces)}),
        _ => json!({
            "podSelector": selector(rng, Of::Pods),
            "namespaceSelector": selector(rng, Of::Namespaces),
        }),
    }
}

fn port(rng: &mut Rng) -> Value {
    let mut entry = Map::new();
    match rng.weighted(&[10, 35, 27, 28]) {
        0 => {}
        1 => {
            let number = *rng.pick(&[1, 53, 80, 443, 8080, 9090, 9100, 65535]);
            entry.insert("port".to_owned(), json!(number));
        }
        2 => {
            let first = *rng.pick(&[1_u16, 52, 79, 80, 440, 8000, 8080, 9089]);
            let more = *rng.pick(&[0_u16, 1, 3, 10, 1000, u16::MAX]);
            entry.insert("port".to_owned(), json!(first));
            entry.insert("endPort".to_owned(), json!(first.saturating_add(more)));
        }
        _ => {
            let name = *rng.pick(&["http", "http", "dns", "metrics", "admin", "unknown"]);
            entry.insert("port".to_owned(), json!(name));
        }
    }
    let protocol = match rng.weighted(&[30, 35, 20, 10, 5]) {
        0 => None,
        1 => Some(json!("TCP")),
        2 => Some(json!("UDP")),
        3 => Some(json!("SCTP")),
        _ => Some(Value::Null),
    };
    set(&mut entry, "protocol", protocol);
    Value::Object(entry)
}

/// So many items, or one of the ways to write none.
fn some_of(rng: &mut Rng, count: usize, mut item: impl FnMut(&mut Rng) -> Value) -> Option<Value> {
    if count == 0 {
        return nothing(rng, json!([]));
    }
    Some((0..count).map(|_| item(rng)).collect())
}

/// Missing, null or empty: the API tells none of them apart.
fn nothing(rng: &mut Rng, empty: Value) -> Option<Value> {
    match rng.below(3) {
        0 => None,
        1 => Some(Value::Null),
        _ => Some(empty),
    }
}

fn set(object: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value);
    }
}
