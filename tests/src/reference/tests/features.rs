//! Each feature is found where it decides, and only there.

use serde_json::{Value, json};

use super::support::{pod, policy, world};
use crate::reference::{Cluster, Feature, Histogram, Probe, features};

/// Asserts which of two probes the feature decides.
fn decides(feature: Feature, objects: &[Value], decided: &str, untouched: &str) {
    let cluster = Cluster::from_objects(objects);
    for (text, expected) in [(decided, true), (untouched, false)] {
        let probe: Probe = text.parse().expect("a probe");
        let found = features(&cluster, &probe).expect("features");
        assert_eq!(
            found.contains(feature),
            expected,
            "{feature:?}: {text}: {found:?}"
        );
    }
}

fn ingress(rules: Value) -> Vec<Value> {
    let mut objects = world();
    objects.push(policy(
        "a/p",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}),
    ));
    objects
}

#[test]
fn except_decides_inside_it() {
    let objects = ingress(
        json!([{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}}]}]),
    );
    decides(
        Feature::Except,
        &objects,
        "192.0.2.1 > a/web 80/TCP",
        "192.0.2.16 > a/web 80/TCP",
    );
}

#[test]
fn overlap_decides_where_a_shorter_block_grants() {
    let objects = ingress(json!([
        {"from": [{"ipBlock": {"cidr": "192.0.0.0/16"}}], "ports": [{"port": 80}]},
        {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 81}]},
    ]));
    decides(
        Feature::CidrOverlap,
        &objects,
        "192.0.2.1 > a/web 80/TCP",
        "192.0.2.1 > a/web 81/TCP",
    );
    decides(
        Feature::CidrOverlap,
        &objects,
        "192.0.2.1 > a/web 80/TCP",
        "192.0.3.1 > a/web 80/TCP",
    );
    let objects = ingress(json!([
        {"from": [{"ipBlock": {"cidr": "192.0.0.0/16"}}]},
        {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}}]},
    ]));
    decides(
        Feature::CidrOverlap,
        &objects,
        "192.0.2.1 > a/web 80/TCP",
        "192.0.3.1 > a/web 80/TCP",
    );
}

#[test]
fn pods_in_blocks() {
    let objects = ingress(json!([{"from": [{"ipBlock": {"cidr": "10.244.0.0/16"}}]}]));
    decides(
        Feature::PodInBlock,
        &objects,
        "b/web > a/web 80/TCP",
        "10.244.99.1 > a/web 80/TCP",
    );
}

#[test]
fn negative_selectors_as_peer_and_as_subject() {
    let negative =
        json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b"]}]});
    let objects = ingress(json!([{"from": [{"namespaceSelector": negative}]}]));
    decides(
        Feature::NegativeSelector,
        &objects,
        "b/web > a/web 80/TCP",
        "192.0.2.1 > a/web 80/TCP",
    );
    decides(
        Feature::NegativeSelector,
        &objects,
        "c/web > a/web 80/TCP",
        "192.0.2.1 > a/db 80/TCP",
    );
    let mut objects = world();
    objects.push(policy(
        "a/p",
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}}),
    ));
    decides(
        Feature::NegativeSelector,
        &objects,
        "b/web > a/web 80/TCP",
        "b/web > b/db 80/TCP",
    );
    decides(
        Feature::NegativeSelector,
        &objects,
        "b/web > a/db 80/TCP",
        "a/web > b/db 80/TCP",
    );
}

#[test]
fn names_decide_their_number_and_the_numbers_of_others() {
    let objects = ingress(json!([{"ports": [{"port": "http"}]}]));
    decides(
        Feature::NamedPort,
        &objects,
        "b/web > a/web 8080/TCP",
        "b/web > a/web 80/TCP",
    );
    decides(
        Feature::NamedPort,
        &objects,
        "b/web > a/web 9090/TCP",
        "b/web > a/web 8080/UDP",
    );
}

