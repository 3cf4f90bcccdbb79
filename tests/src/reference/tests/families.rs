//! Semantics 13: dual stack.

use serde_json::json;

use super::support::{Case, check, pod, policy, run, world};

#[test]
fn selectors_cover_both_families_and_blocks_their_own() {
    run(&[
        Case {
            what: "a selector peer by either address",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]}),
            open: &["b/web > a/db 80/TCP v4", "b/web > a/db 80/TCP v6"],
            closed: &["c/web > a/db 80/TCP v4", "c/web > a/db 80/TCP v6"],
        },
        Case {
            what: "an IPv4 block opens IPv4 only and isolates both",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.244.1.0/24"}}]}]}),
            open: &["b/web > a/db 80/TCP v4"],
            closed: &["b/web > a/db 80/TCP v6", "2001:db8::1 > a/db 80/TCP"],
        },
        Case {
            what: "an IPv6 block opens IPv6 only and isolates both",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "fd00:10:244:1::/64"}}]}]}),
            open: &["b/web > a/db 80/TCP v6"],
            closed: &["b/web > a/db 80/TCP v4", "192.0.2.1 > a/db 80/TCP"],
        },
    ]);
}

#[test]
fn link_local_and_mapped_addresses_are_plain_addresses() {
    run(&[
        Case {
            what: "isolated",
            spec: json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "fe80::/10"}}]}]}),
            open: &["a/db > fe80::2 80/TCP"],
            closed: &[
                "fe80::1 > a/db 80/TCP",
                "a/db > fec0::2 80/TCP",
                "a/db > 169.254.1.1 80/TCP",
            ],
        },
        Case {
            what: "a mapped address is judged as the IPv6 that it is on the wire",
            spec: json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}),
            open: &["192.0.2.1 > a/db 80/TCP"],
            closed: &["::ffff:192.0.2.1 > a/db 80/TCP"],
        },
    ]);
}

#[test]
fn single_stack_pods_meet_in_the_family_they_share() {
    let mut objects = world();
    objects.push(pod("b/four", &[], &["10.244.7.4"]));
    objects.push(pod("b/six", &[], &["fd00:10:244:7::6"]));
    objects.push(policy(
        "a/p",
        json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.244.0.0/16"}}]}]}),
    ));
    check(
        "IPv4 first, IPv6 where only that is common",
        &objects,
        &["b/four > a/db 80/TCP", "b/web > a/db 80/TCP"],
        &["b/six > a/db 80/TCP"],
    );
}
