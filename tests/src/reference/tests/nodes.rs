//! Semantics 8: host-network pods, the own node, and a pod's traffic to itself.

use serde_json::{Value, json};

use super::support::{ask, check, pod, policy, world};
use crate::reference::{Cluster, Reason};

/// The common world, `a` isolated in both directions except for what `rules` allow, with the
/// host-network pods `a/host1` and `b/host2` on the nodes `n1` and `n2`.
fn world_with(rules: &Value) -> Vec<Value> {
    let mut objects = world();
    for (name, node, ip) in [
        ("a/host1", "n1", "172.18.0.1"),
        ("b/host2", "n2", "172.18.0.2"),
    ] {
        let mut host = pod(name, &[("app", "web")], &[ip]);
        host["spec"] = json!({"nodeName": node, "hostNetwork": true});
        objects.push(host);
    }
    objects.push(policy(
        "a/p",
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": rules}], "egress": [{"to": rules}]}),
    ));
    objects
}

fn nothing() -> Value {
    json!([{"podSelector": {"matchLabels": {"app": "nobody"}}}])
}

#[test]
fn the_own_node_is_open_both_ways_and_other_nodes_are_not() {
    check(
        "every address of the own node, in either family",
        &world_with(&nothing()),
        &[
            "172.18.0.1 > a/db 80/TCP",
            "fd00:172:18::1 > a/db 80/TCP",
            "a/db > 172.18.0.1 10250/TCP",
            "a/db > fd00:172:18::1 53/UDP",
            "172.18.0.1 > a/db ICMP",
        ],
        &[
            "172.18.0.2 > a/db 80/TCP",
            "fd00:172:18::2 > a/db 80/TCP",
            "a/db > 172.18.0.2 10250/TCP",
            "a/db > 172.18.0.2 ICMP",
        ],
    );
}

#[test]
fn host_network_pods_on_the_own_node_pass_as_the_node() {
    check(
        "by node, not by name",
        &world_with(&nothing()),
        &["a/host1 > a/db 80/TCP", "a/db > a/host1 80/TCP"],
        &["b/host2 > a/db 80/TCP", "a/db > b/host2 80/TCP"],
    );
}

#[test]
fn host_network_pods_are_no_selectors_peers_but_ip_blocks_match_their_address() {
    check(
        "selectors",
        &world_with(&json!([{"namespaceSelector": {}}])),
        &["b/web > a/db 80/TCP", "a/db > b/web 80/TCP"],
        &["b/host2 > a/db 80/TCP", "a/db > b/host2 80/TCP"],
    );
    check(
        "ipBlock",
        &world_with(&json!([{"ipBlock": {"cidr": "172.18.0.2/32"}}])),
        &["b/host2 > a/db 80/TCP", "a/db > b/host2 80/TCP"],
        &["b/web > a/db 80/TCP", "172.18.0.3 > a/db 80/TCP"],
    );
}

#[test]
fn host_network_pods_are_no_subjects() {
    let cluster = Cluster::from_objects(&world_with(&nothing()));
    let answer = ask(&cluster, "192.0.2.1 > a/host1 80/TCP");
    assert!(answer.allowed && answer.ingress.is_none());
    let answer = ask(&cluster, "a/host1 > 192.0.2.1 80/TCP");
    assert!(answer.allowed && answer.egress.is_none());
    assert!(!ask(&cluster, "192.0.2.1 > a/db 80/TCP").allowed);
}

#[test]
fn a_pod_without_a_node_and_one_on_an_unknown_node_have_no_own_node() {
    for spec in [json!({}), json!({"nodeName": "n9"})] {
        let mut objects = world_with(&nothing());
        let mut lost = pod("a/lost", &[], &["10.244.7.1"]);
        lost["spec"] = spec;
        objects.push(lost);
        check(
            "no exemption",
            &objects,
            &["172.18.0.1 > a/db 80/TCP"],
            &["172.18.0.1 > a/lost 80/TCP", "a/lost > 172.18.0.1 80/TCP"],
        );
    }
}

#[test]
fn the_exemption_is_the_subjects_alone() {
    let mut objects = world_with(&nothing());
    let mut far = pod("a/far", &[], &["10.244.7.1"]);
    far["spec"]["nodeName"] = json!("n2");
    objects.push(far);
    check(
        "each pod its own node",
        &objects,
        &["172.18.0.2 > a/far 80/TCP", "172.18.0.1 > a/db 80/TCP"],
        &["172.18.0.1 > a/far 80/TCP", "172.18.0.2 > a/db 80/TCP"],
    );
}

#[test]
fn a_pod_reaches_itself_and_not_its_sibling() {
    let objects = world_with(&nothing());
    check(
        "itself",
        &objects,
        &[
            "a/db > a/db 80/TCP",
            "a/db > a/db ICMPv6",
            "10.244.0.2 > 10.244.0.2 80/TCP",
        ],
        &["a/db > a/web 80/TCP", "a/web > a/db 80/TCP"],
    );
    let answer = ask(&Cluster::from_objects(&objects), "a/db > a/db 80/TCP");
    let reasons = [answer.egress, answer.ingress].map(|side| side.map(|side| side.reason));
    assert_eq!(reasons, [Some(Reason::Itself); 2]);
}
