//! Builders and the two-sided check that every fixture uses.

use serde_json::{Value, json};

use crate::reference::{Answer, Cluster, Probe};

/// One policy in the common world, and what it opens and closes.
pub(super) struct Case {
    /// The behaviour.
    pub(super) what: &'static str,
    /// The spec of policy `a/p`.
    pub(super) spec: Value,
    /// Probes that must be allowed.
    pub(super) open: &'static [&'static str],
    /// Probes that must be denied.
    pub(super) closed: &'static [&'static str],
}

/// Judges each case in the common world.
pub(super) fn run(cases: &[Case]) {
    for case in cases {
        let mut objects = world();
        objects.push(policy("a/p", case.spec.clone()));
        assert!(
            !case.open.is_empty() && !case.closed.is_empty(),
            "{}: a fixture shows both answers",
            case.what
        );
        check(case.what, &objects, case.open, case.closed);
    }
}

/// Asserts that the first probes are allowed and the second denied.
pub(super) fn check(what: &str, objects: &[Value], open: &[&str], closed: &[&str]) {
    let cluster = Cluster::from_objects(objects);
    for (probes, expected) in [(open, true), (closed, false)] {
        for text in probes {
            let answer = ask(&cluster, text);
            assert_eq!(answer.allowed, expected, "{what}: {text}: {answer:?}");
        }
    }
}

/// The answer to a probe that must be well formed.
pub(super) fn ask(cluster: &Cluster, text: &str) -> Answer {
    let probe: Probe = text.parse().expect("the fixture's probe parses");
    let answer = cluster.verdict(&probe);
    answer.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Namespaces `a` and `b` (`team` is their name) and the undeclared `c`; in each the pods `web`
/// and `db` (`app` is their name), dual stack, on node `n1`; the nodes `n1` and `n2`.
///
/// `web` declares the TCP port `http`, 8080 in `a` and 9090 elsewhere, and the UDP port `dns`, 53.
pub(super) fn world() -> Vec<Value> {
    let mut objects = vec![
        node("n1", &["172.18.0.1", "fd00:172:18::1"]),
        node("n2", &["172.18.0.2", "fd00:172:18::2"]),
        namespace("a", &[("team", "a")]),
        namespace("b", &[("team", "b")]),
    ];
    for (index, space) in ["a", "b", "c"].into_iter().enumerate() {
        let http = if space == "a" { 8080 } else { 9090 };
        for (last, app) in [(1, "web"), (2, "db")] {
            let ips = [
                format!("10.244.{index}.{last}"),
                format!("fd00:10:244:{index}::{last}"),
            ];
            let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
            let mut pod = pod(&format!("{space}/{app}"), &[("app", app)], &ips);
            if app == "web" {
                pod["spec"]["containers"] = json!([{"ports": [
                    {"name": "http", "containerPort": http},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                ]}]);
            }
            objects.push(pod);
        }
    }
    objects
}

/// A running pod on node `n1`.
pub(super) fn pod(full_name: &str, labels: &[(&str, &str)], ips: &[&str]) -> Value {
    let (namespace, name) = full_name.split_once('/').expect("namespace/name");
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": map(labels)},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIPs": ips},
    })
}

/// A namespace as its author writes it.
pub(super) fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": map(labels)},
    })
}

/// A node.
pub(super) fn node(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": addresses},
    })
}

/// A policy.
pub(super) fn policy(full_name: &str, spec: Value) -> Value {
    let (namespace, name) = full_name.split_once('/').expect("namespace/name");
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    })
}

fn map(labels: &[(&str, &str)]) -> Value {
    labels.iter().map(|(key, value)| (*key, *value)).collect()
}
