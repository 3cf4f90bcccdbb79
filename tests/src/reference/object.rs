//! Pods, Nodes and Namespaces, as far as policies look at them (semantics 7 and 8).

use std::net::IpAddr;

use serde_json::Value;

use super::block::parse_address;
use super::json;
use super::port::Protocol;
use super::selector::Labels;

/// The label that the API server keeps on every namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A Pod.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: Labels,
    /// What the pod's status writes, whoever holds the addresses now.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: Option<String>,
    pub(super) host_network: bool,
    pub(super) finished: bool,
    /// Sorts pods by age: later is greater.
    pub(super) age: (String, String),
    ports: Vec<ContainerPort>,
    pub(super) host_ports: Vec<HostPort>,
}

/// A port of the pod's node that leads to the pod.
#[derive(Clone, Debug)]
pub(super) struct HostPort {
    /// The only address at which it is, if it names one.
    pub(super) address: Option<IpAddr>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// The container's.
    pub(super) target: u16,
}

#[derive(Clone, Debug)]
struct ContainerPort {
    name: String,
    number: u16,
    protocol: Protocol,
}

impl Pod {
    /// Reads an object whose identity the caller has established.
    pub(super) fn parse(namespace: &str, name: &str, object: &Value) -> Self {
        let metadata = |field| json::text_at(object, &["metadata", field]).unwrap_or_default();
        let spec = &object["spec"];
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: labels(object),
            addresses: addresses(&object["status"]),
            node: json::text(spec, "nodeName").map(str::to_owned),
            host_network: spec["hostNetwork"] == true,
            // Semantics 7: finished pods are neither subject nor peer. A missing phase is Running;
            // a deletionTimestamp alone changes nothing.
            finished: matches!(
                json::text_at(object, &["status", "phase"]),
                Some("Succeeded" | "Failed")
            ),
            age: (
                metadata("creationTimestamp").to_owned(),
                metadata("uid").to_owned(),
            ),
            ports: container_ports(spec),
            host_ports: host_ports(spec),
        }
    }

    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether policies know this pod at all (semantics 7 and 8).
    pub(super) fn counts(&self) -> bool {
        !self.host_network && !self.finished
    }

    /// The numbers that the pod gives a port name for a protocol: usually one, and all of them
    /// if several containers use the name (semantics 5).
    pub(super) fn ports_named(&self, name: &str, protocol: Protocol) -> Vec<u16> {
        self.ports
            .iter()
            .filter(|port| port.name == name && port.protocol == protocol)
            .map(|port| port.number)
            .collect()
    }

    /// The numbers that the pod gives a port name in any protocol.
    pub(super) fn ports_named_at_all(&self, name: &str) -> impl Iterator<Item = u16> {
        self.ports
            .iter()
            .filter(move |port| port.name == name)
            .map(|port| port.number)
    }
}

/// A namespace's labels, with the one that nobody can take away (semantics 3).
pub(super) fn namespace_labels(name: &str, object: Option<&Value>) -> Labels {
    let mut labels = object.map(labels).unwrap_or_default();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    labels
}

/// A Node's addresses; host names among them are skipped.
pub(super) fn node_addresses(object: &Value) -> Vec<IpAddr> {
    json::list(&object["status"], "addresses")
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| json::text(entry, "address").and_then(parse_address))
        .collect()
}

/// Labels that do not decode are none: an allow then finds nothing to match.
fn labels(object: &Value) -> Labels {
    json::string_map(&object["metadata"], "labels").unwrap_or_default()
}

/// `podIPs`, or the older `podIP` where there is no list.
fn addresses(status: &Value) -> Vec<IpAddr> {
    let listed: Vec<IpAddr> = json::list(status, "podIPs")
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| json::text(entry, "ip").and_then(parse_address))
        .collect();
    if listed.is_empty() {
        let single = json::text(status, "podIP").and_then(parse_address);
        return single.into_iter().collect();
    }
    listed
}

/// Containers, and sidecars, which are init containers that restart always; an ordinary init
/// container has finished before anybody may connect (semantics 5).
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let containers = json::list(spec, "containers").unwrap_or_default();
    let sidecars = json::list(spec, "initContainers")
        .unwrap_or_default()
        .iter()
        .filter(|container| json::text(container, "restartPolicy") == Some("Always"));
    containers.iter().chain(sidecars)
}

fn port_protocol(port: &Value) -> Option<Protocol> {
    match json::text(port, "protocol") {
        None | Some("" | "TCP") => Some(Protocol::TCP),
        Some("UDP") => Some(Protocol::UDP),
        Some("SCTP") => Some(Protocol::SCTP),
        Some(_) => None,
    }
}

fn host_ports(spec: &Value) -> Vec<HostPort> {
    let ports = containers(spec).flat_map(|c| json::list(c, "ports").unwrap_or_default());
    let ports = ports.filter_map(|port| {
        let number = |field: &str| {
            let number = u16::try_from(port[field].as_u64()?).ok()?;
            (number != 0).then_some(number)
        };
        let address = match json::text(port, "hostIP").unwrap_or_default() {
            "" => None,
            text => Some(parse_address(text)?),
        };
        Some(HostPort {
            address: address.filter(|address| !address.is_unspecified()),
            protocol: port_protocol(port)?,
            port: number("hostPort")?,
            target: number("containerPort")?,
        })
    });
    ports.collect()
}

/// Semantics 5: ports of containers and of sidecars, which are init containers that restart
/// always; an ordinary init container has finished before anybody may connect.
fn container_ports(spec: &Value) -> Vec<ContainerPort> {
    containers(spec)
        .flat_map(|container| json::list(container, "ports").unwrap_or_default())
        .filter_map(|port| {
            Some(ContainerPort {
                name: json::text(port, "name")?.to_owned(),
                number: u16::try_from(port["containerPort"].as_u64()?).ok()?,
                protocol: port_protocol(port)?,
            })
        })
        .collect()
}
