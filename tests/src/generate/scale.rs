//! Large and ordinary clusters for benchmarks, of stated sizes and stated variety.
//!
//! A pod has seven labels of low cardinality and one of its own, a namespace five values of
//! `app`, a policy two rules of two peers and two ports. A tenth of the policies are default
//! deny; the other shares are the constants below. `node-0` is the node that an agent under test
//! serves: it has 100 pods, as every other node has.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Rng;

/// How many of a hundred policies only deny.
const DEFAULT_DENY: usize = 10;
/// How many of a hundred peers are ipBlocks, and how many of those have an except.
const BLOCKS: usize = 15;
const EXCEPTS: usize = 30;
/// How many of a hundred peers have a namespaceSelector.
const WITH_NAMESPACES: usize = 30;
/// How many of a hundred selectors use matchExpressions, are negative, are empty.
const EXPRESSIONS: usize = 15;
const NEGATIVE: usize = 5;
const EMPTY: usize = 3;
/// How many of a hundred ports are names, and how many ranges.
const NAMED: usize = 5;
const RANGES: usize = 5;
/// Pods on every node.
const PODS_A_NODE: usize = 100;
/// Values of `app` in one namespace.
const APPS: usize = 5;

/// A size with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1,000 pods: everyday.
    Small,
    /// 10,000 pods.
    Medium,
    /// 100,000 pods.
    Large,
}

/// The numbers behind a size.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Nodes, each with 100 pods.
    pub nodes: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Policies.
    pub policies: usize,
    /// Values of the namespace label `team`.
    pub teams: usize,
    /// Events in a trace.
    pub events: usize,
    /// Events a second when a trace is played at its own pace.
    pub events_per_second: usize,
}

impl Size {
    /// The size's numbers.
    pub fn scale(self) -> Scale {
        let by = |nodes, namespaces, policies, teams, events, events_per_second| Scale {
            nodes,
            namespaces,
            policies,
            teams,
            events,
            events_per_second,
        };
        match self {
            Self::Small => by(10, 20, 100, 10, 2_000, 5),
            Self::Medium => by(100, 200, 1_000, 40, 10_000, 20),
            Self::Large => by(1_000, 2_000, 10_000, 200, 50_000, 100),
        }
    }

    /// The size of that name, in lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "small" => Some(Self::Small),
            "medium" => Some(Self::Medium),
            "large" => Some(Self::Large),
            _ => None,
        }
    }
}

impl Scale {
    /// Pods on all nodes.
    pub fn pods(&self) -> usize {
        self.nodes * PODS_A_NODE
    }
}

/// Nodes, namespaces, pods and policies of a size.
pub fn scale_cluster(size: Size, seed: u64) -> Vec<Value> {
    let scale = size.scale();
    let mut rng = Rng::new(seed);
    let mut objects: Vec<Value> = (0..scale.nodes).map(node).collect();
    objects.extend((0..scale.namespaces).map(|index| namespace(&mut rng, &scale, index)));
    for index in 0..scale.pods() {
        objects.push(pod(&mut rng, &scale, index, index / PODS_A_NODE));
        let last = objects.last_mut().expect("just pushed");
        give_address(&mut rng, last, pod_address(index), index / PODS_A_NODE);
    }
    objects.extend((0..scale.policies).map(|index| policy(&mut rng, &scale, index)));
    objects
}

fn node(index: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": format!("node-{index}")},
        "status": {"addresses": [{"type": "InternalIP", "address": node_address(index)}]},
    })
}

/// 172.18.0.2 and on.
fn node_address(index: usize) -> Ipv4Addr {
    offset(Ipv4Addr::new(172, 18, 0, 2), index)
}

/// A /24 of 10.244.0.0/14 for every node.
fn pod_address(index: usize) -> Ipv4Addr {
    let (node, on_node) = (index / PODS_A_NODE, index % PODS_A_NODE);
    offset(Ipv4Addr::new(10, 244, 0, 2), node * 256 + on_node)
}

fn offset(base: Ipv4Addr, by: usize) -> Ipv4Addr {
    let by = u32::try_from(by).expect("a cluster fits into IPv4");
    Ipv4Addr::from_bits(base.to_bits() + by)
}

/// A namespace with its team's label.
pub(super) fn namespace(rng: &mut Rng, scale: &Scale, index: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": format!("ns-{index}"),
            "labels": {"team": format!("team-{}", rng.below(scale.teams))},
        },
    })
}

/// A pod as it is when it has just been bound to its node: pending, without an address.
pub(super) fn pod(rng: &mut Rng, scale: &Scale, index: usize, node: usize) -> Value {
    let namespace = rng.below(scale.namespaces);
    let app = rng.below(APPS);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": format!("ns-{namespace}"),
            "name": format!("pod-{index}"),
            "uid": format!("{:08x}-0000-4000-8000-{index:012x}", rng.bits() >> 32),
            "resourceVersion": "1",
            "labels": labels(rng, app, index),
        },
        "spec": {
            "nodeName": format!("node-{node}"),
            "containers": [{
                "name": "main",
                "image": "example.com/main",
                "ports": [{"name": "http", "containerPort": 8080 + app % 3}],
            }],
        },
        "status": {"phase": "Pending"},
    })
}

