//! Semantics 9: connections to Services are judged where they end.

use serde_json::{Value, json};

use super::support::{policy, world};
use crate::reference::{Cluster, Outcome, Reason};

/// Service `a/web` in front of `a/web` and `b/web`, port `http`: 80 leads to 8080, node port 30080.
fn service(alter: impl Fn(&mut Value)) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "web"},
        "spec": {
            "clusterIPs": ["10.96.0.1", "fd00:96::1"], "externalIPs": ["203.0.113.1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        },
    });
    alter(&mut service["spec"]);
    service
}

fn slice(cluster: &Cluster, pods: &[(&str, &str)]) -> Value {
    let endpoints = pods.iter().map(|(name, node)| {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let pod = &cluster.pods[&(namespace.to_owned(), name.to_owned())];
        let ipv4 = pod
            .addresses
            .iter()
            .find(|a| a.is_ipv4())
            .expect("dual stack");
        json!({"addresses": [ipv4], "nodeName": node})
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "a", "name": "web-1",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080}],
    })
}

fn cluster(
    spec: Value,
    subject: &str,
    alter: impl Fn(&mut Value),
    pods: &[(&str, &str)],
) -> Cluster {
    let mut objects = world();
    let slice = slice(&Cluster::from_objects(&objects), pods);
    objects.extend([service(alter), slice, policy(subject, spec)]);
    Cluster::from_objects(&objects)
}

fn outcome(cluster: &Cluster, text: &str) -> Outcome {
    let probe = text.parse().expect("a probe");
    cluster.outcome(&probe).expect("a packet")
}

fn check(cluster: &Cluster, expected: &[(&str, Option<bool>)]) {
    for (text, expected) in expected {
        let outcome = outcome(cluster, text);
        assert_eq!(outcome.allowed(), *expected, "{text}: {outcome:?}");
    }
}

const BOTH: [(&str, &str); 2] = [("a/web", "n1"), ("b/web", "n1")];

/// Egress of `a/db` to the web pods of its own namespace, on the pods' port.
fn to_own_web() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"],
           "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                       "ports": [{"port": 8080}]}]})
}

#[test]
fn egress_is_asked_about_each_endpoint_and_its_port() {
    let plain = |_: &mut Value| {};
    check(
        &cluster(to_own_web(), "a/p", plain, &BOTH[..1]),
        &[
            ("a/db > 10.96.0.1 80/TCP", Some(true)),
            ("a/db > 10.96.0.1 http/TCP", Some(true)),
            ("a/db > 203.0.113.1 80/TCP", Some(true)),
            ("a/db > 172.18.0.1 30080/TCP", Some(true)),
            ("a/db > 172.18.0.2 30080/TCP", Some(false)),
            ("a/db > 10.96.0.1 8080/TCP", Some(false)),
            ("a/db > 10.96.0.1 80/UDP", Some(false)),
            ("a/db > fd00:96::1 80/TCP", Some(false)),
        ],
    );
    check(
        &cluster(to_own_web(), "a/p", plain, &BOTH),
        &[
            ("a/db > 10.96.0.1 80/TCP", None),
            ("b/db > 10.96.0.1 80/TCP", Some(true)),
        ],
    );
    check(
        &cluster(to_own_web(), "a/p", plain, &BOTH[1..]),
        &[("a/db > 10.96.0.1 80/TCP", Some(false))],
    );
}

