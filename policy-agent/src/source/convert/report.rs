//! What is found wrong with one object while it is converted, and reading its
//! fields so that whatever is wrong with them is found.
//!
//! A field of another type than the API's makes the object one that does not
//! decode. `null` is a missing field, as everywhere in the API.

use std::fmt::Display;

use policy_core::diagnostic::{Diagnostic, Severity};
use serde_json::{Map, Value};

use super::path::Path;
use super::{Converted, Outcome};

/// Diagnostics that one object may have; more help nobody.
const MAX_DIAGNOSTICS: usize = 64;

/// A JSON object.
pub(super) type Fields = Map<String, Value>;

/// The field has another type than the API's, which is reported already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Malformed;

/// What is wrong with one object.
#[derive(Debug)]
pub(super) struct Report {
    object: String,
    diagnostics: Vec<Diagnostic>,
    left_out: usize,
    decodes: bool,
}

impl Report {
    /// `object`: as diagnostics name it.
    pub(super) fn new(object: String) -> Self {
        Self {
            object,
            diagnostics: Vec::new(),
            left_out: 0,
            decodes: true,
        }
    }

    /// Whether every field had the API's type so far.
    pub(super) fn decodes(&self) -> bool {
        self.decodes
    }

    pub(super) fn info(&mut self, at: impl Display, message: &str) {
        self.add(at, Severity::Info, message);
    }

    pub(super) fn warning(&mut self, at: impl Display, message: &str) {
        self.add(at, Severity::Warning, message);
    }

    pub(super) fn error(&mut self, at: impl Display, message: &str) {
        self.add(at, Severity::Error, message);
    }

    fn add(&mut self, at: impl Display, severity: Severity, message: &str) {
        if self.diagnostics.len() == MAX_DIAGNOSTICS {
            self.left_out += 1;
            return;
        }
        self.diagnostics.push(Diagnostic {
            object: self.object.clone(),
            source: None,
            path: at.to_string(),
            severity,
            message: message.to_owned(),
        });
    }

    /// The value has another type than the API's.
    pub(super) fn malformed(&mut self, at: impl Display, expected: &str, consequence: &str) {
        self.decodes = false;
        self.error(at, &format!("must be {expected}; {consequence}"));
    }

    pub(super) fn finish(mut self, outcome: Outcome) -> Converted {
        if self.left_out > 0 {
            self.diagnostics.push(Diagnostic {
                object: self.object,
                source: None,
                path: String::new(),
                severity: Severity::Error,
                message: format!("{} more of its fields are wrong", self.left_out),
            });
        }
        Converted {
            outcome,
            diagnostics: self.diagnostics,
            version: None,
        }
    }

    /// The value as an object with fields.
    pub(super) fn fields<'v>(
        &mut self,
        at: &Path<'_>,
        value: &'v Value,
        consequence: &str,
    ) -> Result<&'v Fields, Malformed> {
        value.as_object().ok_or_else(|| {
            self.malformed(at, "an object with fields", consequence);
            Malformed
        })
    }

    /// The list in a field; empty if the field is missing.
    pub(super) fn list<'v>(
        &mut self,
        at: &Path<'_>,
        fields: &'v Fields,
        name: &str,
        consequence: &str,
    ) -> Result<&'v [Value], Malformed> {
        match field(fields, name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => {
                self.malformed(at.field(name), "a list", consequence);
                Err(Malformed)
            }
        }
    }

    /// The text in a field, if it is there.
    pub(super) fn text<'v>(
        &mut self,
        at: &Path<'_>,
        fields: &'v Fields,
        name: &str,
        consequence: &str,
    ) -> Result<Option<&'v str>, Malformed> {
        match field(fields, name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => {
                self.malformed(at.field(name), "text", consequence);
                Err(Malformed)
            }
        }
    }

    /// Fields that the API does not have are ignored, as the API server drops
    /// them; but whoever wrote them meant something.
    pub(super) fn unknown_fields(&mut self, at: &Path<'_>, fields: &Fields, known: &[&str]) {
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            self.warning(
                at.field(name),
                &format!("unknown field, ignored; known here: {}", known.join(", ")),
            );
        }
    }
}

/// The value of a field; `null` is a missing one.
pub(super) fn field<'v>(fields: &'v Fields, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}
