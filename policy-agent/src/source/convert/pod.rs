//! Pods.

use std::net::{IpAddr, Ipv6Addr};

use policy_core::model::{HostPort, Pod, PodPort, Protocol};
use serde::Deserialize;

use super::ip_block::parse_address;
use super::meta::{Meta, MetaObject, seconds_since_1970};
use super::names::Names;
use super::report::Report;
use super::service::{port_number, protocol};

/// The fields of a Pod that policy needs, as they are on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
    metadata: Option<MetaObject>,
    spec: Option<Spec>,
    status: Option<Status>,
}

impl PodObject {
    /// Its metadata, if it has any.
    pub(super) fn metadata(&self) -> Option<&MetaObject> {
        self.metadata.as_ref()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: Option<i32>,
    host_port: Option<i32>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Option<String>,
}

pub(super) fn convert(
    object: &PodObject,
    meta: &Meta,
    names: &mut Names,
    report: &mut Report,
) -> Pod {
    let none = (MetaObject::default(), Spec::default(), Status::default());
    let metadata = object.metadata.as_ref().unwrap_or(&none.0);
    let spec = object.spec.as_ref().unwrap_or(&none.1);
    let status = object.status.as_ref().unwrap_or(&none.2);

    let created = metadata.creation_timestamp.as_deref().map(|text| {
        seconds_since_1970(text).unwrap_or_else(|| {
            report.warning(
                "metadata.creationTimestamp",
                &format!("{text:?} is not a time (RFC 3339); the pod counts as the oldest"),
            );
            0
        })
    });
    let mut pod = Pod {
        namespace: names.get(&meta.namespace),
        name: names.get(&meta.name),
        uid: uid(metadata).into(),
        created: created.unwrap_or(0),
        labels: metadata.labels(names),
        node: (spec.node_name.as_deref())
            .filter(|name| !name.is_empty())
            .map(|name| names.get(name)),
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ipv4: None,
        ipv6: None,
        ports: ports(spec, names, report),
        host_ports: host_ports(spec, report),
    };
    read_addresses(status, &mut pod, report);
    pod
}

/// The UID by which the node knows the pod: a static pod has it before there is an
/// object, whose own is another.
fn uid(metadata: &MetaObject) -> &str {
    let annotations = metadata.annotations.as_ref();
    let mirror = annotations.and_then(|annotations| annotations.mirror.as_deref());
    mirror.or(metadata.uid.as_deref()).unwrap_or_default()
}

/// `podIPs`, or the older `podIP` where there is no list: the first of each
/// family, since a pod has at most one.
fn read_addresses(status: &Status, pod: &mut Pod, report: &mut Report) {
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    let mut texts: Vec<_> = listed
        .iter()
        .enumerate()
        .map(|(i, entry)| {
            let text = entry.ip.as_deref().unwrap_or_default();
            (format!("status.podIPs[{i}].ip"), text)
        })
        .collect();
    if texts.is_empty() {
        let single = status.pod_ip.as_deref().filter(|text| !text.is_empty());
        texts.extend(single.map(|text| ("status.podIP".to_owned(), text)));
    }
    for (path, text) in texts {
        let taken = match parse_address(text).filter(|address| is_one_pods(*address)) {
            Some(IpAddr::V4(address)) => {
                let before = pod.ipv4;
                pod.ipv4 = before.or(Some(address));
                before.is_some_and(|before| before != address)
            }
            Some(IpAddr::V6(address)) => {
                let before = pod.ipv6;
                pod.ipv6 = before.or(Some(address));
                before.is_some_and(|before| before != address)
            }
            None => {
                report.error(
                    path,
                    &format!(
                        "{text:?} is not an address that a pod can have; \
                         no policy knows the pod by it"
                    ),
                );
                continue;
            }
        };
        if taken {
            report.error(
                path,
                &format!(
                    "{text} is a second address of one family, which a pod cannot have; \
                     the first one counts, and no policy knows the pod by this one"
                ),
            );
        }
    }
}

/// An address that names one interface, and not the machine that one is on.
fn is_one_pods(address: IpAddr) -> bool {
    let link_local = |a: Ipv6Addr| a.is_unicast_link_local() || a.to_ipv4_mapped().is_some();
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            IpAddr::V6(v6) => !link_local(v6),
        }
}

/// Ports of the node that lead to the pod. What is wrong with one leaves it out:
/// who asks there is then judged as if nothing led on.
fn host_ports(spec: &Spec, report: &mut Report) -> Vec<HostPort> {
    let mut ports = Vec::new();
    if spec.host_network.unwrap_or(false) {
        return ports;
    }
    for (list, i, container) in containers(spec) {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else {
                continue;
            };
            let at = |field: &str| format!("spec.{list}[{i}].ports[{j}].{field}");
            let text = port.host_ip.as_deref().unwrap_or_default();
            let address = parse_address(text);
            if !text.is_empty() && address.is_none() {
                report.error(
                    at("hostIP"),
                    &format!("{text:?} is not an address; policy does not know the host port"),
                );
                continue;
            }
            let numbers = port_number(number).zip(port_number(port.container_port.unwrap_or(0)));
            let (Some((port, target)), Some(protocol)) =
                (numbers, protocol(port.protocol.as_deref()))
            else {
                report.error(
                    at("hostPort"),
                    "its number, containerPort or protocol is not one; \
                     policy does not know the host port",
                );
                continue;
            };
            ports.push(HostPort {
                address: address.filter(|address| !address.is_unspecified()),
                protocol,
                port,
                target,
            });
        }
    }
    ports.sort();
    ports.dedup();
    ports
}

/// Containers, and init containers that stay beside them (sidecars), with the
/// list that they are in and their place there.
fn containers(spec: &Spec) -> impl Iterator<Item = (&'static str, usize, &Container)> {
    let containers = spec.containers.as_deref().unwrap_or_default();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let containers = (containers.iter().enumerate()).map(|(i, c)| ("containers", i, c));
    let sidecars = (init.iter().enumerate())
        .filter(|(_, c)| c.restart_policy.as_deref() == Some("Always"))
        .map(|(i, c)| ("initContainers", i, c));
    containers.chain(sidecars)
}

/// Named ports of containers, and of init containers that stay beside them
/// (sidecars); the others have ended before anybody may connect.
fn ports(spec: &Spec, names: &mut Names, report: &mut Report) -> Vec<PodPort> {
    let mut ports = Vec::new();
    for (list, i, container) in containers(spec) {
        let declared = container.ports.iter().flatten().enumerate();
        for (j, port) in declared {
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let at = |field: &str| format!("spec.{list}[{i}].ports[{j}].{field}");
            let number = port.container_port.unwrap_or(0);
            let Some(number) = u16::try_from(number).ok().filter(|number| *number != 0) else {
                report.error(
                    at("containerPort"),
                    &format!(
                        "{number} is not a port (1 to 65535); \
                         policies that name the port {name:?} do not open it here"
                    ),
                );
                continue;
            };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let protocol = match protocol {
                "" => Some(Protocol::Tcp),
                text => Protocol::from_name(text),
            };
            let Some(protocol) = protocol else {
                report.error(
                    at("protocol"),
                    &format!(
                        "not TCP, UDP or SCTP; \
                         policies that name the port {name:?} do not open it here"
                    ),
                );
                continue;
            };
            ports.push(PodPort {
                name: names.get(name),
                protocol,
                port: number,
            });
        }
    }
    ports.sort();
    ports.dedup();
    ports
}
