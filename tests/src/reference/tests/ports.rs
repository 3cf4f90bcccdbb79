//! Semantics 5: ports, ranges and names.

use serde_json::{Value, json};

use super::support::{Case, check, pod, policy, run, world};

fn ports(entries: Value) -> Value {
    json!({"podSelector": {}, "ingress": [{"ports": entries}]})
}

#[test]
fn entries_default_and_match_exactly() {
    run(&[
        Case {
            what: "a port is TCP",
            spec: ports(json!([{"port": 80}])),
            open: &["b/web > a/db 80/TCP"],
            closed: &[
                "b/web > a/db 80/UDP",
                "b/web > a/db 80/SCTP",
                "b/web > a/db 81/TCP",
            ],
        },
        Case {
            what: "null is missing",
            spec: ports(json!([{"port": 80, "protocol": null, "endPort": null}])),
            open: &["b/web > a/db 80/TCP"],
            closed: &["b/web > a/db 81/TCP"],
        },
        Case {
            what: "a bare entry is all of TCP and nothing else",
            spec: ports(json!([{}])),
            open: &["b/web > a/db 1/TCP", "b/web > a/db 65535/TCP"],
            closed: &[
                "b/web > a/db 1/UDP",
                "b/web > a/db ICMP",
                "b/web > a/db 1/SCTP",
            ],
        },
        Case {
            what: "a protocol alone is all its ports",
            spec: ports(json!([{"protocol": "UDP"}])),
            open: &["b/web > a/db 1/UDP", "b/web > a/db 65535/UDP"],
            closed: &["b/web > a/db 1/TCP"],
        },
        Case {
            what: "UDP 81 isolates TCP 81",
            spec: ports(json!([{"port": 81, "protocol": "UDP"}])),
            open: &["b/web > a/db 81/UDP"],
            closed: &["b/web > a/db 81/TCP"],
        },
        Case {
            what: "entries are ORed",
            spec: ports(json!([{"port": 80}, {"port": 53, "protocol": "UDP"}])),
            open: &["b/web > a/db 80/TCP", "b/web > a/db 53/UDP"],
            closed: &["b/web > a/db 53/TCP", "b/web > a/db 80/UDP"],
        },
        Case {
            what: "an SCTP rule is not TCP, and isolates TCP and UDP",
            spec: ports(json!([{"port": 80, "protocol": "SCTP"}])),
            open: &["b/web > a/db 80/SCTP"],
            closed: &["b/web > a/db 80/TCP", "b/web > a/db 80/UDP"],
        },
    ]);
}

#[test]
fn the_destination_port_counts_in_both_directions() {
    run(&[Case {
        what: "egress",
        spec: json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 80}]}]}),
        open: &["a/db > b/web 80/TCP", "a/db > 192.0.2.1 80/TCP"],
        closed: &["a/db > b/web 81/TCP"],
    }]);
}

#[test]
fn ranges_include_both_ends() {
    run(&[
        Case {
            what: "80 to 82",
            spec: ports(json!([{"port": 80, "endPort": 82}])),
            open: &[
                "b/web > a/db 80/TCP",
                "b/web > a/db 81/TCP",
                "b/web > a/db 82/TCP",
            ],
            closed: &[
                "b/web > a/db 79/TCP",
                "b/web > a/db 83/TCP",
                "b/web > a/db 81/UDP",
            ],
        },
        Case {
            what: "a range of one",
            spec: ports(json!([{"port": 80, "endPort": 80}])),
            open: &["b/web > a/db 80/TCP"],
            closed: &["b/web > a/db 79/TCP", "b/web > a/db 81/TCP"],
        },
        Case {
            what: "overlapping ranges are a union",
            spec: ports(
                json!([{"port": 80, "endPort": 90}, {"port": 85, "endPort": 95, "protocol": "TCP"}, {"port": 88, "endPort": 99, "protocol": "UDP"}]),
            ),
            open: &[
                "b/web > a/db 84/TCP",
                "b/web > a/db 95/TCP",
                "b/web > a/db 99/UDP",
            ],
            closed: &["b/web > a/db 96/TCP", "b/web > a/db 87/UDP"],
        },
        Case {
            what: "every UDP port by number",
            spec: ports(json!([{"port": 1, "endPort": 65535, "protocol": "UDP"}])),
            open: &["b/web > a/db 1/UDP", "b/web > a/db 65535/UDP"],
            closed: &["b/web > a/db 1/TCP"],
        },
    ]);
}

