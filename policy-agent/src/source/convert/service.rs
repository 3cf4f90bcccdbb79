//! Services.
//!
//! An address or a port that cannot be understood is left out: what is sent
//! there is then judged as an ordinary address, which no selector matches.

use std::net::IpAddr;

use policy_core::model::{Protocol, Service, ServicePort};
use serde::Deserialize;

use super::ip_block::parse_address;
use super::meta::{Meta, MetaObject};
use super::names::Names;
use super::report::Report;

/// The fields of a Service that policy needs, as they are on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceObject {
    /// Decoded, so that a wrong type in it is found.
    metadata: Option<MetaObject>,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
    node_port: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

/// What happens because of an address that is not one.
const UNKNOWN: &str = "is not an address; nothing knows the Service by it";

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";

pub(super) fn convert(
    object: &ServiceObject,
    meta: &Meta,
    names: &mut Names,
    report: &mut Report,
) -> Service {
    let none = (Spec::default(), Status::default());
    let spec = object.spec.as_ref().unwrap_or(&none.0);
    let status = object.status.as_ref().unwrap_or(&none.1);
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let mut service = Service {
        namespace: names.get(&meta.namespace),
        name: names.get(&meta.name),
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        internal_local: is_local(&spec.internal_traffic_policy),
        external_local: is_local(&spec.external_traffic_policy),
    };
    let Some(cluster_ips) = cluster_ips(spec, report) else {
        return service;
    };
    service.cluster_ips = cluster_ips;
    service.external_ips = external_ips(spec, status, report);
    service.ports = ports(spec, names, report);
    for addresses in [&mut service.cluster_ips, &mut service.external_ips] {
        addresses.sort();
        addresses.dedup();
    }
    service.ports.sort();
    service.ports.dedup();
    service
}

/// `None`: nothing translates what is sent to the Service (headless, of type
/// ExternalName, or without an address yet).
fn cluster_ips(spec: &Spec, report: &mut Report) -> Option<Vec<IpAddr>> {
    if spec.r#type.as_deref() == Some("ExternalName") {
        return None;
    }
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let mut texts: Vec<_> = listed
        .iter()
        .enumerate()
        .map(|(i, text)| (format!("spec.clusterIPs[{i}]"), text.as_str()))
        .collect();
    if texts.is_empty() {
        let single = spec.cluster_ip.as_deref().unwrap_or_default();
        texts.push(("spec.clusterIP".to_owned(), single));
    }
    texts.retain(|(_, text)| !text.is_empty());
    if texts.is_empty() || texts.iter().any(|(_, text)| *text == HEADLESS) {
        return None;
    }
    let addresses = texts.into_iter();
    Some(
        addresses
            .filter_map(|(path, text)| address(&path, text, report))
            .collect(),
    )
}

fn external_ips(spec: &Spec, status: &Status, report: &mut Report) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        addresses.extend(address(&format!("spec.externalIPs[{i}]"), text, report));
    }
    let balancer = status.load_balancer.as_ref();
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
    for (i, entry) in ingress.unwrap_or_default().iter().enumerate() {
        // What is sent to a proxy leaves the node as it is.
        let is_proxy = entry.ip_mode.as_deref() == Some("Proxy");
        // Some have a host name only.
        let text = entry.ip.as_deref().unwrap_or_default();
        if !is_proxy && !text.is_empty() {
            let path = format!("status.loadBalancer.ingress[{i}].ip");
            addresses.extend(address(&path, text, report));
        }
    }
    addresses
}

fn address(path: &str, text: &str, report: &mut Report) -> Option<IpAddr> {
    let address = parse_address(text).filter(|address| {
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        !address.is_unspecified() && !address.is_multicast() && !mapped
    });
    if address.is_none() {
        report.error(path, &format!("{text:?} {UNKNOWN}"));
    }
    address
}

fn ports(spec: &Spec, names: &mut Names, report: &mut Report) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (i, entry) in spec.ports.iter().flatten().enumerate() {
        let at = |field: &str| format!("spec.ports[{i}].{field}");
        let number = entry.port.unwrap_or(0);
        let Some(port) = port_number(number) else {
            report.error(
                at("port"),
                &format!("{number} is not a port (1 to 65535); policy does not know this port"),
            );
            continue;
        };
        let Some(protocol) = protocol(entry.protocol.as_deref()) else {
            report.error(
                at("protocol"),
                "not TCP, UDP or SCTP; policy does not know this port",
            );
            continue;
        };
        let node_port = entry.node_port.filter(|number| *number != 0);
        if let Some(wrong) = node_port.filter(|number| port_number(*number).is_none()) {
            report.error(
                at("nodePort"),
                &format!("{wrong} is not a port (1 to 65535); policy does not know the node port"),
            );
        }
        ports.push(ServicePort {
            name: names.get(entry.name.as_deref().unwrap_or_default()),
            protocol,
            port,
            node_port: node_port.and_then(port_number),
        });
    }
    ports
}

/// 1 to 65535.
pub(super) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// TCP where none is named; `None`: it is none that policy knows.
pub(super) fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or_default() {
        "" => Some(Protocol::Tcp),
        text => Protocol::from_name(text),
    }
}
