//! Semantics 14: what cannot be understood allows nothing and still isolates.

use serde_json::{Value, json};

use super::support::{Case, check, pod, policy, run, world};

/// Asserts that a peer beside a good one matches nothing and takes nothing from the good one,
/// and that alone it leaves the pod isolated, in both directions.
fn bad_peer(what: &'static str, peer: &Value) {
    let good = json!({"ipBlock": {"cidr": "203.0.113.0/24"}});
    let both = |peers: Value| {
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"],
               "ingress": [{"from": peers}], "egress": [{"to": peers}]})
    };
    run(&[
        Case {
            what,
            spec: both(json!([peer, good])),
            open: &["203.0.113.1 > a/db 80/TCP", "a/db > 203.0.113.1 80/TCP"],
            closed: &[
                "192.0.2.1 > a/db 80/TCP",
                "a/web > a/db 80/TCP",
                "b/web > a/db 80/TCP v6",
                "a/db > 192.0.2.1 80/TCP",
                "a/db > a/web 80/TCP",
                "a/db > b/web 80/TCP v6",
            ],
        },
        Case {
            what,
            spec: both(json!([peer])),
            open: &["192.0.2.1 > a/web 80/TCP"],
            closed: &[
                "203.0.113.1 > a/db 80/TCP",
                "192.0.2.1 > a/db 80/TCP",
                "a/web > a/db 80/TCP",
                "a/db > b/web 80/TCP",
            ],
        },
    ]);
}

#[test]
fn peers_that_say_nothing_match_nothing() {
    bad_peer("{}", &json!({}));
    bad_peer(
        "null fields",
        &json!({"podSelector": null, "namespaceSelector": null, "ipBlock": null}),
    );
    bad_peer("an unknown field", &json!({"serviceSelector": {}}));
    bad_peer("null", &json!(null));
    bad_peer("text", &json!("everyone"));
}

#[test]
fn peers_that_contradict_themselves_match_nothing() {
    let block = json!({"cidr": "0.0.0.0/0"});
    bad_peer(
        "ipBlock and podSelector",
        &json!({"ipBlock": block, "podSelector": {}}),
    );
    bad_peer(
        "ipBlock and namespaceSelector",
        &json!({"ipBlock": block, "namespaceSelector": {}}),
    );
}

#[test]
fn bad_blocks_match_nothing() {
    for cidr in [
        "",
        "0.0.0.0",
        "0.0.0.0/33",
        "::/129",
        "all",
        "::ffff:0.0.0.0/96",
        "300.0.0.0/8",
    ] {
        bad_peer("cidr", &json!({"ipBlock": {"cidr": cidr}}));
    }
    bad_peer("no cidr", &json!({"ipBlock": {}}));
    bad_peer("a cidr that is no text", &json!({"ipBlock": {"cidr": 7}}));
    for except in [
        json!(["0.0.0.0/0"]),
        json!(["::/1"]),
        json!(["10.0.0.0"]),
        json!([7]),
        json!("10.0.0.0/8"),
        json!(["10.0.0.0/8", "nonsense"]),
    ] {
        bad_peer(
            "except of everything",
            &json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}),
        );
    }
    bad_peer(
        "except as long as the block",
        &json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/8"]}}),
    );
    bad_peer(
        "except around the block",
        &json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["8.0.0.0/6"]}}),
    );
    bad_peer(
        "except beside the block",
        &json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["198.51.100.0/25"]}}),
    );
}

#[test]
fn bad_selectors_as_peers_match_nothing() {
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for selector in [
        expression("app", "Matches", json!(["web"])),
        expression("app", "in", json!(["web"])),
        expression("app", "In", json!([])),
        expression("app", "NotIn", json!(null)),
        expression("app", "Exists", json!(["web"])),
        expression("gone", "DoesNotExist", json!(["web"])),
        expression("", "DoesNotExist", json!(null)),
        expression("-app", "DoesNotExist", json!(null)),
        expression("Example.COM/app", "DoesNotExist", json!(null)),
        expression("app", "NotIn", json!(["no spaces"])),
        json!({"matchExpressions": [{"operator": "Exists"}]}),
        json!({"matchExpressions": {}}),
        json!({"matchLabels": {"app": 1}}),
        json!({"matchLabels": []}),
        json!("app=web"),
    ] {
        bad_peer("podSelector", &json!({"podSelector": selector}));
        bad_peer("namespaceSelector", &json!({"namespaceSelector": selector}));
        bad_peer(
            "both",
            &json!({"podSelector": {}, "namespaceSelector": selector}),
        );
    }
}

