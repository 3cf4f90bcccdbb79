//! Small clusters as text, for tests.
//!
//! - Selector: words `key=a,b`, `key!=a,b`, `key`, `!key`; `{}` is everything.
//! - Peer: an ipBlock `10.0.0.0/8 !10.1.0.0/16`, or pods by selector words, with
//!   `ns:` before each word about namespaces; without one, the policy's own.
//! - Rule: `ACTION PEER | PEER : PORT PORT`; `*` is every peer, or every port.
//! - Port of a Service: `web=TCP/80@30080` with its node port; of a slice without.
//! - Endpoint of a slice: `10.0.0.1`, `10.0.0.1@node`; `-` after it: draining,
//!   `?`: not ready.
//! - Port: `TCP/80`, `TCP/80-90`, `TCP/http`, `*/http`, `UDP`.

pub(crate) mod random;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::desired::PodRef;
use crate::engine::NodeContext;
use crate::model::{
    Action, EndpointSlice, IpBlock, Labels, Namespace, NamespaceMatch, Node, Peer, Peers, Pod,
    PodPort, Policy, PolicyId, PortMatch, Ports, Protocol, Requirement, Rule, Selector, Service,
    ServicePort, SliceEndpoint, SlicePort, Subject, Tier,
};
use crate::store::{Object, SourceEvent, Store};

pub(crate) fn split_name(name: &str) -> (Arc<str>, Arc<str>) {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    (namespace.into(), name.into())
}

pub(crate) fn pod_ref(name: &str) -> PodRef {
    let (namespace, name) = split_name(name);
    PodRef { namespace, name }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace();
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').expect("key=value");
            (key.into(), value.into())
        })
        .collect()
}

pub(crate) fn selector(text: &str) -> Selector {
    let values = |text: &str| -> BTreeSet<Arc<str>> { text.split(',').map(Arc::from).collect() };
    let words = text.split_whitespace().filter(|word| *word != "{}");
    Selector::new(words.map(|word| {
        if let Some((key, list)) = word.split_once("!=") {
            Requirement::NotIn(key.into(), values(list))
        } else if let Some((key, list)) = word.split_once('=') {
            Requirement::In(key.into(), values(list))
        } else if let Some(key) = word.strip_prefix('!') {
            Requirement::DoesNotExist(key.into())
        } else {
            Requirement::Exists(word.into())
        }
    }))
}

/// A running pod of node `here`. Addresses and named ports (`http=TCP/80`) are
/// separated by blanks.
pub(crate) fn pod(name: &str, addresses: &str, label_text: &str, ports: &str) -> Pod {
    let (namespace, name) = split_name(name);
    let addresses: Vec<IpAddr> = addresses.split_whitespace().map(ip).collect();
    let mut ports: Vec<PodPort> = ports
        .split_whitespace()
        .map(|text| {
            let (name, port) = text.split_once('=').expect("name=PROTOCOL/port");
            let (protocol, port) = port.split_once('/').expect("PROTOCOL/port");
            PodPort {
                name: name.into(),
                protocol: Protocol::from_name(protocol).expect("a protocol"),
                port: port.parse().expect("a port"),
            }
        })
        .collect();
    ports.sort();
    Pod {
        uid: format!("uid-{name}").into(),
        namespace,
        name,
        created: 0,
        labels: labels(label_text),
        node: Some("here".into()),
        host_network: false,
        finished: false,
        ipv4: addresses.iter().find_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        }),
        ipv6: addresses.iter().find_map(|a| match a {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => Some(*a),
        }),
        ports,
        host_ports: Vec::new(),
    }
}

pub(crate) fn on_node(node: &str, pod: Pod) -> Pod {
    Pod {
        node: Some(node.into()),
        ..pod
    }
}

pub(crate) fn namespace(name: &str, label_text: &str) -> Namespace {
    Namespace {
        name: name.into(),
        labels: labels(label_text),
    }
}

pub(crate) fn node(name: &str, addresses: &str) -> Node {
    Node {
        name: name.into(),
        labels: Labels::new(),
        addresses: addresses.split_whitespace().map(ip).collect(),
        pod_ranges: Vec::new(),
    }
}

