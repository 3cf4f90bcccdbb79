//! Puts one part into a policy that an API server would reject.
//!
//! Types stay right, so that typed clients decode the object and must cope with its meaning.

use serde_json::{Value, json};

use super::Rng;

/// Replaces or adds one part. Every choice leaves the object decodable and makes it invalid.
pub(super) fn spoil(rng: &mut Rng, policy: &mut Value) {
    let spec = &mut policy["spec"];
    match rng.weighted(&[10, 10, 40, 40]) {
        0 => spec["podSelector"] = bad_selector(rng),
        1 => {
            spec["policyTypes"] = rng
                .pick(&[
                    json!(["Forward"]),
                    json!(["Ingress", "Forward"]),
                    json!(["egress"]),
                ])
                .clone()
        }
        2 => {
            let (section, peers) = *rng.pick(&[("ingress", "from"), ("egress", "to")]);
            let peer = bad_peer(rng);
            add(rng, &mut spec[section], peers, peer);
        }
        _ => {
            let section = *rng.pick(&["ingress", "egress"]);
            let port = bad_port(rng);
            add(rng, &mut spec[section], "ports", port);
        }
    }
}

/// Adds an item to a list of a rule, and a rule if there is none.
fn add(rng: &mut Rng, rules: &mut Value, list: &str, item: Value) {
    match rules.as_array_mut() {
        Some(rules) if !rules.is_empty() => {
            let index = rng.below(rules.len());
            match rules[index][list].as_array_mut() {
                Some(items) => items.push(item),
                None => rules[index][list] = json!([item]),
            }
        }
        _ => *rules = json!([{ list: [item] }]),
    }
}

fn bad_selector(rng: &mut Rng) -> Value {
    let expression = match rng.below(4) {
        0 => json!({"key": "app", "operator": "Matches", "values": ["web"]}),
        1 => json!({"key": "app", "operator": "In", "values": []}),
        2 => json!({"key": "app", "operator": "NotIn"}),
        _ => json!({"key": "app", "operator": "Exists", "values": ["web"]}),
    };
    json!({ "matchExpressions": [expression] })
}

fn bad_peer(rng: &mut Rng) -> Value {
    let wide = json!({"cidr": "0.0.0.0/0"});
    match rng.below(9) {
        0 => json!({}),
        1 => json!({"serviceSelector": {"matchLabels": {"app": "web"}}}),
        2 => json!({"ipBlock": wide, "podSelector": {}}),
        3 => json!({"ipBlock": wide, "namespaceSelector": {}}),
        4 => {
            json!({"ipBlock": {"cidr": *rng.pick(&["", "10.244.0.0", "0.0.0.0/33", "::/129", "::ffff:0.0.0.0/96"])}})
        }
        5 => {
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": [*rng.pick(&["0.0.0.0/0", "::/1", "nowhere"])]}})
        }
        6 => {
            json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": [*rng.pick(&["10.244.0.0/16", "10.0.0.0/8", "192.0.2.0/24"])]}})
        }
        7 => json!({"podSelector": bad_selector(rng)}),
        _ => json!({"namespaceSelector": bad_selector(rng), "podSelector": {}}),
    }
}

fn bad_port(rng: &mut Rng) -> Value {
    match rng.below(8) {
        0 => json!({"port": 0}),
        1 => json!({"port": 65536}),
        2 => json!({"port": "80"}),
        3 => json!({"port": 8080, "endPort": 80}),
        4 => json!({"port": "http", "endPort": 9090}),
        5 => json!({"endPort": 9090}),
        6 => json!({"port": 80, "protocol": "ICMP"}),
        _ => json!({"port": 80, "endPort": 65536}),
    }
}