#[test]
fn ingress_names_resolve_on_the_subject() {
    let mut objects = world();
    let named = |name: &str, number: u16| {
        let mut pod = pod(
            &format!("a/{name}"),
            &[],
            &[&format!("10.244.8.{}", number % 100)],
        );
        pod["spec"]["containers"] = json!([{"ports": [{"name": "http", "containerPort": number}]}]);
        pod
    };
    objects.push(named("web1", 8081));
    objects.push(named("web2", 9092));
    objects.push(policy("a/p", ports(json!([{"port": "http"}]))));
    check(
        "each pod opens its own number, never the others'",
        &objects,
        &[
            "b/web > a/web1 8081/TCP",
            "b/web > a/web2 9092/TCP",
            "b/web > a/web1 http/TCP",
            "b/web > a/web 8080/TCP",
        ],
        &[
            "b/web > a/web1 9092/TCP",
            "b/web > a/web2 8081/TCP",
            "b/web > a/db 8081/TCP",
            "b/web > a/web 9090/TCP",
        ],
    );
}

#[test]
fn names_match_with_their_protocol_only() {
    run(&[
        Case {
            what: "UDP name in a UDP entry",
            spec: ports(json!([{"port": "dns", "protocol": "UDP"}])),
            open: &["b/web > a/web 53/UDP"],
            closed: &["b/web > a/web 53/TCP", "b/web > a/db 53/UDP"],
        },
        Case {
            what: "UDP name in a TCP entry opens nothing",
            spec: ports(json!([{"port": "dns"}, {"port": 1}])),
            open: &["b/web > a/web 1/TCP"],
            closed: &["b/web > a/web 53/UDP", "b/web > a/web 53/TCP"],
        },
        Case {
            what: "an unknown name opens nothing and still isolates",
            spec: ports(json!([{"port": "gone"}])),
            open: &["a/web > b/web 80/TCP"],
            closed: &["b/web > a/web 8080/TCP", "b/web > a/db 80/TCP"],
        },
    ]);
}

#[test]
fn egress_names_resolve_on_each_peer_pod() {
    let to = |peers: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": [{"port": "http"}]}]});
    run(&[
        Case {
            what: "selected pods",
            spec: to(json!([{"namespaceSelector": {}}])),
            open: &["a/db > a/web 8080/TCP", "a/db > b/web 9090/TCP"],
            closed: &[
                "a/db > a/web 9090/TCP",
                "a/db > b/web 8080/TCP",
                "a/db > b/db 9090/TCP",
            ],
        },
        Case {
            what: "an ipBlock: known pods only",
            spec: to(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
            open: &["a/db > b/web 9090/TCP"],
            closed: &[
                "a/db > 192.0.2.1 9090/TCP",
                "a/db > b/web 8080/TCP",
                "a/db > 172.18.0.2 8080/TCP",
            ],
        },
        Case {
            what: "no peer: known pods only",
            spec: to(json!([])),
            open: &["a/db > b/web 9090/TCP", "a/db > a/web 8080/TCP"],
            closed: &["a/db > 192.0.2.1 9090/TCP", "a/db > b/db 9090/TCP"],
        },
    ]);
}

#[test]
fn sidecars_declare_ports_and_ordinary_init_containers_do_not() {
    let mut objects = world();
    let mut sidecar = pod("a/side", &[], &["10.244.8.1"]);
    sidecar["spec"]["initContainers"] = json!([
        {"restartPolicy": "Always", "ports": [{"name": "http", "containerPort": 15000}]},
        {"ports": [{"name": "http", "containerPort": 15001}]},
    ]);
    objects.push(sidecar);
    objects.push(policy("a/p", ports(json!([{"port": "http"}]))));
    check(
        "sidecar",
        &objects,
        &["b/web > a/side 15000/TCP"],
        &["b/web > a/side 15001/TCP"],
    );
}

#[test]
fn a_name_with_several_numbers_is_all_of_them() {
    let mut objects = world();
    let mut twice = pod("a/twice", &[], &["10.244.8.1"]);
    twice["spec"]["containers"] = json!([
        {"ports": [{"name": "http", "containerPort": 81}]},
        {"ports": [{"name": "http", "containerPort": 82}, {"name": "http", "containerPort": 83, "protocol": "UDP"}]},
    ]);
    objects.push(twice);
    objects.push(policy("a/p", ports(json!([{"port": "http"}]))));
    check(
        "both containers' numbers, in the entry's protocol",
        &objects,
        &["b/web > a/twice 81/TCP", "b/web > a/twice 82/TCP"],
        &["b/web > a/twice 83/TCP", "b/web > a/twice 83/UDP"],
    );
}
