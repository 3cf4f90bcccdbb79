//! One look at all files, which parses only what is new.
//!
//! A file whose stamp is the one of the last look is not opened again, unless it
//! was so young that a later change could have the same stamp; then its text is
//! compared. Parsing is spread over threads; the result does not depend on them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::documents::{self, Chunk, SyntaxError};
use super::file::{self, Contents, Gather, Text};
use super::inode::{Inode, Stamp};
use super::links::Interests;
use super::walk::Walk;
use super::watch::WRITING_MAX_MILLIS;
use crate::source::convert::Names;

/// Threads that parse, at most. YAML is slow to parse, and this is a start, when
/// the node is busy starting pods.
const MAX_PARSERS: usize = 4;
/// Text below which threads cost more than they bring, in bytes.
const PARALLEL_FROM_BYTES: usize = 64 << 10;
/// Parsed parts that wait for being converted; bounds memory.
const PARSED_AHEAD: usize = 64;

/// A file as one look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileState {
    /// It was read.
    Read(Arc<Contents>),
    /// Somebody is writing it: its last contents count until that is complete.
    Written,
    /// It cannot be read, and why.
    Unreadable(String),
}

/// Everything that one look found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Scan {
    /// Manifests by path.
    pub(super) files: BTreeMap<PathBuf, FileState>,
    /// Folders, and links that lead nowhere, that cannot be read, and why. What
    /// is below them is unknown, not gone.
    pub(super) unreadable: BTreeMap<PathBuf, String>,
    /// Roots among them.
    pub(super) lost_roots: Vec<PathBuf>,
    /// What to watch.
    pub(super) interests: Interests,
}

impl Scan {
    /// Whether there is anything that could not be read or understood.
    pub(super) fn is_partial(&self) -> bool {
        let is_whole = |state: &FileState| match state {
            FileState::Read(contents) => !contents.obscure,
            FileState::Written | FileState::Unreadable(_) => false,
        };
        self.root_missing() || !self.unreadable.is_empty() || !self.files.values().all(is_whole)
    }

    /// Whether a root cannot be read.
    pub(super) fn root_missing(&self) -> bool {
        !self.lost_roots.is_empty()
    }
}

/// Looks at files, and remembers what they said.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    known: HashMap<PathBuf, Known>,
    /// Files whose text was new in the last look, and whether it certainly is no
    /// half of anything.
    new: Vec<(PathBuf, bool)>,
    names: Names,
    hasher: RandomState,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// A later change makes another stamp.
    settled: bool,
    fingerprint: u64,
    contents: Arc<Contents>,
}

/// What one file needs.
enum Look {
    /// Nothing: it says what it said.
    Same(Known),
    /// To be left alone: somebody is writing it.
    Written(Option<Known>),
    /// To be parsed.
    New(NewFile),
}

/// A file that has to be parsed.
struct NewFile {
    path: PathBuf,
    stamp: Stamp,
    settled: bool,
    fingerprint: u64,
    text: String,
    is_whole: bool,
}

impl Scanner {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Drops the strings of objects that are gone.
    pub(super) fn prune(&mut self) {
        self.names.prune();
    }

    /// Looks at every file below the roots. `is_written`: somebody is writing this
    /// file right now.
    pub(super) fn scan(
        &mut self,
        roots: &[PathBuf],
        is_written: &mut dyn FnMut(Inode) -> bool,
    ) -> Scan {
        let walk = Walk::over(roots);
        let mut scan = Scan {
            lost_roots: walk.lost_roots,
            interests: walk.interests,
            ..Scan::default()
        };
        for (path, error) in walk.unreadable {
            scan.unreadable.insert(path, reason(&error));
        }
        for (path, error) in walk.not_files {
            let state = FileState::Unreadable(reason(&error));
            scan.files.insert(path, state);
        }
        let mut before = std::mem::take(&mut self.known);
        let mut new_files = Vec::new();
        self.new.clear();
        for path in walk.files {
            let state = match self.look(&path, before.remove(&path), is_written) {
                Ok(Look::Same(known)) => {
                    let state = FileState::Read(known.contents.clone());
                    self.known.insert(path.clone(), known);
                    state
                }
                Ok(Look::Written(known)) => {
                    self.known.extend(known.map(|known| (path.clone(), known)));
                    FileState::Written
                }
                Ok(Look::New(file)) => {
                    new_files.push(file);
                    continue;
                }
                // It was there a moment ago, and somebody removed it.
                Err(error) if is_gone(&error, &path) => continue,
                Err(error) => FileState::Unreadable(reason(&error)),
            };
            scan.files.insert(path, state);
        }
        let parsed = self.parse(&new_files);
        for (file, contents) in new_files.into_iter().zip(parsed) {
            let contents = Arc::new(contents);
            let state = FileState::Read(contents.clone());
            scan.files.insert(file.path.clone(), state);
            let known = Known {
                stamp: file.stamp,
                settled: file.settled,
                fingerprint: file.fingerprint,
                contents,
            };
            self.new.push((file.path.clone(), file.is_whole));
            self.known.insert(file.path, known);
        }
        scan
    }

