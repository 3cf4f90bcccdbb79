//! API objects to the model: the only place that knows the API's shapes.
//!
//! An object *decodes* when each field has the type that the API gives it. One
//! that decodes is converted, and what in it cannot be understood matches
//! nothing; one that does not is left to the source, which knows whether there
//! was a good version before. Nothing here widens what an object says.

mod endpoint_slice;
mod ip_block;
mod meta;
mod names;
mod namespace;
mod network_policy;
mod node;
mod path;
mod peer;
mod pod;
mod port;
mod report;
mod selector;
mod service;
#[cfg(test)]
mod tests;

use policy_core::desired::PodRef;
use policy_core::diagnostic::Diagnostic;
use policy_core::model::{NamespacedName, PolicyId};
use policy_core::store::{Key, Object};
use serde_json::Value;
use std::sync::Arc;

pub use endpoint_slice::EndpointSliceObject;
pub use names::Names;
pub use namespace::NamespaceObject;
pub use node::NodeObject;
pub use pod::PodObject;
pub use service::ServiceObject;

use meta::Meta;
use report::Report;

use crate::source::version::Version;

/// An object, converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// What it is.
    pub outcome: Outcome,
    /// What is wrong with it; `source` is for the caller to fill in.
    pub diagnostics: Vec<Diagnostic>,
    /// Which version it is, of a policy.
    pub version: Option<Version>,
}

/// What an object is for policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It decodes. What could not be understood matches nothing.
    Object(Object),
    /// It does not decode: the last good version stays in force.
    Undecodable {
        /// Which object.
        key: Key,
        /// To be put in force where there is no good version, so that what
        /// cannot be read does not leave pods open.
        fallback: Option<Object>,
    },
    /// It does not decode, and it cannot be told which object it is.
    Nameless,
    /// Policy has no use for its kind.
    Unused {
        /// `apiVersion/kind`, as the object has them.
        kind: String,
        /// Why.
        reason: Unused,
    },
}

/// Why policy has no use for a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unused {
    /// It is a policy of another API or version, which is not enforced.
    ForeignPolicy,
    /// It has nothing to do with policy.
    Unrelated,
}

/// Converts an object; the items of a list (`List`, `PodList` and so on) one by
/// one.
pub fn convert(value: &Value, names: &mut Names, each: &mut dyn FnMut(Converted)) {
    convert_as(value, None, names, each);
}

/// Converts one object of a known kind from its JSON text; what it is, is the same
/// as with [`convert`].
///
/// # Errors
/// When the text is not JSON.
pub fn convert_text(
    text: &str,
    api_version: &str,
    kind: &str,
    names: &mut Names,
) -> Result<Converted, serde_json::Error> {
    // Pods are nearly all there is to read, and several times quicker to read into
    // their own type. Whatever is wrong with one is found on the other way.
    if (api_version, kind) == ("v1", "Pod")
        && let Ok(object) = serde_json::from_str::<PodObject>(text)
        && let Some(metadata) = object.metadata()
        && let Some((meta, mut report)) = Meta::of_decoded(metadata, kind, true)
    {
        let pod = pod::convert(&object, &meta, names, &mut report);
        return Ok(report.finish(Outcome::Object(Object::Pod(Arc::new(pod)))));
    }
    let value: Value = serde_json::from_str(text)?;
    Ok(convert_one(&value, api_version, kind, names))
}