#[test]
fn ingress_sees_the_client_or_the_node_that_lends_its_address() {
    let from = |peer: Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [peer]}]});
    let pods = from(json!({"podSelector": {"matchLabels": {"app": "db"}}}));
    let node = from(json!({"ipBlock": {"cidr": "172.18.0.1/32"}}));
    let plain = |_: &mut Value| {};
    let local = |spec: &mut Value| spec["externalTrafficPolicy"] = json!("Local");
    check(
        &cluster(pods.clone(), "a/p", plain, &BOTH[..1]),
        &[
            ("a/db > 10.96.0.1 80/TCP", Some(true)),
            ("a/db > 203.0.113.1 80/TCP", Some(false)),
            ("a/db > 172.18.0.1 30080/TCP", Some(false)),
            ("198.51.100.1 > 172.18.0.1 30080/TCP", Some(false)),
            ("172.18.0.1 > 172.18.0.1 30080/TCP", Some(true)),
        ],
    );
    check(
        &cluster(node, "a/p", plain, &BOTH[..1]),
        &[
            ("a/db > 10.96.0.1 80/TCP", Some(false)),
            ("a/db > 203.0.113.1 80/TCP", Some(true)),
            ("198.51.100.1 > 172.18.0.1 30080/TCP", Some(true)),
            ("198.51.100.1 > 172.18.0.2 30080/TCP", Some(false)),
        ],
    );
    check(
        &cluster(pods, "a/p", local, &BOTH[..1]),
        &[
            ("a/db > 203.0.113.1 80/TCP", Some(true)),
            ("198.51.100.1 > 172.18.0.1 30080/TCP", Some(false)),
        ],
    );
}

#[test]
fn a_pod_reaches_itself_through_a_service_and_nobody_an_empty_one() {
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let plain = |_: &mut Value| {};
    let both = cluster(closed.clone(), "a/p", plain, &BOTH);
    check(&both, &[("a/web > 10.96.0.1 80/TCP", None)]);
    let Outcome::Translated(endings) = outcome(&both, "a/web > 10.96.0.1 80/TCP") else {
        panic!("translated");
    };
    let own = endings
        .iter()
        .find(|end| end.answer.allowed)
        .expect("itself");
    assert_eq!(
        own.answer.egress.as_ref().expect("judged").reason,
        Reason::Itself
    );
    check(
        &cluster(closed, "a/p", plain, &[]),
        &[
            ("a/web > 10.96.0.1 80/TCP", Some(false)),
            ("b/web > 10.96.0.1 80/TCP", Some(false)),
        ],
    );
}

#[test]
fn nothing_translates_headless_services() {
    let headless = |spec: &mut Value| spec["clusterIPs"] = json!(["None"]);
    let open = json!({"podSelector": {}, "policyTypes": ["Egress"],
                      "egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]});
    let cluster = cluster(open, "a/p", headless, &BOTH);
    check(
        &cluster,
        &[
            ("a/db > 203.0.113.1 80/TCP", Some(true)),
            ("a/db > 10.96.0.1 80/TCP", Some(false)),
        ],
    );
    assert!(matches!(
        outcome(&cluster, "a/db > 203.0.113.1 80/TCP"),
        Outcome::Plain(_)
    ));
}

#[test]
fn traffic_policies_choose_among_the_nodes_endpoints() {
    let open = json!({"podSelector": {"matchLabels": {"app": "nobody"}}});
    let spread = [("a/web", "n1"), ("b/web", "n2")];
    let internal = |spec: &mut Value| spec["internalTrafficPolicy"] = json!("Local");
    let ends = |cluster: &Cluster, text: &str| match outcome(cluster, text) {
        Outcome::Translated(endings) => endings.len(),
        Outcome::Plain(answer) => panic!("{text}: {answer:?}"),
    };
    let own = cluster(open.clone(), "a/p", internal, &spread);
    assert_eq!(ends(&own, "a/db > 10.96.0.1 80/TCP"), 1);
    assert_eq!(ends(&own, "a/db > 203.0.113.1 80/TCP"), 2);
    let external = |spec: &mut Value| spec["externalTrafficPolicy"] = json!("Local");
    let own = cluster(open, "a/p", external, &spread);
    assert_eq!(ends(&own, "a/db > 172.18.0.1 30080/TCP"), 2);
    assert_eq!(ends(&own, "198.51.100.1 > 172.18.0.1 30080/TCP"), 1);
}
