//! Semantics 1 and 2: who is isolated, in which direction, and what missing fields mean.

use serde_json::json;

use super::support::{Case, check, policy, run, world};
use crate::reference::Cluster;

#[test]
fn without_policies_everything_is_open_and_nothing_is_judged_outside() {
    let cluster = Cluster::from_objects(&world());
    let probe = "192.0.2.1 > 192.0.2.2 80/TCP".parse().expect("a probe");
    let answer = cluster.verdict(&probe).expect("an answer");
    assert!(answer.allowed && answer.egress.is_none() && answer.ingress.is_none());
    check(
        "no policies",
        &world(),
        &["a/web > b/db 80/TCP", "192.0.2.1 > a/db 80/TCP"],
        &[],
    );
}

#[test]
fn pod_selector_missing_null_or_empty_is_the_whole_namespace() {
    for selector in [json!({}), json!(null)] {
        run(&[Case {
            what: "every pod of the namespace and no other is isolated",
            spec: json!({"podSelector": selector}),
            open: &["a/web > b/web 80/TCP", "a/web > c/web 80/TCP"],
            closed: &["b/web > a/web 80/TCP", "b/web > a/db 80/TCP"],
        }]);
    }
    run(&[Case {
        what: "no podSelector at all",
        spec: json!({}),
        open: &["a/web > b/web 80/TCP"],
        closed: &["b/web > a/web 80/TCP", "b/web > a/db 80/TCP"],
    }]);
}

#[test]
fn policy_types_default_from_the_sections() {
    run(&[
        Case {
            what: "no types, no egress rule: ingress only",
            spec: json!({"podSelector": {}, "egress": []}),
            open: &["a/web > 192.0.2.1 80/TCP"],
            closed: &["192.0.2.1 > a/web 80/TCP"],
        },
        Case {
            what: "empty types are as none",
            spec: json!({"podSelector": {}, "policyTypes": []}),
            open: &["a/web > 192.0.2.1 80/TCP"],
            closed: &["192.0.2.1 > a/web 80/TCP"],
        },
        Case {
            what: "an egress section without types also isolates ingress",
            spec: json!({"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}),
            open: &["a/web > 192.0.2.1 80/TCP"],
            closed: &["192.0.2.1 > a/web 80/TCP", "a/web > 192.0.2.1 81/TCP"],
        },
        Case {
            what: "types [Egress]: the ingress section is inert",
            spec: json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{"ports": [{"port": 1}]}]}),
            open: &["192.0.2.1 > a/web 80/TCP"],
            closed: &["a/web > 192.0.2.1 80/TCP"],
        },
        Case {
            what: "types [Ingress]: the egress section is inert",
            spec: json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 1}]}]}),
            open: &["a/web > 192.0.2.1 80/TCP"],
            closed: &["192.0.2.1 > a/web 80/TCP"],
        },
        Case {
            what: "a type listed twice",
            spec: json!({"podSelector": {}, "policyTypes": ["Egress", "Egress"]}),
            open: &["192.0.2.1 > a/web 80/TCP"],
            closed: &["a/web > 192.0.2.1 80/TCP"],
        },
    ]);
}

#[test]
fn rules_missing_null_and_empty_all_deny() {
    for rules in [json!(null), json!([])] {
        run(&[Case {
            what: "a listed type without rules denies",
            spec: json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"], "ingress": rules, "egress": rules}),
            open: &["b/web > a/web 80/TCP", "a/web > b/web 80/TCP"],
            closed: &[
                "b/web > a/db 80/TCP",
                "a/db > b/web 80/TCP",
                "a/db > 192.0.2.1 ICMP",
            ],
        }]);
    }
}

#[test]
fn an_empty_rule_allows_everything_and_an_empty_namespace_selector_only_pods() {
    run(&[
        Case {
            what: "{} allows outside addresses and protocols without ports",
            spec: json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}]}),
            open: &[
                "192.0.2.1 > a/db 80/TCP",
                "192.0.2.1 > a/db ICMP",
                "b/web > a/db 9/SCTP",
                "192.0.2.1 > a/db 47",
            ],
            closed: &["a/db > 192.0.2.1 80/TCP"],
        },
        Case {
            what: "every namespace is not everything",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}),
            open: &["b/web > a/db 80/TCP", "c/web > a/db ICMP"],
            closed: &["192.0.2.1 > a/db 80/TCP", "172.18.0.2 > a/db 80/TCP"],
        },
    ]);
}