    fn look(
        &self,
        path: &Path,
        known: Option<Known>,
        is_written: &mut dyn FnMut(Inode) -> bool,
    ) -> io::Result<Look> {
        // Before anything is read, so that no change falls between.
        let now = SystemTime::now();
        let stamp = Stamp::of(&std::fs::metadata(path)?);
        if is_written(stamp.inode()) {
            return Ok(Look::Written(known));
        }
        let known = match known {
            Some(known) if known.settled && known.stamp == stamp => return Ok(Look::Same(known)),
            other => other,
        };
        let idle = Duration::from_millis(WRITING_MAX_MILLIS);
        let Some(file) = file::read(path, idle)? else {
            return Ok(Look::Written(known));
        };
        let Text { text, stamp, .. } = file;
        let settled = stamp.is_settled(now);
        let fingerprint = self.hasher.hash_one(&text);
        Ok(match known {
            Some(known) if known.fingerprint == fingerprint => Look::Same(Known {
                stamp,
                settled,
                ..known
            }),
            Some(_) | None => Look::New(NewFile {
                path: path.to_owned(),
                stamp,
                settled,
                fingerprint,
                text,
                is_whole: file.is_whole,
            }),
        })
    }

    /// Whether the last look read new text from a file that changed within this
    /// time, and that may be half of it.
    pub(super) fn has_doubtful(&self, age: Duration) -> bool {
        let now = SystemTime::now();
        let doubtful = self.new.iter().filter(|(_, is_whole)| !is_whole);
        let mut known = doubtful.filter_map(|(path, _)| self.known.get(path));
        known.any(|known| !known.stamp.is_older(now, age))
    }

    /// Takes back what the last look read of files that were written to meanwhile,
    /// as was told (`written`) or as their stamps show: it may be half of them.
    /// Whether there are any.
    pub(super) fn reconsider(&mut self, written: &HashSet<Inode>, scan: &mut Scan) -> bool {
        let mut any = false;
        for (path, _) in std::mem::take(&mut self.new) {
            let Some(known) = self.known.get(&path) else {
                continue;
            };
            let stamp = std::fs::metadata(&path).map(|m| Stamp::of(&m));
            let is_same = stamp.is_ok_and(|stamp| stamp == known.stamp);
            if is_same && !written.contains(&known.stamp.inode()) {
                continue;
            }
            // What was known before is forgotten with it, so that it is read again.
            self.known.remove(&path);
            scan.files.insert(path, FileState::Written);
            any = true;
        }
        any
    }

    /// The contents of each file.
    fn parse(&mut self, files: &[NewFile]) -> Vec<Contents> {
        let parts: Vec<(usize, Chunk<'_>)> = files
            .iter()
            .enumerate()
            .flat_map(|(i, file)| {
                let json = file.path.extension().is_some_and(|e| e == "json");
                let chunks = documents::chunks(&file.text, json);
                chunks.into_iter().map(move |chunk| (i, chunk))
            })
            .collect();
        let gathers = files.iter().map(|file| Gather::new(&file.path));
        let mut gathers: Vec<_> = gathers.collect();
        let names = &mut self.names;
        let chunks: Vec<_> = parts.iter().map(|(_, chunk)| *chunk).collect();
        parse_in_order(&chunks, |part, parsed| {
            let (file, chunk) = parts[part];
            gathers[file].add(names, chunk.line, parsed);
        });
        gathers.into_iter().map(Gather::finish).collect()
    }
}

type Parsed = Result<Vec<Value>, SyntaxError>;

/// Parses chunks, and hands each over in its turn.
fn parse_in_order(chunks: &[Chunk<'_>], mut each: impl FnMut(usize, Parsed)) {
    let bytes: usize = chunks.iter().map(|chunk| chunk.text.len()).sum();
    let parsers = thread::available_parallelism().map_or(1, NonZero::get);
    let parsers = parsers.min(MAX_PARSERS).min(chunks.len());
    if bytes < PARALLEL_FROM_BYTES || parsers < 2 {
        for (i, chunk) in chunks.iter().enumerate() {
            each(i, documents::parse(*chunk));
        }
        return;
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(PARSED_AHEAD);
        for _ in 0..parsers {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(chunk) = chunks.get(i) else {
                        return;
                    };
                    if sender.send((i, documents::parse(*chunk))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut turn = 0;
        for (i, parsed) in receiver {
            early.insert(i, parsed);
            while let Some(parsed) = early.remove(&turn) {
                each(turn, parsed);
                turn += 1;
            }
        }
    });
}

/// Whether nothing is at the path, not even a link that leads nowhere.
fn is_gone(error: &io::Error, path: &Path) -> bool {
    error.kind() == io::ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err()
}

/// Without the number, which means nothing to most people.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_owned()
}
