//! Nodes.

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
    status: Option<Status>,
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
    }
}