#[test]
fn missing_or_empty_peers_and_ports_mean_every_one() {
    for none in [json!(null), json!([])] {
        run(&[
            Case {
                what: "no peers: every source",
                spec: json!({"podSelector": {}, "ingress": [{"from": none, "ports": [{"port": 80}]}]}),
                open: &["192.0.2.1 > a/db 80/TCP", "b/web > a/db 80/TCP"],
                closed: &["192.0.2.1 > a/db 81/TCP"],
            },
            Case {
                what: "no ports: every port and protocol",
                spec: json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": none}]}),
                open: &[
                    "192.0.2.1 > a/db 65535/TCP",
                    "192.0.2.1 > a/db 1/UDP",
                    "192.0.2.1 > a/db ICMP",
                ],
                closed: &["198.51.100.1 > a/db 80/TCP"],
            },
        ]);
    }
}

#[test]
fn both_sides_must_allow() {
    let mut objects = world();
    objects.push(policy(
        "a/out",
        json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 80}, {"port": 81}]}]}),
    ));
    objects.push(policy(
        "b/in",
        json!({"policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}, {"port": 82}]}]}),
    ));
    check(
        "egress at the source AND ingress at the destination",
        &objects,
        &[
            "a/web > b/web 80/TCP",
            "c/web > b/web 82/TCP",
            "a/web > c/web 81/TCP",
        ],
        &[
            "a/web > b/web 81/TCP",
            "a/web > b/web 82/TCP",
            "c/web > b/web 81/TCP",
        ],
    );
}

#[test]
fn policies_are_a_union_without_order() {
    let mut objects = world();
    let allow = |port: u16| json!({"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]});
    objects.push(policy("a/deny", json!({"podSelector": {}})));
    objects.push(policy("a/one", allow(80)));
    objects.push(policy("a/two", allow(81)));
    let (open, closed) = (
        ["b/web > a/db 80/TCP", "b/web > a/db 81/TCP"],
        ["b/web > a/db 82/TCP"],
    );
    check("in order", &objects, &open, &closed);
    objects.reverse();
    check("reversed", &objects, &open, &closed);
}

#[test]
fn a_policy_never_crosses_its_namespace() {
    run(&[Case {
        what: "pods of other namespaces with the same labels are left alone",
        spec: json!({"podSelector": {"matchLabels": {"app": "web"}}}),
        open: &["a/db > b/web 80/TCP", "a/web > a/db 80/TCP"],
        closed: &["b/db > a/web 80/TCP"],
    }]);
}

#[test]
fn objects_come_in_lists_and_in_the_namespace_default() {
    let list = json!({"kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "status": {"podIP": "10.244.9.1"}},
        {"apiVersion": "v1", "kind": "PodList", "items": [
            {"metadata": {"name": "y", "namespace": ""}, "status": {"podIPs": [{"ip": "10.244.9.2"}]}},
        ]},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
         "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}},
        {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "q"},
         "spec": {"ingress": [{}]}},
        {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "spec": {"ingress": [{}]}},
    ]});
    check(
        "lists, defaults, foreign kinds and nameless objects",
        &[list],
        &["default/y > default/x 80/TCP"],
        &[
            "192.0.2.1 > default/x 80/TCP",
            "192.0.2.1 > default/y 80/TCP",
        ],
    );
}

#[test]
fn the_later_of_two_objects_with_one_name_counts() {
    let mut objects = world();
    objects.push(policy("a/p", json!({"ingress": [{}]})));
    check("first", &objects, &["b/web > a/db 80/TCP"], &[]);
    objects.push(policy("a/p", json!({"ingress": []})));
    check(
        "replaced",
        &objects,
        &["a/db > b/web 80/TCP"],
        &["b/web > a/db 80/TCP"],
    );
}
