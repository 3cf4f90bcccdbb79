//! Which version of a policy a source read, as the object itself says.
//!
//! Nothing is decided by it: people ask which version is in force. It is kept
//! beside the model, so that a version that says the same changes nothing.

use std::sync::Arc;

use policy_core::model::PolicyId;
use serde_json::Value;

/// A version of an object. What the object does not say is missing: files of
/// manifests rarely say any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Version {
    /// `metadata.uid`: another object of the same name has another.
    pub uid: Option<Arc<str>>,
    /// `metadata.generation`: raised by the API server with each change of what
    /// the object asks for.
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`: another one with each change of any field.
    pub resource_version: Option<Arc<str>>,
}

impl Version {
    /// What the object says. Fields of wrong types are missing ones.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(Arc::from);
        Self {
            uid: text("uid"),
            generation: metadata.get("generation").and_then(Value::as_i64),
            resource_version: text("resourceVersion"),
        }
    }
}

/// What a source tells of a policy's version, together with its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// What this version says is in the events.
    Taken(Version),
    /// This version cannot be understood; the one before stays.
    Refused(Version),
    /// The policy is gone.
    Gone,
}

/// News of versions, in the order in which they were read.
pub type Versions = Vec<(PolicyId, Told)>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn version_is_what_the_metadata_says_and_nothing_where_it_is_silent_or_wrong() {
        let object = json!({"metadata": {
            "uid": "u-1", "generation": 4, "resourceVersion": "1234",
        }});
        let version = Version {
            uid: Some("u-1".into()),
            generation: Some(4),
            resource_version: Some("1234".into()),
        };
        assert_eq!(Version::of(&object), version);
        for silent in [
            json!({}),
            json!({"metadata": {}}),
            json!({"metadata": {"uid": 1, "generation": "4", "resourceVersion": 7}}),
            json!(null),
        ] {
            assert_eq!(Version::of(&silent), Version::default(), "{silent}");
        }
    }
}
