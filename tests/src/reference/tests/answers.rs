//! An answer names the policies and rules behind it.

use serde_json::json;

use super::support::{ask, policy, world};
use crate::reference::{Cluster, Reason, RuleRef};

fn cluster() -> Cluster {
    let mut objects = world();
    let one = json!([{"ports": [{"port": 79}]}, {"ports": [{"port": 80}]}, {"ports": [{"port": 80, "endPort": 81}]}]);
    objects.push(policy(
        "a/two",
        json!({"ingress": [{"ports": [{"port": 80}]}]}),
    ));
    objects.push(policy("a/one", json!({"ingress": one})));
    objects.push(policy(
        "a/elsewhere",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]}),
    ));
    objects.push(policy(
        "a/out",
        json!({"policyTypes": ["Egress"], "egress": [{}]}),
    ));
    Cluster::from_objects(&objects)
}

#[test]
fn an_allowed_side_names_every_rule_that_matches() {
    let side = ask(&cluster(), "b/web > a/db 80/TCP")
        .ingress
        .expect("a judged side");
    let rule = |policy: &str, index| RuleRef {
        policy: policy.to_owned(),
        index,
    };
    assert_eq!(side.reason, Reason::Rule);
    assert_eq!(side.policies, ["a/one", "a/two"]);
    assert_eq!(
        side.rules,
        [rule("a/one", 1), rule("a/one", 2), rule("a/two", 0)]
    );
}

#[test]
fn a_denied_side_names_every_policy_that_isolates() {
    let answer = ask(&cluster(), "b/web > a/db 90/TCP");
    let side = answer.ingress.expect("a judged side");
    assert_eq!(
        (side.reason, side.allowed, answer.allowed),
        (Reason::Denied, false, false)
    );
    assert_eq!(side.policies, ["a/one", "a/two"]);
    assert!(side.rules.is_empty());
    let egress = answer.egress.expect("the source is a pod");
    assert_eq!(
        (egress.reason, egress.policies.len()),
        (Reason::NotIsolated, 0)
    );
}

#[test]
fn each_side_is_answered_even_if_the_other_denies() {
    let answer = ask(&cluster(), "a/web > a/db 90/TCP");
    assert!(!answer.allowed);
    assert_eq!(answer.egress.expect("judged").policies, ["a/out"]);
    assert_eq!(answer.ingress.expect("judged").reason, Reason::Denied);
}