#[test]
fn ranges_decide_behind_their_first_port() {
    let objects = ingress(json!([{"ports": [{"port": 80, "endPort": 82}]}]));
    decides(
        Feature::PortRange,
        &objects,
        "b/web > a/web 82/TCP",
        "b/web > a/web 80/TCP",
    );
    decides(
        Feature::PortRange,
        &objects,
        "b/web > a/web 83/TCP",
        "b/web > a/web 83/UDP",
    );
}

#[test]
fn unknown_peers_decide_where_only_the_peer_is_missing() {
    let objects = ingress(json!([
        {"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}]},
        {"ports": [{"port": 81}]},
    ]));
    decides(
        Feature::UnknownPeer,
        &objects,
        "192.0.2.1 > a/web 80/TCP",
        "b/web > a/web 80/TCP",
    );
    decides(
        Feature::UnknownPeer,
        &objects,
        "192.0.2.1 > a/web 81/TCP",
        "b/web > a/web 81/TCP",
    );
    decides(
        Feature::UnknownPeer,
        &objects,
        "192.0.2.1 > a/web 80/TCP",
        "192.0.2.1 > a/web 82/TCP",
    );
}

#[test]
fn protocols_with_and_without_ports() {
    let objects = ingress(json!([{"ports": [{"port": 80}]}]));
    decides(
        Feature::Protocol,
        &objects,
        "b/web > a/web 80/UDP",
        "b/web > a/web 80/TCP",
    );
    decides(
        Feature::NoPorts,
        &objects,
        "b/web > a/web ICMP",
        "b/web > a/web 81/TCP",
    );
    let objects = ingress(json!([{"from": [{"namespaceSelector": {}}]}]));
    decides(
        Feature::NoPorts,
        &objects,
        "b/web > a/web ICMP",
        "192.0.2.1 > a/web ICMP",
    );
}

#[test]
fn exemptions_and_pods_that_do_not_count() {
    let mut objects =
        ingress(json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]));
    decides(
        Feature::OwnNode,
        &objects,
        "172.18.0.1 > a/web 80/TCP",
        "172.18.0.2 > a/web 80/TCP",
    );
    decides(
        Feature::Itself,
        &objects,
        "a/web > a/web 80/TCP",
        "a/db > a/web 80/TCP",
    );
    let mut host = pod("b/host", &[], &["172.18.0.2"]);
    host["spec"]["hostNetwork"] = json!(true);
    let mut done = pod("b/done", &[], &["10.244.7.1"]);
    done["status"]["phase"] = json!("Succeeded");
    objects.extend([host, done]);
    decides(
        Feature::HostNetwork,
        &objects,
        "b/host > a/web 80/TCP",
        "b/done > a/web 80/TCP",
    );
    decides(
        Feature::Finished,
        &objects,
        "b/done > a/web 80/TCP",
        "b/host > a/web 80/TCP",
    );
}

#[test]
fn a_histogram_counts_and_prints_every_feature() {
    let objects = ingress(json!([{"ports": [{"port": 80, "endPort": 82}]}]));
    let cluster = Cluster::from_objects(&objects);
    let probes: Vec<Probe> = [
        "b/web > a/web 82/TCP",
        "b/web > a/web 80/TCP",
        "b/web > a/db 1/TCP",
        "b/web > a/web 9/UDP",
    ]
    .iter()
    .map(|text| text.parse().expect("a probe"))
    .collect();
    let histogram = Histogram::of(&cluster, &probes).expect("every probe is a packet");
    assert_eq!(
        (histogram.probes, histogram.allowed, histogram.open),
        (4, 3, 1)
    );
    assert_eq!(histogram.count(Feature::PortRange), 1);
    assert_eq!(histogram.per_mille(histogram.allowed), 750);
    let text = histogram.to_string();
    for feature in Feature::ALL {
        assert!(text.contains(&format!("{feature:?}")), "{text}");
    }
    assert!(text.contains("75.0%"), "{text}");
}