/// Seven labels that many pods share, and one that no other pod has.
pub(super) fn labels(rng: &mut Rng, app: usize, index: usize) -> Value {
    json!({
        "app": format!("app-{app}"),
        "tier": *rng.pick(&["front", "middle", "back"]),
        "env": *rng.pick(&["prod", "staging", "dev"]),
        "version": *rng.pick(&["v1", "v2"]),
        "zone": *rng.pick(&["a", "b", "c"]),
        "track": *rng.pick(&["stable", "canary"]),
        "managed-by": "deployment",
        "pod-index": index.to_string(),
    })
}

/// What the kubelet reports later: mostly a running pod with its address, sometimes a pod that
/// is finished, uses the host network, or still has none.
pub(super) fn give_address(rng: &mut Rng, pod: &mut Value, address: Ipv4Addr, node: usize) {
    let (phase, address) = match rng.below(100) {
        0 => return,
        1 | 2 => ("Succeeded", address),
        3 => {
            pod["spec"]["hostNetwork"] = json!(true);
            ("Running", node_address(node))
        }
        _ => ("Running", address),
    };
    pod["status"] = json!({"phase": phase, "podIP": address, "podIPs": [{"ip": address}]});
}

/// A policy of a random namespace.
pub(super) fn policy(rng: &mut Rng, scale: &Scale, index: usize) -> Value {
    let spec = if rng.percent(DEFAULT_DENY) {
        json!({"podSelector": {}, "policyTypes": *rng.pick(&[["Ingress"], ["Egress"]])})
    } else {
        let rules = |rng: &mut Rng, peers: &str| -> Value {
            (0..2).map(|_| rule(rng, scale, peers)).collect()
        };
        let subject = pod_selector(rng);
        if rng.percent(65) {
            json!({"podSelector": subject, "policyTypes": ["Ingress"], "ingress": rules(rng, "from")})
        } else {
            json!({"podSelector": subject, "policyTypes": ["Egress"], "egress": rules(rng, "to")})
        }
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "namespace": format!("ns-{}", rng.below(scale.namespaces)),
            "name": format!("policy-{index}"),
            "resourceVersion": "1",
        },
        "spec": spec,
    })
}

fn rule(rng: &mut Rng, scale: &Scale, peers_name: &str) -> Value {
    let peers: Vec<Value> = (0..2).map(|_| peer(rng, scale)).collect();
    let ports: Vec<Value> = (0..2).map(|_| port(rng)).collect();
    json!({ peers_name: peers, "ports": ports })
}

fn peer(rng: &mut Rng, scale: &Scale) -> Value {
    if rng.percent(BLOCKS) {
        let (second, third) = (rng.below(256), rng.below(256));
        let mut block = json!({"cidr": format!("10.{second}.0.0/16")});
        if rng.percent(EXCEPTS) {
            block["except"] = json!([format!("10.{second}.{third}.0/24")]);
        }
        return json!({ "ipBlock": block });
    }
    // A share of all peers, of which blocks are already taken out.
    if rng.below(100 - BLOCKS) < WITH_NAMESPACES {
        let team = format!("team-{}", rng.below(scale.teams));
        let namespaces = json!({"matchLabels": {"team": team}});
        return json!({"namespaceSelector": namespaces, "podSelector": pod_selector(rng)});
    }
    json!({"podSelector": pod_selector(rng)})
}

fn pod_selector(rng: &mut Rng) -> Value {
    let app = format!("app-{}", rng.below(APPS));
    let kind = rng.weighted(&[
        EMPTY,
        NEGATIVE,
        EXPRESSIONS - NEGATIVE,
        100 - EMPTY - EXPRESSIONS,
    ]);
    match kind {
        0 => json!({}),
        1 => json!({
            "matchLabels": {"app": app},
            "matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["dev"]}],
        }),
        2 => json!({"matchExpressions": [
            {"key": "app", "operator": "In", "values": [app, format!("app-{}", rng.below(APPS))]},
        ]}),
        _ => {
            let mut labels = json!({ "app": app });
            if rng.percent(40) {
                labels["tier"] = json!(*rng.pick(&["front", "middle", "back"]));
            }
            json!({ "matchLabels": labels })
        }
    }
}

fn port(rng: &mut Rng) -> Value {
    let number = *rng.pick(&[80, 443, 3306, 5432, 6379, 8080, 8081, 8082, 9090]);
    match rng.weighted(&[NAMED, RANGES, 100 - NAMED - RANGES]) {
        0 => json!({"port": "http"}),
        1 => json!({"port": number, "endPort": number + 99, "protocol": "TCP"}),
        _ if rng.percent(15) => json!({"port": 53, "protocol": "UDP"}),
        _ => json!({"port": number, "protocol": "TCP"}),
    }
}
