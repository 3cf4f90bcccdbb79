//! Namespaces.

use policy_core::model::Namespace;
use policy_core::store::METADATA_NAME;
use serde::Deserialize;

use super::meta::{Meta, MetaObject};
use super::names::Names;
use super::report::Report;

/// The fields of a Namespace that policy needs, as they are on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceObject {
    metadata: Option<MetaObject>,
}

pub(super) fn convert(
    object: &NamespaceObject,
    meta: &Meta,
    names: &mut Names,
    report: &mut Report,
) -> Namespace {
    let name = names.get(&meta.name);
    let labels = object.metadata.as_ref().map(|m| m.labels(names));
    let mut labels = labels.unwrap_or_default();
    let written = labels.insert(names.get(METADATA_NAME), name.clone());
    if let Some(written) = written.filter(|written| *written != name) {
        report.warning(
            format!("metadata.labels[{METADATA_NAME}]"),
            &format!("{written:?} does not count: this label is always the namespace's name"),
        );
    }
    Namespace { name, labels }
}
