//! Semantics 3: label selectors and the peers table.

use serde_json::{Value, json};

use super::support::{Case, ask, check, namespace, pod, policy, run, world};
use crate::reference::Cluster;

/// Ingress to `a/db` from the pods of namespace `a` that a selector matches; the pods are
/// `one` (`x=1`), `two` (`x=2`, `y=`), `none` (no labels).
fn selects(what: &str, selector: Value, open: &[&str], closed: &[&str]) {
    let mut objects = world();
    objects.push(pod("a/one", &[("x", "1")], &["10.244.7.1"]));
    objects.push(pod("a/two", &[("x", "2"), ("y", "")], &["10.244.7.2"]));
    objects.push(pod("a/none", &[], &["10.244.7.3"]));
    let peer = json!({"podSelector": selector});
    objects.push(policy(
        "a/p",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [peer]}]}),
    ));
    let cluster = Cluster::from_objects(&objects);
    for (names, expected) in [(open, true), (closed, false)] {
        for name in names {
            let answer = ask(&cluster, &format!("a/{name} > a/db 80/TCP"));
            assert_eq!(answer.allowed, expected, "{what}: {name}");
        }
    }
}

#[test]
fn match_labels_are_all_required_and_empty_values_are_values() {
    selects("{}", json!({}), &["one", "two", "none"], &[]);
    selects(
        "x=1",
        json!({"matchLabels": {"x": "1"}}),
        &["one"],
        &["two", "none"],
    );
    selects(
        "y=",
        json!({"matchLabels": {"y": ""}}),
        &["two"],
        &["one", "none"],
    );
    selects(
        "x=1 and y=",
        json!({"matchLabels": {"x": "1", "y": ""}}),
        &[],
        &["one", "two", "none"],
    );
    selects(
        "x=2 and y=",
        json!({"matchLabels": {"x": "2", "y": ""}}),
        &["two"],
        &["one", "none"],
    );
}

#[test]
fn match_expressions() {
    let one = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "x", "operator": operator, "values": values}]});
    selects(
        "In",
        one("In", json!(["1", "3"])),
        &["one"],
        &["two", "none"],
    );
    selects(
        "NotIn holds for an absent key",
        one("NotIn", json!(["1"])),
        &["two", "none"],
        &["one"],
    );
    selects(
        "Exists",
        one("Exists", json!(null)),
        &["one", "two"],
        &["none"],
    );
    selects(
        "Exists, empty values",
        one("Exists", json!([])),
        &["one", "two"],
        &["none"],
    );
    selects(
        "DoesNotExist",
        one("DoesNotExist", json!(null)),
        &["none"],
        &["one", "two"],
    );
    let y = json!({"matchExpressions": [{"key": "y", "operator": "Exists"}]});
    selects(
        "Exists looks at the key only",
        y,
        &["two"],
        &["one", "none"],
    );
    let y = json!({"matchExpressions": [{"key": "y", "operator": "NotIn", "values": [""]}]});
    selects("NotIn of the empty value", y, &["one", "none"], &["two"]);
}

#[test]
fn labels_and_expressions_are_anded() {
    let both = json!({
        "matchLabels": {"x": "2"},
        "matchExpressions": [{"key": "y", "operator": "DoesNotExist"}],
    });
    selects("contradiction", both, &[], &["one", "two", "none"]);
    let both = json!({"matchExpressions": [
        {"key": "x", "operator": "Exists"},
        {"key": "y", "operator": "DoesNotExist"},
    ]});
    selects("two expressions", both, &["one"], &["two", "none"]);
}

#[test]
fn negative_subject_selectors_isolate_pods_without_the_key() {
    run(&[Case {
        what: "NotIn subject",
        spec: json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}}),
        open: &["b/web > a/web 80/TCP"],
        closed: &["b/web > a/db 80/TCP"],
    }]);
}

