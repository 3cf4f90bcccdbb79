//! From what files say to what is in force.
//!
//! Each file claims objects; an object that exactly one file claims, and that can
//! be understood, is in force. Whatever else there is leaves in force what was:
//! an object that does not decode, two files that say different things of one
//! object, a file that cannot be read or is being written, a folder that is gone.
//! Only where nothing was in force yet something has to be chosen, and that is
//! the closed side: a policy of which only the existence is certain isolates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::model::{Policy, Selector};
use policy_core::store::{Key, Kind, Object, SourceEvent};

use super::Update;
use super::file::{Claim, Contents, Definition};
use super::scan::{FileState, Scan};
use super::versions::Told;

/// What is in force, and which file said so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ManifestState {
    files: BTreeMap<PathBuf, Vec<Definition>>,
    in_force: BTreeMap<Key, Object>,
    /// A first look at every root has succeeded.
    listed: bool,
    told: Told,
}

/// Every kind that files can hold.
fn kinds() -> [Kind; 6] {
    let policy = Kind::Policy("NetworkPolicy".into());
    [
        Kind::Pod,
        Kind::Namespace,
        Kind::Node,
        Kind::Service,
        Kind::EndpointSlice,
        policy,
    ]
}

impl ManifestState {
    /// Nothing was seen yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Takes a look's findings in. Until every root could be read once there are
    /// no events, so that nobody takes half of the objects for all of them.
    pub(super) fn update(&mut self, scan: &Scan) -> Update {
        let mut diagnostics = Vec::new();
        for contents in scan.files.values().filter_map(contents) {
            diagnostics.extend(contents.diagnostics.iter().cloned());
        }
        self.files = self.claims(scan, &mut diagnostics);
        let wanted = self.resolve(&mut diagnostics);
        diagnostics.sort();
        diagnostics.dedup();
        if !self.listed && scan.root_missing() {
            return Update {
                events: Vec::new(),
                versions: Vec::new(),
                diagnostics,
                partial: true,
            };
        }
        let events = if self.listed {
            self.differences(&wanted)
        } else {
            list(&wanted)
        };
        self.listed = true;
        self.in_force = wanted;
        let versions = self
            .told
            .news(self.files.values().flatten(), &self.in_force);
        Update {
            events,
            versions,
            diagnostics,
            partial: false,
        }
    }