/// `inherited`: apiVersion and kind for an item of a typed list, which has none.
fn convert_as(
    value: &Value,
    inherited: Option<(&str, &str)>,
    names: &mut Names,
    each: &mut dyn FnMut(Converted),
) {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let api_version = text("apiVersion").or(inherited.map(|(version, _)| version));
    let kind = text("kind").or(inherited.map(|(_, kind)| kind));
    let Some(kind) = kind.filter(|_| value.is_object()) else {
        let mut report = Report::new("object".to_owned());
        report.error(
            "kind",
            "there is no kind, so nobody can tell what this is; \
             write apiVersion and kind",
        );
        return each(report.finish(Outcome::Nameless));
    };
    let api_version = api_version.unwrap_or_default();
    if let Some(item_kind) = kind.strip_suffix("List") {
        return match value.get("items") {
            Some(Value::Array(items)) => {
                let inherited = (!item_kind.is_empty()).then_some((api_version, item_kind));
                for item in items {
                    convert_as(item, inherited, names, each);
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => {
                let mut report = Report::new(kind.to_owned());
                report.error("items", "must be a list; none of its objects is used");
                each(report.finish(Outcome::Nameless));
            }
        };
    }
    each(convert_one(value, api_version, kind, names));
}

fn convert_one(value: &Value, api_version: &str, kind: &str, names: &mut Names) -> Converted {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => typed::<PodObject>(value, kind, names, |object, meta, names, report| {
            Object::Pod(Arc::new(pod::convert(object, meta, names, report)))
        }),
        ("", "Namespace") => {
            typed::<NamespaceObject>(value, kind, names, |object, meta, names, report| {
                let namespace = namespace::convert(object, meta, names, report);
                Object::Namespace(Arc::new(namespace))
            })
        }
        ("", "Node") => typed::<NodeObject>(value, kind, names, |object, meta, names, report| {
            Object::Node(Arc::new(node::convert(object, meta, names, report)))
        }),
        ("", "Service") => {
            typed::<ServiceObject>(value, kind, names, |object, meta, names, report| {
                Object::Service(Arc::new(service::convert(object, meta, names, report)))
            })
        }
        // Without a version it can be nothing else.
        ("" | "discovery.k8s.io", "EndpointSlice") => {
            typed::<EndpointSliceObject>(value, kind, names, |object, meta, names, report| {
                let slice = endpoint_slice::convert(object, meta, names, report);
                Object::EndpointSlice(Arc::new(slice))
            })
        }
        // As above.
        ("" | "networking.k8s.io", network_policy::KIND) => policy(value, names),
        _ => {
            let reason = if kind.ends_with("NetworkPolicy") {
                Unused::ForeignPolicy
            } else {
                Unused::Unrelated
            };
            let kind = format!("{api_version}/{kind}");
            Converted {
                outcome: Outcome::Unused {
                    kind: kind.trim_start_matches('/').to_owned(),
                    reason,
                },
                diagnostics: Vec::new(),
                version: None,
            }
        }
    }
}

/// Converts an object of a kind that decodes into one of our wire types.
fn typed<'de, T: serde::Deserialize<'de>>(
    value: &'de Value,
    kind: &str,
    names: &mut Names,
    convert: impl FnOnce(&T, &Meta, &mut Names, &mut Report) -> Object,
) -> Converted {
    let namespaced = matches!(kind, "Pod" | "Service" | "EndpointSlice");
    let (meta, mut report) = match Meta::read(value, kind, namespaced) {
        Ok(read) => read,
        Err(report) => return report.finish(Outcome::Nameless),
    };
    match serde_path_to_error::deserialize::<_, T>(value) {
        Ok(object) => {
            let object = convert(&object, &meta, names, &mut report);
            report.finish(Outcome::Object(object))
        }
        Err(error) => {
            let path = error.path().to_string();
            report.error(
                &path,
                &format!(
                    "{}; the object does not decode, so its last good version \
                     stays in force, if there was one",
                    error.inner()
                ),
            );
            let name = names.get(&meta.name);
            let namespace = names.get(&meta.namespace);
            let key = match kind {
                "Pod" => Key::Pod(PodRef { namespace, name }),
                "Service" => Key::Service(NamespacedName { namespace, name }),
                "EndpointSlice" => Key::EndpointSlice(NamespacedName { namespace, name }),
                "Node" => Key::Node(name),
                _ => Key::Namespace(name),
            };
            report.finish(Outcome::Undecodable {
                key,
                fallback: None,
            })
        }
    }
}

fn policy(value: &Value, names: &mut Names) -> Converted {
    let (meta, mut report) = match Meta::read(value, network_policy::KIND, true) {
        Ok(read) => read,
        Err(report) => return report.finish(Outcome::Nameless),
    };
    let id = PolicyId {
        kind: names.get(network_policy::KIND),
        namespace: Some(names.get(&meta.namespace)),
        name: names.get(&meta.name),
    };
    let policy = network_policy::convert(value, id.clone(), names, &mut report);
    let object = Object::Policy(Arc::new(policy));
    let outcome = if report.decodes() {
        Outcome::Object(object)
    } else {
        Outcome::Undecodable {
            key: Key::Policy(id),
            fallback: Some(object),
        }
    };
    Converted {
        version: Some(Version::of(value)),
        ..report.finish(outcome)
    }
}
