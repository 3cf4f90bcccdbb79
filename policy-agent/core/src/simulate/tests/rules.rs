//! Rules, selectors and their union.

use super::*;

#[test]
fn a_rule_allows_its_peers_on_its_ports_and_nothing_else() {
    let store = cluster([policy(
        "a/p",
        "app=db",
        Some(&["allow app=web : TCP/5432"]),
        None,
    )]);
    check(
        &store,
        &[
            "a/web > a/db 5432/TCP",
            "a/web2 > a/db 5432/TCP",
            "a/web > a/db 5432/TCP v6",
            "a/db > a/web 1/TCP",
        ],
        &[
            "a/web > a/db 5433/TCP",
            "a/web > a/db 5431/TCP",
            "a/web > a/db 5432/UDP",
            "a/other > a/db 5432/TCP",
            "b/web > a/db 5432/TCP",
            "8.8.8.8 > a/db 5432/TCP",
            "b/web > a/db 5432/TCP v6",
        ],
    );
}

#[test]
fn peers_and_ports_of_different_rules_do_not_cross() {
    let rules = ["allow app=web : TCP/80", "allow app=other : TCP/81"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["a/web > a/db 80/TCP", "a/other > a/db 81/TCP"],
        &["a/web > a/db 81/TCP", "a/other > a/db 80/TCP"],
    );
}

#[test]
fn an_empty_rule_list_isolates_and_a_rule_without_peers_allows_everything() {
    check(
        &cluster([policy("a/p", "app=db", Some(&[]), None)]),
        &["a/db > a/web 80/TCP"],
        &[
            "a/web > a/db 80/TCP",
            "8.8.8.8 > a/db 80/TCP",
            "a/web > a/db ICMP",
        ],
    );
    check(
        &cluster([policy("a/p", "app=db", Some(&["allow * : *"]), Some(&[]))]),
        &[
            "a/web > a/db 80/TCP",
            "8.8.8.8 > a/db 1/SCTP",
            "8.8.8.8 > a/db ICMP",
        ],
        &["a/db > a/web 80/TCP"],
    );
}

#[test]
fn only_rules_without_ports_allow_protocols_without_ports() {
    let rules = ["allow app=web : TCP UDP SCTP", "allow app=other"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "a/web > a/db 65535/SCTP",
            "a/web > a/db 0/TCP",
            "a/other > a/db ICMP",
        ],
        &["a/web > a/db ICMP", "a/web > a/db ICMPv6"],
    );
}

#[test]
fn policies_are_a_union() {
    let store = cluster([
        policy("a/one", "app=db", Some(&["allow app=web : TCP/80"]), None),
        policy("a/two", "{}", Some(&["allow app=other : TCP/81"]), None),
    ]);
    check(
        &store,
        &[
            "a/web > a/db 80/TCP",
            "a/other > a/db 81/TCP",
            "a/other > a/web 81/TCP",
        ],
        &["a/web > a/db 81/TCP", "a/web2 > a/web 80/TCP"],
    );
}

#[test]
fn namespace_selector_and_pod_selector_of_one_peer_are_both_needed() {
    let rules = [
        "allow ns:team=two app=web : TCP/80",
        "allow ns:{} app=client : TCP/81",
    ];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["b/web > a/db 80/TCP", "b/client > a/db 81/TCP"],
        &[
            "a/web > a/db 80/TCP",
            "b/client > a/db 80/TCP",
            "8.8.8.8 > a/db 81/TCP",
        ],
    );
}

#[test]
fn metadata_name_is_a_label_of_every_namespace() {
    let rules = ["allow ns:kubernetes.io/metadata.name=b : TCP/80"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["b/web > a/db 80/TCP"],
        &["a/web > a/db 80/TCP"],
    );
}