    /// What each file claims now; where that cannot be told, what it did.
    fn claims(
        &mut self,
        scan: &Scan,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> BTreeMap<PathBuf, Vec<Definition>> {
        let mut before = std::mem::take(&mut self.files);
        let mut now = BTreeMap::new();
        for (path, state) in &scan.files {
            let held = before.remove(path).unwrap_or_default();
            let claims = match state {
                FileState::Read(contents) => read(contents, held),
                FileState::Written => {
                    diagnostics.push(written(path));
                    stays(held)
                }
                FileState::Unreadable(reason) => {
                    diagnostics.push(unreadable(path, reason, held.len()));
                    stays(held)
                }
            };
            now.insert(path.clone(), claims);
        }
        for (path, reason) in &scan.unreadable {
            let below: Vec<PathBuf> = before
                .keys()
                .filter(|file| file.starts_with(path))
                .cloned()
                .collect();
            let mut kept = 0;
            for file in below {
                let held = stays(before.remove(&file).unwrap_or_default());
                kept += held.len();
                now.insert(file, held);
            }
            diagnostics.push(unreadable(path, reason, kept));
        }
        now
    }

    /// What is to be in force.
    fn resolve(&self, diagnostics: &mut Vec<Diagnostic>) -> BTreeMap<Key, Object> {
        let mut claims: BTreeMap<&Key, Vec<(&Path, &Claim)>> = BTreeMap::new();
        for (path, definitions) in &self.files {
            for definition in definitions {
                let of_key = claims.entry(&definition.key).or_default();
                of_key.push((path, &definition.claim));
            }
        }
        let mut wanted = BTreeMap::new();
        for (key, claims) in claims {
            let object = match claims.as_slice() {
                [(_, Claim::Is(object))] => Some(object.clone()),
                [(_, Claim::Stays(fallback))] => {
                    self.in_force.get(key).or(fallback.as_ref()).cloned()
                }
                several => self.choose(key, several, diagnostics),
            };
            wanted.extend(object.map(|object| (key.clone(), object)));
        }
        wanted
    }

    /// What is to be in force of an object that several places define.
    fn choose(
        &self,
        key: &Key,
        claims: &[(&Path, &Claim)],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Object> {
        let agreed = agreed(claims);
        let in_force = self.in_force.get(key);
        let outcome = match (&agreed, in_force, key) {
            (Some(_), _, _) => "they say the same, which is in force",
            (None, Some(_), _) => "what was in force before stays",
            (None, None, Key::Policy(_)) => {
                "it isolates the pods that it may select, and allows nothing"
            }
            (
                None,
                None,
                Key::Pod(_)
                | Key::Namespace(_)
                | Key::Node(_)
                | Key::Service(_)
                | Key::EndpointSlice(_),
            ) => "the first place that can be understood counts",
        };
        let mut files: Vec<_> = claims.iter().map(|(path, _)| path.display()).collect();
        files.dedup_by_key(|path| path.to_string());
        let places = match files.as_slice() {
            [one] => format!("{} times in {one}", claims.len()),
            several => {
                let several: Vec<_> = several.iter().map(ToString::to_string).collect();
                format!("in {}", several.join(" and in "))
            }
        };
        diagnostics.push(Diagnostic {
            object: key.to_string(),
            source: claims.first().map(|(path, _)| path.display().to_string()),
            path: "metadata.name".to_owned(),
            severity: if agreed.is_some() {
                Severity::Warning
            } else {
                Severity::Error
            },
            message: format!("it is defined {places}; {outcome}; keep one of them"),
        });
        agreed
            .or_else(|| in_force.cloned())
            .or_else(|| closed(claims))
    }

    fn differences(&self, wanted: &BTreeMap<Key, Object>) -> Vec<SourceEvent> {
        let gone = self.in_force.keys().filter(|key| !wanted.contains_key(key));
        let gone = gone.map(|key| SourceEvent::Delete(key.clone()));
        let changed = wanted
            .iter()
            .filter(|(key, object)| self.in_force.get(key) != Some(object))
            .map(|(_, object)| SourceEvent::Apply(object.clone()));
        gone.chain(changed).collect()
    }
}

/// The first list of each kind.
fn list(wanted: &BTreeMap<Key, Object>) -> Vec<SourceEvent> {
    let mut events = Vec::with_capacity(wanted.len() + 12);
    for kind in kinds() {
        let of_kind = wanted.values().filter(|object| object.kind() == kind);
        events.push(SourceEvent::Begin(kind.clone()));
        events.extend(of_kind.cloned().map(SourceEvent::Item));
        events.push(SourceEvent::End(kind));
    }
    events
}

fn contents(state: &FileState) -> Option<&Contents> {
    match state {
        FileState::Read(contents) => Some(contents),
        FileState::Written | FileState::Unreadable(_) => None,
    }
}

/// The claims of a file that was read. Objects that it held before and that may
/// be in a part that is not understood stay.
fn read(contents: &Contents, held: Vec<Definition>) -> Vec<Definition> {
    let mut claims = contents.definitions.clone();
    if contents.obscure {
        let missing = stays(held).into_iter().filter(|old| {
            let told = &contents.definitions;
            !told.iter().any(|new| new.key == old.key)
        });
        claims.extend(missing.collect::<Vec<_>>());
    }
    claims
}

/// The same objects, of which nothing new is known.
fn stays(held: Vec<Definition>) -> Vec<Definition> {
    let stay = held.into_iter().map(|definition| {
        let fallback = match definition.claim {
            Claim::Is(object) => Some(object),
            Claim::Stays(fallback) => fallback,
        };
        Definition {
            key: definition.key,
            claim: Claim::Stays(fallback),
            version: None,
        }
    });
    stay.collect()
}

fn written(path: &Path) -> Diagnostic {
    Diagnostic {
        object: path.display().to_string(),
        source: None,
        path: String::new(),
        severity: Severity::Info,
        message: "is being written; what it defined before counts until it is closed".to_owned(),
    }
}

fn unreadable(path: &Path, reason: &str, kept: usize) -> Diagnostic {
    let consequence = match kept {
        0 => "nothing of it was in force before".to_owned(),
        1 => "the object that it defined stays in force as it was".to_owned(),
        n => format!("the {n} objects that it defined stay in force as they were"),
    };
    Diagnostic {
        object: path.display().to_string(),
        source: None,
        path: String::new(),
        severity: Severity::Error,
        message: format!("cannot be read: {reason}; {consequence}"),
    }
}

/// What all claims say, if they say the same.
fn agreed(claims: &[(&Path, &Claim)]) -> Option<Object> {
    let mut objects = claims.iter().map(|(_, claim)| match claim {
        Claim::Is(object) => Some(object),
        Claim::Stays(_) => None,
    });
    let first = objects.next()??;
    objects
        .all(|other| other == Some(first))
        .then(|| first.clone())
}

/// The closed side of claims that differ.
fn closed(claims: &[(&Path, &Claim)]) -> Option<Object> {
    let mut objects = claims.iter().filter_map(|(_, claim)| match claim {
        Claim::Is(object) => Some(object),
        Claim::Stays(fallback) => fallback.as_ref(),
    });
    let first = objects.next()?;
    let Object::Policy(first_policy) = first else {
        return Some(first.clone());
    };
    let mut policy = Policy {
        ingress: first_policy.ingress.as_ref().map(|_| Vec::new()),
        egress: first_policy.egress.as_ref().map(|_| Vec::new()),
        ..(**first_policy).clone()
    };
    for object in objects {
        let Object::Policy(other) = object else {
            continue;
        };
        if other.subject != policy.subject {
            policy.subject.pods = Selector::EVERYTHING;
        }
        if other.ingress.is_some() {
            policy.ingress = Some(Vec::new());
        }
        if other.egress.is_some() {
            policy.egress = Some(Vec::new());
        }
    }
    Some(Object::Policy(Arc::new(policy)))
}