#[test]
fn a_subject_selector_that_cannot_be_understood_selects_the_namespace() {
    for selector in [
        json!({"matchExpressions": [{"key": "app", "operator": "Matches", "values": ["db"]}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}),
        json!({"matchLabels": {"app": "db", "x": "no spaces"}}),
        json!({"matchLabels": {"app": 1}}),
        json!([]),
    ] {
        run(&[Case {
            what: "its rules count as well",
            spec: json!({"podSelector": selector, "ingress": [{"ports": [{"port": 80}]}]}),
            open: &[
                "b/web > a/db 80/TCP",
                "b/web > a/web 80/TCP",
                "a/db > b/web 81/TCP",
            ],
            closed: &["b/web > a/db 81/TCP", "b/web > a/web 81/TCP"],
        }]);
    }
}

#[test]
fn bad_port_entries_match_nothing_and_leave_their_neighbours() {
    for entry in [
        json!({"port": 0}),
        json!({"port": 0, "endPort": 65535}),
        json!({"port": 65536}),
        json!({"port": -1}),
        json!({"port": 80.5}),
        json!({"port": "80"}),
        json!({"port": "HTTP"}),
        json!({"port": "-http"}),
        json!({"port": "ht--tp"}),
        json!({"port": "sixteen-letters-"}),
        json!({"port": true}),
        json!({"endPort": 90}),
        json!({"port": "http", "endPort": 9000}),
        json!({"port": 8081, "endPort": 8080}),
        json!({"port": 1, "endPort": 65536}),
        json!({"port": 1, "endPort": "high"}),
        json!({"protocol": "tcp"}),
        json!({"protocol": ""}),
        json!({"protocol": "ICMP"}),
        json!({"protocol": 6}),
        json!(null),
        json!(80),
    ] {
        run(&[
            Case {
                what: "beside a good one",
                spec: json!({"podSelector": {}, "ingress": [{"ports": [entry, {"port": 443}]}]}),
                open: &["b/web > a/web 443/TCP"],
                closed: &[
                    "b/web > a/web 80/TCP",
                    "b/web > a/web 8080/TCP",
                    "b/web > a/web 8081/TCP",
                    "b/web > a/web ICMP",
                ],
            },
            Case {
                what: "alone it is not an empty list",
                spec: json!({"podSelector": {}, "ingress": [{"ports": [entry]}]}),
                open: &["a/web > b/web 443/TCP"],
                closed: &[
                    "b/web > a/web 443/TCP",
                    "b/web > a/web 80/TCP",
                    "b/web > a/web 8080/TCP",
                    "b/web > a/web ICMP",
                ],
            },
        ]);
    }
}

#[test]
fn a_port_name_is_not_longer_than_fifteen_letters() {
    let mut objects = world();
    let mut odd = pod("a/odd", &[], &["10.244.7.1"]);
    odd["spec"]["containers"] = json!([{"ports": [
        {"name": "fifteen-letters", "containerPort": 15},
        {"name": "sixteen--letters", "containerPort": 16},
        {"name": "sixteen-letters1", "containerPort": 17},
    ]}]);
    objects.push(odd);
    let ports: Vec<Value> = ["fifteen-letters", "sixteen--letters", "sixteen-letters1"]
        .iter()
        .map(|name| json!({ "port": name }))
        .collect();
    objects.push(policy("a/p", json!({"ingress": [{"ports": ports}]})));
    check(
        "names that no API server accepts",
        &objects,
        &["b/web > a/odd 15/TCP"],
        &["b/web > a/odd 16/TCP", "b/web > a/odd 17/TCP"],
    );
}

#[test]
fn a_bad_rule_allows_nothing_and_leaves_the_others() {
    for rule in [
        json!(null),
        json!("everything"),
        json!({"from": {}}),
        json!({"from": "all"}),
        json!({"ports": {"port": 80}}),
    ] {
        run(&[Case {
            what: "beside a good one",
            spec: json!({"podSelector": {}, "ingress": [rule, {"ports": [{"port": 443}]}]}),
            open: &["b/web > a/web 443/TCP"],
            closed: &["b/web > a/web 80/TCP", "192.0.2.1 > a/web ICMP"],
        }]);
    }
    run(&[Case {
        what: "rules that are no list",
        spec: json!({"podSelector": {}, "ingress": {}, "egress": "all"}),
        open: &["b/web > c/web 443/TCP"],
        closed: &["b/web > a/web 80/TCP", "a/web > b/web 80/TCP"],
    }]);
}

#[test]
fn unknown_policy_types_are_ignored_unless_nothing_is_left() {
    run(&[Case {
        what: "a known one is left",
        spec: json!({"podSelector": {}, "policyTypes": ["Forward", "Ingress"]}),
        open: &["a/web > b/web 80/TCP"],
        closed: &["b/web > a/web 80/TCP"],
    }]);
    for types in [
        json!(["Forward"]),
        json!(["ingress"]),
        json!([7]),
        json!("Ingress"),
        json!({}),
    ] {
        run(&[Case {
            what: "none is left: both directions",
            spec: json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": types}),
            open: &["b/web > a/db 80/TCP", "a/db > b/web 80/TCP"],
            closed: &["b/web > a/web 80/TCP", "a/web > b/web 80/TCP"],
        }]);
    }
}

#[test]
fn unknown_fields_beside_known_ones_are_ignored() {
    run(&[Case {
        what: "as an API server drops them",
        spec: json!({"podSelector": {}, "future": 1, "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}, "future": 1}], "future": 1, "ports": [{"port": 80, "future": 1}]},
        ]}),
        open: &["b/web > a/web 80/TCP"],
        closed: &["c/web > a/web 80/TCP", "b/web > a/web 81/TCP"],
    }]);
}
