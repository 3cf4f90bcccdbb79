//! One file: from disk to definitions of objects.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::store::{Key, Object};
use rustix::fs::OFlags;
use serde_json::Value;

use super::documents::SyntaxError;
use super::inode::Stamp;
use super::writers::{self, Writers};
use crate::source::convert::{Names, Outcome, Unused, convert};
use crate::source::version::Version;

/// Largest file that is read, in bytes: a folder of manifests for 100,000 pods is
/// about a fifth of it.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What a file says about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    /// Which object.
    pub(super) key: Key,
    /// What is said of it.
    pub(super) claim: Claim,
    /// Which version of it that is; `None`: no policy, or nothing new is known.
    pub(super) version: Option<Arc<Version>>,
}

/// What a file says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is this.
    Is(Object),
    /// That cannot be understood: what was in force stays. Where there was
    /// nothing, this is put in force.
    Stays(Option<Object>),
}

/// A file's contents, understood as far as they can be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    /// Objects, in the order of the file.
    pub(super) definitions: Vec<Definition>,
    /// Part of the file cannot be understood so far that its objects could be
    /// told; any that the file defined before may be in it.
    pub(super) obscure: bool,
    /// What is wrong.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// A file's text.
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) stamp: Stamp,
    /// Nobody was writing it: it is no half of anything.
    pub(crate) is_whole: bool,
}

/// Reads a file, one version of it; `None` if somebody is writing it, and did so
/// within the time `idle`.
pub(crate) fn read(path: &Path, idle: Duration) -> io::Result<Option<Text>> {
    // A pipe with a manifest's name must not stop the agent.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let before = stamp(&file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let writers = writers::of(&file);
    let after = stamp(&file)?;
    let is_idle = after.is_older(SystemTime::now(), idle);
    if after != before || (writers == Writers::Some && !is_idle) {
        return Ok(None);
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|error| invalid(&format!("it is not text: {error}")))?;
    Ok(Some(Text {
        text,
        stamp: after,
        is_whole: writers == Writers::None,
    }))
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(invalid("it is a folder"));
    }
    if !metadata.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(invalid("it is larger than 1 GiB; split it"));
    }
    Ok(Stamp::of(&metadata))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Gathers what the documents of a file say.
pub(super) struct Gather {
    path: String,
    contents: Contents,
    unused: BTreeMap<(Unused, String), usize>,
}

impl Gather {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.display().to_string(),
            contents: Contents::default(),
            unused: BTreeMap::new(),
        }
    }

    /// Takes the documents of a part in, which begins at a line of the file.
    pub(super) fn add(
        &mut self,
        names: &mut Names,
        line: usize,
        parsed: Result<Vec<Value>, SyntaxError>,
    ) {
        let Self {
            path,
            contents,
            unused,
        } = self;
        let documents = match parsed {
            Ok(documents) => documents,
            Err(error) => {
                contents.obscure = true;
                contents.diagnostics.push(Diagnostic {
                    object: path.clone(),
                    source: None,
                    path: format!("line {}", error.line),
                    severity: Severity::Error,
                    message: format!(
                        "{}; what this document of the file defined before stays in force",
                        error.message
                    ),
                });
                return;
            }
        };
        for document in &documents {
            convert(document, names, &mut |converted| {
                let nameless = converted.outcome == Outcome::Nameless;
                let found = converted.diagnostics.into_iter().map(|mut diagnostic| {
                    diagnostic.source = Some(path.clone());
                    if nameless {
                        diagnostic.message += &format!(" (document at line {line})");
                    }
                    diagnostic
                });
                contents.diagnostics.extend(found);
                let version = converted.version.map(Arc::new);
                match converted.outcome {
                    Outcome::Object(object) => contents.definitions.push(Definition {
                        key: object.key(),
                        claim: Claim::Is(object),
                        version,
                    }),
                    Outcome::Undecodable { key, fallback } => {
                        contents.definitions.push(Definition {
                            key,
                            claim: Claim::Stays(fallback),
                            version,
                        });
                    }
                    Outcome::Nameless => contents.obscure = true,
                    Outcome::Unused { kind, reason } => {
                        *unused.entry((reason, kind)).or_default() += 1;
                    }
                }
            });
        }
    }

    pub(super) fn finish(mut self) -> Contents {
        for ((reason, kind), count) in self.unused {
            let (severity, why) = match reason {
                Unused::Unrelated => (Severity::Info, "ignored: policy has no use for the kind"),
                Unused::ForeignPolicy => (
                    Severity::Warning,
                    "not enforced: only networking.k8s.io/v1 NetworkPolicy is",
                ),
            };
            let objects = if count == 1 { "object" } else { "objects" };
            self.contents.diagnostics.push(Diagnostic {
                object: self.path.clone(),
                source: None,
                path: kind,
                severity,
                message: format!("{count} {objects} {why}"),
            });
        }
        self.contents.diagnostics.sort();
        self.contents
    }
}
