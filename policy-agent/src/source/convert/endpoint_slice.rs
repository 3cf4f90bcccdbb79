//! EndpointSlices.
//!
//! An endpoint or a port that cannot be understood is left out, so that nothing
//! is allowed because of it.

use std::net::IpAddr;

use policy_core::model::{EndpointSlice, SliceEndpoint, SlicePort};
use serde::Deserialize;

use super::ip_block::parse_address;
use super::meta::{Meta, MetaObject};
use super::names::Names;
use super::report::Report;
use super::service::{port_number, protocol};

/// The label that names the Service (`discovery.k8s.io/v1`).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The fields of an EndpointSlice that policy needs, as they are on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSliceObject {
    metadata: Option<MetaObject>,
    address_type: Option<String>,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
}

pub(super) fn convert(
    object: &EndpointSliceObject,
    meta: &Meta,
    names: &mut Names,
    report: &mut Report,
) -> EndpointSlice {
    let labels = object.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let service = (service.and_then(|name| name.as_deref()))
        .filter(|name| !name.is_empty())
        .map(|name| names.get(name));
    let (endpoints, ports) = match object.address_type.as_deref().unwrap_or_default() {
        "FQDN" => (Vec::new(), Vec::new()),
        family @ ("IPv4" | "IPv6") => (
            endpoints(object, family == "IPv6", names, report),
            ports(object, names, report),
        ),
        other => {
            report.error(
                "addressType",
                &format!("{other:?} is not IPv4, IPv6 or FQDN; none of its endpoints is used"),
            );
            (Vec::new(), Vec::new())
        }
    };
    EndpointSlice {
        namespace: names.get(&meta.namespace),
        name: names.get(&meta.name),
        service,
        ports,
        endpoints,
    }
}

fn endpoints(
    object: &EndpointSliceObject,
    ipv6: bool,
    names: &mut Names,
    report: &mut Report,
) -> Vec<SliceEndpoint> {
    let mut endpoints = Vec::new();
    for (i, entry) in object.endpoints.iter().flatten().enumerate() {
        let first = entry.addresses.iter().flatten().next();
        let text = first.map(String::as_str).unwrap_or_default();
        let of_family = |address: &IpAddr| match address {
            IpAddr::V4(_) => !ipv6,
            IpAddr::V6(v6) => ipv6 && v6.to_ipv4_mapped().is_none(),
        };
        let usable = |address: &IpAddr| {
            of_family(address) && !address.is_unspecified() && !address.is_multicast()
        };
        let Some(address) = parse_address(text).filter(usable) else {
            report.error(
                format!("endpoints[{i}].addresses[0]"),
                &format!(
                    "{text:?} is not an {} address; the endpoint is not used",
                    if ipv6 { "IPv6" } else { "IPv4" }
                ),
            );
            continue;
        };
        let none = Conditions::default();
        let conditions = entry.conditions.as_ref().unwrap_or(&none);
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        endpoints.push(SliceEndpoint {
            address,
            node: (entry.node_name.as_deref())
                .filter(|name| !name.is_empty())
                .map(|name| names.get(name)),
            ready,
            draining: serving && conditions.terminating.unwrap_or(false),
        });
    }
    endpoints.sort();
    endpoints.dedup();
    endpoints
}

fn ports(object: &EndpointSliceObject, names: &mut Names, report: &mut Report) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (i, entry) in object.ports.iter().flatten().enumerate() {
        let at = |field: &str| format!("ports[{i}].{field}");
        // A port without a number means every port, which no Service leads to.
        let Some(number) = entry.port else {
            continue;
        };
        let Some(port) = port_number(number) else {
            report.error(
                at("port"),
                &format!("{number} is not a port (1 to 65535); nothing leads there"),
            );
            continue;
        };
        let Some(protocol) = protocol(entry.protocol.as_deref()) else {
            report.error(at("protocol"), "not TCP, UDP or SCTP; nothing leads there");
            continue;
        };
        ports.push(SlicePort {
            name: names.get(entry.name.as_deref().unwrap_or_default()),
            protocol,
            port,
        });
    }
    ports.sort();
    ports.dedup();
    ports
}
