//! One feed's events in their order: lists, the watch after them, and the version
//! at which to go on. Pure: text in, news out.

use std::collections::BTreeMap;

use policy_core::store::Key;

use super::feed::Feed;
use super::told::{Is, Listed, Told};
use super::wire::{self, Event, Refusal};
use crate::source::convert::{Names, Outcome, convert_text};

/// Where a feed is in its story.
#[derive(Debug)]
pub(super) struct Follower {
    feed: Feed,
    /// The list that has begun.
    list: Option<BTreeMap<Key, Listed>>,
    /// The version up to which everything is known.
    version: Option<String>,
    /// The last object of the watch, which has a newer one; read only when needed.
    last: String,
    /// How many objects the last complete list had.
    listed: usize,
}

/// Why a stream cannot be followed any further.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is not what an API server sends.
    Garbage(String),
    /// The server ends it.
    Refused(Refusal),
    /// The server does not know lists that are streams.
    NoList,
}

impl Follower {
    pub(super) fn new(feed: Feed) -> Self {
        Self {
            feed,
            list: None,
            version: None,
            last: String::new(),
            listed: 0,
        }
    }

    /// At which version a watch goes on; `None`: everything has to be listed.
    pub(super) fn version(&mut self) -> Option<&str> {
        if !self.last.is_empty() {
            self.version = wire::version(&self.last).or_else(|| self.version.take());
            self.last.clear();
        }
        self.version.as_deref()
    }

    /// The version is not to be had any more, or not to be believed.
    pub(super) fn forget(&mut self) {
        self.version = None;
        self.last.clear();
        self.list = None;
    }

    /// How many objects the last complete list had.
    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    /// Whether a list has begun and is not complete.
    pub(super) fn is_listing(&self) -> bool {
        self.list.is_some()
    }

    /// A list begins; one that had begun is forgotten.
    pub(super) fn begin(&mut self) {
        self.forget();
        self.list = Some(BTreeMap::new());
    }

    /// An object of the list that has begun.
    pub(super) fn item(&mut self, object: &str, names: &mut Names) -> Result<(), Broken> {
        let found = self.read(object, names)?;
        if let (Some(list), Some(found)) = (&mut self.list, found) {
            list.insert(found.key.clone(), found);
        }
        Ok(())
    }

    /// The list that has begun is complete.
    pub(super) fn end(&mut self, version: String) -> Told {
        self.version = Some(version);
        let list = self.list.take().unwrap_or_default();
        self.listed = list.len();
        Told::All(list.into_values().collect())
    }

    /// A line of a watch, or of a list that is a stream.
    pub(super) fn line(
        &mut self,
        line: &[u8],
        names: &mut Names,
        told: &mut Vec<Told>,
    ) -> Result<(), Broken> {
        match wire::event(line).map_err(Broken::Garbage)? {
            Event::Is(object) => {
                if self.is_listing() {
                    return self.item(object, names);
                }
                told.extend(self.read(object, names)?.map(Told::One));
                self.passed(object);
            }
            Event::Gone(object) => {
                let found = self.read(object, names)?;
                if let Some(list) = &mut self.list {
                    // It was there when the list began, and has gone since.
                    if let Some(found) = found {
                        list.remove(&found.key);
                    }
                    return Ok(());
                }
                told.extend(found.map(|found| Told::Gone(found.key)));
                self.passed(object);
            }
            Event::Bookmark { version, complete } => {
                if self.is_listing() {
                    if !complete {
                        // It took the question for one about changes only, so the
                        // list would never end.
                        return Err(Broken::NoList);
                    }
                    told.push(self.end(version));
                    return Ok(());
                }
                self.last.clear();
                self.version = Some(version);
            }
            Event::Refused(refusal) => return Err(Broken::Refused(refusal)),
        }
        Ok(())
    }

    fn passed(&mut self, object: &str) {
        self.last.clear();
        self.last.push_str(object);
    }

    /// An object; `None`: nothing is made of its kind.
    fn read(&self, object: &str, names: &mut Names) -> Result<Option<Listed>, Broken> {
        let feed = self.feed;
        let converted = convert_text(object, feed.api_version(), feed.api_kind(), names)
            .map_err(|error| Broken::Garbage(format!("an object is not JSON: {error}")))?;
        let (key, is) = match converted.outcome {
            Outcome::Object(object) => (object.key(), Is::Object(object)),
            Outcome::Undecodable { key, fallback } => (key, Is::Undecodable(fallback)),
            Outcome::Unused { .. } => return Ok(None),
            Outcome::Nameless => {
                let why = converted.diagnostics.first();
                let why = why.map(|found| format!("{}: {}", found.path, found.message));
                return Err(Broken::Garbage(format!(
                    "one of the {} has no name: {}",
                    feed.resource(),
                    why.unwrap_or_default()
                )));
            }
        };
        Ok(Some(Listed {
            key,
            is,
            diagnostics: converted.diagnostics,
            version: converted.version,
        }))
    }
}