/// A Service; addresses and ports are separated by blanks.
pub(crate) fn service(name: &str, cluster: &str, external: &str, ports: &str) -> Service {
    let (namespace, name) = split_name(name);
    let addresses = |text: &str| {
        let mut all: Vec<IpAddr> = text.split_whitespace().map(ip).collect();
        all.sort();
        all
    };
    let ports = ports.split_whitespace().map(|text| {
        let (name, protocol, port) = named_port(text);
        let (port, node) = port.split_once('@').unwrap_or((port, ""));
        ServicePort {
            name,
            protocol,
            port: port.parse().expect("a port"),
            node_port: node.parse().ok(),
        }
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    Service {
        namespace,
        name,
        cluster_ips: addresses(cluster),
        external_ips: addresses(external),
        ports,
        internal_local: false,
        external_local: false,
    }
}

/// A slice behind the Service of this name in the slice's namespace.
pub(crate) fn slice(name: &str, service: &str, endpoints: &str, ports: &str) -> EndpointSlice {
    let (namespace, name) = split_name(name);
    let endpoints = endpoints.split_whitespace().map(|text| {
        let draining = text.ends_with('-');
        let ready = !draining && !text.ends_with('?');
        let text = text.trim_end_matches(['-', '?']);
        let (address, node) = text.split_once('@').unwrap_or((text, ""));
        SliceEndpoint {
            address: ip(address),
            node: (!node.is_empty()).then(|| node.into()),
            ready,
            draining,
        }
    });
    let ports = ports.split_whitespace().map(|text| {
        let (name, protocol, port) = named_port(text);
        SlicePort {
            name,
            protocol,
            port: port.parse().expect("a port"),
        }
    });
    EndpointSlice {
        namespace,
        name,
        service: Some(service.into()),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    }
}

fn named_port(text: &str) -> (Arc<str>, Protocol, &str) {
    let (name, port) = text.split_once('=').unwrap_or(("", text));
    let (protocol, port) = port.split_once('/').expect("PROTOCOL/port");
    let protocol = Protocol::from_name(protocol).expect("a protocol");
    (name.into(), protocol, port)
}

/// Node `here` with these addresses.
pub(crate) fn here(addresses: &str) -> NodeContext {
    NodeContext {
        name: "here".into(),
        addresses: addresses.split_whitespace().map(ip).collect(),
    }
}

/// A NetworkPolicy; `None`: the direction is not isolated.
pub(crate) fn policy(
    name: &str,
    subject: &str,
    ingress: Option<&[&str]>,
    egress: Option<&[&str]>,
) -> Policy {
    let (namespace, name) = split_name(name);
    let rules = |rules: &[&str]| -> Vec<Rule> {
        let numbered = (0..).zip(rules);
        numbered
            .map(|(i, text)| rule(&namespace, i, text))
            .collect()
    };
    Policy {
        tier: Tier::NetworkPolicy,
        order: 0,
        subject: Subject {
            namespaces: NamespaceMatch::Name(namespace.clone()),
            pods: selector(subject),
        },
        ingress: ingress.map(rules),
        egress: egress.map(rules),
        id: PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: Some(namespace),
            name,
        },
    }
}

/// A policy of an ordered tier that applies to all pods of all namespaces.
pub(crate) fn ordered(
    tier: Tier,
    order: i64,
    name: &str,
    ingress: Option<&[&str]>,
    egress: Option<&[&str]>,
) -> Policy {
    let in_namespace = policy(&format!("none/{name}"), "{}", ingress, egress);
    Policy {
        tier,
        order,
        subject: Subject {
            namespaces: NamespaceMatch::Labels(Selector::EVERYTHING),
            pods: Selector::EVERYTHING,
        },
        id: PolicyId {
            kind: "ClusterNetworkPolicy".into(),
            namespace: None,
            name: name.into(),
        },
        ..in_namespace
    }
}

fn rule(namespace: &Arc<str>, index: u32, text: &str) -> Rule {
    let (action, rest) = text.split_once(' ').expect("an action first");
    let (peers, ports) = rest.split_once(" : ").unwrap_or((rest, "*"));
    Rule {
        index,
        action: match action {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            "pass" => Action::Pass,
            "log" => Action::Log,
            other => panic!("no action {other}"),
        },
        peers: match peers.trim() {
            "*" => Peers::Any,
            "" => Peers::Of(Vec::new()),
            peers => Peers::Of(peers.split('|').map(|text| peer(namespace, text)).collect()),
        },
        ports: match ports.trim() {
            "*" => Ports::Any,
            ports => Ports::Of(ports.split_whitespace().map(port).collect()),
        },
    }
}

fn peer(namespace: &Arc<str>, text: &str) -> Peer {
    let words: Vec<&str> = text.split_whitespace().collect();
    let net = |text: &str| text.parse::<IpNet>();
    if let Ok(cidr) = net(words[0]) {
        let except = words[1..].iter().map(|word| word.trim_start_matches('!'));
        let except: BTreeSet<IpNet> = except.map(|text| net(text).expect("a prefix")).collect();
        return Peer::IpBlock(IpBlock {
            cidr,
            except: except.into_iter().collect(),
        });
    }
    let of_namespaces: Vec<&str> = words.iter().filter_map(|w| w.strip_prefix("ns:")).collect();
    let of_pods: Vec<&str> = words
        .iter()
        .filter(|w| !w.starts_with("ns:"))
        .copied()
        .collect();
    Peer::Pods {
        namespaces: if of_namespaces.is_empty() {
            NamespaceMatch::Name(namespace.clone())
        } else {
            NamespaceMatch::Labels(selector(&of_namespaces.join(" ")))
        },
        pods: selector(&of_pods.join(" ")),
    }
}

fn port(text: &str) -> PortMatch {
    let (protocol, port) = text.split_once('/').unwrap_or((text, "0-65535"));
    let protocol = Protocol::from_name(protocol);
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    match (protocol, first.parse(), last.parse()) {
        (Some(protocol), Ok(first), Ok(last)) => PortMatch::Range {
            protocol,
            first,
            last,
        },
        (protocol, ..) => PortMatch::Named {
            protocol,
            name: port.into(),
        },
    }
}

/// The events that make objects.
pub(crate) fn events(
    pods: impl IntoIterator<Item = Pod>,
    policies: impl IntoIterator<Item = Policy>,
) -> Vec<SourceEvent> {
    let pods = pods.into_iter().map(|pod| Object::Pod(Arc::new(pod)));
    let policies = policies.into_iter().map(|p| Object::Policy(Arc::new(p)));
    pods.chain(policies).map(SourceEvent::Apply).collect()
}

/// A store of pods, policies and whatever else.
pub(crate) fn store(
    pods: impl IntoIterator<Item = Pod>,
    policies: impl IntoIterator<Item = Policy>,
    others: impl IntoIterator<Item = Object>,
) -> Store {
    let mut store = Store::new();
    store.apply_all(events(pods, policies));
    store.apply_all(others.into_iter().map(SourceEvent::Apply));
    store
}