#[test]
fn the_peers_table() {
    let db = json!({"matchLabels": {"app": "db"}});
    let web = json!({"matchLabels": {"app": "web"}});
    let team_b = json!({"matchLabels": {"team": "b"}});
    let from = |peers: Value| json!({"podSelector": db, "ingress": [{"from": peers}]});
    run(&[
        Case {
            what: "podSelector alone: the policy's own namespace",
            spec: from(json!([{"podSelector": web}])),
            open: &["a/web > a/db 80/TCP"],
            closed: &["b/web > a/db 80/TCP", "10.244.99.1 > a/db 80/TCP"],
        },
        Case {
            what: "namespaceSelector alone: all pods there",
            spec: from(json!([{"namespaceSelector": team_b}])),
            open: &["b/web > a/db 80/TCP", "b/db > a/db 80/TCP"],
            closed: &["a/web > a/db 80/TCP", "c/web > a/db 80/TCP"],
        },
        Case {
            what: "both in one item: AND",
            spec: from(json!([{"namespaceSelector": team_b, "podSelector": web}])),
            open: &["b/web > a/db 80/TCP"],
            closed: &["b/db > a/db 80/TCP", "a/web > a/db 80/TCP"],
        },
        Case {
            what: "two items: OR",
            spec: from(json!([{"namespaceSelector": team_b}, {"podSelector": web}])),
            open: &[
                "b/web > a/db 80/TCP",
                "b/db > a/db 80/TCP",
                "a/web > a/db 80/TCP",
            ],
            closed: &["c/web > a/db 80/TCP"],
        },
        Case {
            what: "null is a selector that is not used",
            spec: from(
                json!([{"namespaceSelector": team_b, "podSelector": null, "ipBlock": null}]),
            ),
            open: &["b/db > a/db 80/TCP"],
            closed: &["a/web > a/db 80/TCP"],
        },
        Case {
            what: "both selectors empty: every pod, no other address",
            spec: from(json!([{"namespaceSelector": {}, "podSelector": {}}])),
            open: &["b/db > a/db 80/TCP", "c/web > a/db 80/TCP"],
            closed: &["192.0.2.1 > a/db 80/TCP", "10.244.99.1 > a/db 80/TCP"],
        },
    ]);
}

#[test]
fn egress_peers_are_destinations() {
    run(&[Case {
        what: "to",
        spec: json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]}),
        open: &["a/web > b/db 80/TCP", "c/web > a/web 80/TCP"],
        closed: &[
            "a/web > a/db 80/TCP",
            "a/web > c/db 80/TCP",
            "a/web > 192.0.2.1 80/TCP",
        ],
    }]);
}

#[test]
fn rules_keep_their_peers_and_ports_together() {
    run(&[Case {
        what: "{web,80},{b,81}",
        spec: json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]},
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}], "ports": [{"port": 81}]},
        ]}),
        open: &["a/web > a/db 80/TCP", "b/web > a/db 81/TCP"],
        closed: &["a/web > a/db 81/TCP", "b/web > a/db 80/TCP"],
    }]);
}

#[test]
fn every_namespace_has_its_name_as_a_label() {
    let by_name = |name: &str| {
        json!({"podSelector": {}, "ingress": [{"from": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        ]}]})
    };
    run(&[
        Case {
            what: "a declared one",
            spec: by_name("b"),
            open: &["b/web > a/db 80/TCP"],
            closed: &["c/web > a/db 80/TCP"],
        },
        Case {
            what: "one that nobody declared",
            spec: by_name("c"),
            open: &["c/web > a/db 80/TCP"],
            closed: &["b/web > a/db 80/TCP"],
        },
        Case {
            what: "an undeclared one has no other label",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [
                {"key": "team", "operator": "DoesNotExist"}]}}]}]}),
            open: &["c/web > a/db 80/TCP"],
            closed: &["b/web > a/db 80/TCP"],
        },
    ]);
    let mut objects = world();
    objects.push(namespace("b", &[("kubernetes.io/metadata.name", "c")]));
    objects.push(policy("a/p", by_name("b")));
    check(
        "it cannot be changed",
        &objects,
        &["b/web > a/db 80/TCP"],
        &["c/web > a/db 80/TCP"],
    );
}
