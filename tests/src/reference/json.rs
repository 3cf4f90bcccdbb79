//! Reading single fields of a JSON object, telling apart what the semantics tell apart.
//!
//! Go decodes a missing field and an explicit `null` alike, so both are "missing" here
//! (semantics 2: never tell `null` from `[]`). A value of another type than the API's is
//! [`NotUnderstood`]; what that means is for the caller, who must choose the closed side.

use std::collections::BTreeMap;

use serde_json::Value;

/// A field whose value the API server would have rejected, or that is newer than this evaluator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// The field's value, with `null` read as missing.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// The list in a field; missing, `null` and `[]` are all the empty list.
pub(super) fn list<'a>(object: &'a Value, name: &str) -> Result<&'a [Value], NotUnderstood> {
    match field(object, name) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(NotUnderstood),
    }
}

/// The string in a field, if there is one.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    field(object, name).and_then(Value::as_str)
}

/// The string at the end of a path of fields, if there is one.
pub(super) fn text_at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    let (last, parents) = path.split_last()?;
    let parent = parents
        .iter()
        .try_fold(object, |value, name| field(value, name))?;
    text(parent, last)
}

/// The strings of a map field; missing is the empty map.
pub(super) fn string_map(
    object: &Value,
    name: &str,
) -> Result<BTreeMap<String, String>, NotUnderstood> {
    match field(object, name) {
        None => Ok(BTreeMap::new()),
        Some(Value::Object(entries)) => entries
            .iter()
            .map(|(key, value)| match value {
                Value::String(value) => Ok((key.clone(), value.clone())),
                _ => Err(NotUnderstood),
            })
            .collect(),
        Some(_) => Err(NotUnderstood),
    }
}
