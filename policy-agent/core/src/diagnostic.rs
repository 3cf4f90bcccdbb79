//! Bad input as data: what is wrong, where, and how bad.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the object does what it says.
    Info,
    /// Part of the object has no effect, or less than its author may think.
    Warning,
    /// The object, or the part at `path`, could not be understood or put in force.
    Error,
}

/// Something that is wrong with an object, a file or the node.
///
/// Diagnostics order by source, so that output is stable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The object, as `Kind namespace/name`; a file's path or a part of the node
    /// where there is no object.
    pub object: String,
    /// Where it came from (a file), if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The field, for example `spec.ingress[0].from[1].ipBlock.cidr`; may be empty.
    pub path: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong and what happens because of it, or the next step.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}", self.object)?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}
