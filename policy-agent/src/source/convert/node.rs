//! Nodes.

use ipnet::IpNet;
use policy_core::model::Node;
use serde::Deserialize;

use super::ip_block::parse_address;
use super::meta::{Meta, MetaObject};
use super::names::Names;
use super::report::Report;

/// The fields of a Node that policy needs, as they are on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeObject {
    metadata: Option<MetaObject>,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: Option<String>,
    address: Option<String>,
}

pub(super) fn convert(
    object: &NodeObject,
    meta: &Meta,
    names: &mut Names,
    report: &mut Report,
) -> Node {
    let labels = object.metadata.as_ref().map(|m| m.labels(names));
    let status = object.status.as_ref();
    let listed = status.and_then(|status| status.addresses.as_deref());
    let mut addresses = Vec::new();
    for (i, entry) in listed.unwrap_or_default().iter().enumerate() {
        let text = entry.address.as_deref().unwrap_or_default();
        // Host names are in the same list.
        let must_parse = entry.r#type.as_deref().is_some_and(|t| t.ends_with("IP"));
        match parse_address(text) {
            Some(address) => addresses.push(address),
            None if must_parse => report.error(
                format!("status.addresses[{i}].address"),
                &format!("{text:?} is not an address; nothing knows the node by it"),
            ),
            None => {}
        }
    }
    addresses.sort();
    addresses.dedup();
    Node {
        name: names.get(&meta.name),
        labels: labels.unwrap_or_default(),
        addresses,
        pod_ranges: pod_ranges(object.spec.as_ref(), report),
    }
}

/// `spec.podCIDRs`, of which `spec.podCIDR` is the first.
fn pod_ranges(spec: Option<&Spec>, report: &mut Report) -> Vec<IpNet> {
    let Some(spec) = spec else { return Vec::new() };
    let all = spec.pod_cidrs.as_deref().unwrap_or_default();
    let listed = all.iter().enumerate();
    let mut texts: Vec<(String, &str)> = listed
        .map(|(i, text)| (format!("spec.podCIDRs[{i}]"), text.as_str()))
        .collect();
    if let (Some(first), true) = (spec.pod_cidr.as_deref(), texts.is_empty()) {
        texts.push(("spec.podCIDR".to_owned(), first));
    }
    let mut ranges = Vec::new();
    for (path, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        match text.parse::<IpNet>() {
            Ok(range) => ranges.push(range.trunc()),
            Err(_) => report.error(path, &format!("{text:?} is not a prefix; it is left out")),
        }
    }
    ranges
}
