//! Nodes, namespaces, and pods of every kind that policies treat differently.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::addresses::{node_addresses, pod_addresses};
use super::selectors::{Of, labels};
use super::{Rng, Shape};

/// What is particular about a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    DualStack,
    OnlyV4,
    OnlyV6,
    HostNetwork,
    Finished,
    WithoutAddress,
    Terminating,
    /// Holds the address that a finished pod still shows.
    Reusing,
}

const KINDS: [(Kind, usize); 8] = [
    (Kind::DualStack, 50),
    (Kind::OnlyV4, 13),
    (Kind::OnlyV6, 8),
    (Kind::HostNetwork, 7),
    (Kind::Finished, 7),
    (Kind::WithoutAddress, 4),
    (Kind::Terminating, 5),
    (Kind::Reusing, 6),
];

/// The two nodes.
pub(super) fn nodes() -> Vec<Value> {
    [0, 1].map(node).to_vec()
}

fn node(index: u8) -> Value {
    let [v4, v6] = node_addresses(index);
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": format!("node-{index}")},
        "status": {"addresses": [
            {"type": "Hostname", "address": format!("node-{index}")},
            {"type": "InternalIP", "address": v4},
            {"type": "InternalIP", "address": v6},
        ]},
    })
}

/// The namespaces, of which some are used without being declared.
pub(super) fn namespaces(rng: &mut Rng, names: &[String]) -> Vec<Value> {
    let mut declared = Vec::new();
    for name in names {
        let labels = labels(rng, Of::Namespaces);
        if rng.percent(85) {
            declared.push(json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": labels},
            }));
        }
    }
    declared
}

/// How many of the objects are pods of the namespace.
pub(super) fn count_in(objects: &[Value], namespace: &str) -> usize {
    let pods = objects.iter().filter(|object| object["kind"] == "Pod");
    pods.filter(|pod| pod["metadata"]["namespace"] == namespace)
        .count()
}

/// The pods.
pub(super) fn pods(rng: &mut Rng, namespaces: &[String], shape: &Shape) -> Vec<Value> {
    let mut pods = Vec::new();
    let mut released: Vec<Vec<IpAddr>> = Vec::new();
    let mut live: Vec<Vec<IpAddr>> = Vec::new();
    let weights = KINDS.map(|(_, weight)| weight);
    // The host part of a pod's address is one byte, and every pod has its own.
    for index in 0..rng.within(&shape.pods).min(250) {
        let kind = KINDS[rng.weighted(&weights)].0;
        let node = u8::from(rng.percent(50));
        let host = u8::try_from(index + 2).expect("at most 250 pods");
        let [v4, v6] = pod_addresses(node, host);
        let mut addresses = match kind {
            Kind::OnlyV4 => vec![v4],
            Kind::OnlyV6 => vec![v6],
            Kind::WithoutAddress => vec![],
            Kind::HostNetwork => node_addresses(node).to_vec(),
            Kind::Reusing => released.pop().unwrap_or_else(|| vec![v4, v6]),
            Kind::DualStack | Kind::Finished | Kind::Terminating => vec![v4, v6],
        };
        if kind == Kind::DualStack && !live.is_empty() && rng.percent(shape.shared_percent) {
            addresses = rng.pick(&live).clone();
        }
        match kind {
            Kind::Finished => released.push(addresses.clone()),
            Kind::HostNetwork | Kind::WithoutAddress => {}
            _ => live.push(addresses.clone()),
        }
        let namespace = rng.pick(namespaces);
        pods.push(pod(rng, index, namespace, kind, node, &addresses));
    }
    pods
}

fn pod(
    rng: &mut Rng,
    index: usize,
    namespace: &str,
    kind: Kind,
    node: u8,
    addresses: &[IpAddr],
) -> Value {
    let minute = index % 60;
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": format!("pod-{index}"),
            "uid": format!("{:08x}-0000-4000-8000-{index:012x}", rng.bits() >> 32),
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
            "labels": labels(rng, Of::Pods),
        },
        "spec": {"containers": containers(rng)},
        "status": {},
    });
    if rng.percent(95) {
        pod["spec"]["nodeName"] = json!(format!("node-{node}"));
    }
    if rng.percent(20) {
        pod["spec"]["initContainers"] = json!([sidecar(rng)]);
    }
    if rng.percent(90) {
        pod["status"]["phase"] = json!("Running");
    }
    if let Some(first) = addresses.first() {
        let list: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        pod["status"]["podIP"] = json!(first);
        pod["status"]["podIPs"] = Value::Array(list);
    }
    match kind {
        Kind::HostNetwork => pod["spec"]["hostNetwork"] = json!(true),
        Kind::Finished => pod["status"]["phase"] = json!(rng.pick(&["Succeeded", "Failed"])),
        Kind::WithoutAddress => pod["status"]["phase"] = json!("Pending"),
        Kind::Terminating => {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T02:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        }
        _ => {}
    }
    pod
}

/// One container whose port names mean other numbers, or other protocols, than its neighbours'.
fn containers(rng: &mut Rng) -> Value {
    let mut ports = Vec::new();
    if rng.percent(75) {
        let number = *rng.pick(&[80, 8080, 9090]);
        ports.push(json!({"name": "http", "containerPort": number}));
    }
    if rng.percent(40) {
        ports.push(json!({"name": "dns", "containerPort": 53, "protocol": "UDP"}));
    }
    if rng.percent(40) {
        let protocol = *rng.pick(&["TCP", "UDP", "SCTP"]);
        let number = *rng.pick(&[9090, 9100]);
        ports.push(json!({"name": "metrics", "containerPort": number, "protocol": protocol}));
    }
    json!([{"name": "main", "image": "example.com/main", "ports": ports}])
}

/// An init container with a named port, which counts only if it is a sidecar.
fn sidecar(rng: &mut Rng) -> Value {
    let mut container = json!({
        "name": "side",
        "image": "example.com/side",
        "ports": [{"name": "admin", "containerPort": *rng.pick(&[443, 9090])}],
    });
    if rng.percent(70) {
        container["restartPolicy"] = json!("Always");
    }
    container
}
