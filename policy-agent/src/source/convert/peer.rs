//! Entries of a rule's `from` and `to`.

use std::sync::Arc;

use policy_core::model::{NamespaceMatch, Peer, Selector};
use serde_json::Value;

use super::names::Names;
use super::path::Path;
use super::report::{Report, field};
use super::{ip_block, selector};

/// What happens because of anything that is wrong in an entry.
const CONSEQUENCE: &str = "this peer matches nothing";
const FIELDS: [&str; 3] = ["podSelector", "namespaceSelector", "ipBlock"];

/// Reads a peer of a policy of `namespace`; `None` if it matches nothing, which
/// is reported.
pub(super) fn convert(
    value: &Value,
    namespace: &Arc<str>,
    at: &Path<'_>,
    names: &mut Names,
    report: &mut Report,
) -> Option<Peer> {
    let fields = report.fields(at, value, CONSEQUENCE).ok()?;
    report.unknown_fields(at, fields, &FIELDS);
    let [pods, namespaces, block] = FIELDS.map(|name| field(fields, name));
    if let Some(block) = block {
        if pods.is_some() || namespaces.is_some() {
            report.error(
                at,
                &format!("has ipBlock and a selector, which exclude each other; {CONSEQUENCE}"),
            );
            return None;
        }
        return ip_block::convert(block, &at.field("ipBlock"), report).map(Peer::IpBlock);
    }
    if pods.is_none() && namespaces.is_none() {
        report.error(
            at,
            &format!("has none of {}; {CONSEQUENCE}", FIELDS.join(", ")),
        );
        return None;
    }
    let mut selector = |name, value: Option<&Value>| match value {
        None => Some(None),
        Some(value) => {
            let read = selector::convert(value, &at.field(name), CONSEQUENCE, names, report);
            read.map(Some)
        }
    };
    let pods = selector("podSelector", pods);
    let namespaces = selector("namespaceSelector", namespaces);
    Some(Peer::Pods {
        pods: pods?.unwrap_or(Selector::EVERYTHING),
        namespaces: match namespaces? {
            None => NamespaceMatch::Name(namespace.clone()),
            Some(selector) => NamespaceMatch::Labels(selector),
        },
    })
}
