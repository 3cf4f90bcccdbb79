//! Objects from a folder of files: what an API server is to a cluster.
//!
//! ```text
//! walk -> file -> Scan -> ManifestState -> events for the store
//!   ^------- watch (says when to look again)
//! ```
//!
//! Whatever cannot be read changes nothing of what is in force: see `state`.
//! Times and retries are here and in `watch`; what objects mean is `convert`'s.

mod documents;
mod file;
mod inode;
mod json;
mod links;
mod scan;
mod state;
#[cfg(test)]
mod tests;
mod versions;
mod walk;
mod watch;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::store::SourceEvent;

use crate::source::version::Versions;
pub(crate) use file::{Text, read as read_file};
pub(crate) use inode::Stamp;
use scan::{Scan, Scanner};
use state::ManifestState;
use watch::Watch;

/// What a look at the folder brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// What is different since the last look; to be applied as one change.
    pub events: Vec<SourceEvent>,
    /// Which versions of policies these are, as far as that is different.
    pub versions: Versions,
    /// Everything that is wrong now, sorted.
    pub diagnostics: Vec<Diagnostic>,
    /// Something could not be read or understood, and may hold any object: what
    /// is missing is not certain to be gone.
    pub partial: bool,
}

/// Reads files and folders once, for commands that need no agent.
pub fn read(paths: &[PathBuf]) -> Update {
    Manifests::new(paths.to_vec()).rescan()
}

/// How often files are looked at without being told, at most, in seconds: file
/// systems on a network tell nothing.
const UNTOLD_SECS: u64 = 10;
/// The same while a folder cannot be watched or is not there.
const UNWATCHED_MILLIS: u64 = 250;
/// Where it cannot be told whether a file is being written, one that changed this
/// shortly ago is looked at again before it is believed, in milliseconds: files
/// are stamped with a clock that may be 10 ms late (100 ticks a second).
const YOUNG_MILLIS: u64 = 15;
/// How much later that is, in milliseconds: most often enough for the kernel to
/// tell of a write that shows already.
const SECOND_THOUGHT_MILLIS: u64 = 2;
/// Looks in a row while files or folders change under the eyes.
const LOOKS: usize = 4;

/// Files and folders that are read again and again.
#[derive(Debug)]
pub struct Manifests {
    roots: Vec<PathBuf>,
    scanner: Scanner,
    state: ManifestState,
    watch: Option<Watch>,
    /// Why not everything is watched, if so.
    unwatched: Option<String>,
    /// A root could not be read in the last look.
    root_missing: bool,
}

impl Manifests {
    /// Files and folders, not read yet and not watched.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self {
            roots,
            scanner: Scanner::new(),
            state: ManifestState::new(),
            watch: None,
            unwatched: None,
            root_missing: false,
        }
    }

    /// The same, watched: [`Self::changed`] is quick. Needs a tokio runtime with
    /// I/O. Where the kernel refuses, files are looked at every now and then, and
    /// the diagnostics say so.
    pub fn watched(roots: Vec<PathBuf>) -> Self {
        let mut manifests = Self::new(roots);
        match Watch::new() {
            Ok(watch) => manifests.watch = Some(watch),
            Err(error) => manifests.unwatched = Some(error.to_string()),
        }
        manifests
    }

    /// Looks at everything now. What was complete on disk before the call is in
    /// the events of this or an earlier update. Blocks on the disk.
    pub fn rescan(&mut self) -> Update {
        let (mut scan, mut again) = self.look();
        for _ in 1..LOOKS {
            if !again {
                break;
            }
            (scan, again) = self.look();
        }
        self.root_missing = scan.root_missing();
        let mut update = self.state.update(&scan);
        update.partial = scan.is_partial();
        if let Some(reason) = &self.unwatched {
            let message = format!(
                "changes are noticed late, because the folder cannot be watched ({reason}); \
                 raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"
            );
            let roots = self.roots.iter();
            update.diagnostics.extend(roots.map(|root| Diagnostic {
                object: root.display().to_string(),
                source: None,
                path: String::new(),
                severity: Severity::Warning,
                message: message.clone(),
            }));
            update.diagnostics.sort();
        }
        update
    }

    /// Drops what is kept of objects that are gone.
    pub fn prune(&mut self) {
        self.scanner.prune();
    }

    /// One look, and whether another is called for already.
    fn look(&mut self) -> (Scan, bool) {
        let Some(watch) = &mut self.watch else {
            return (self.scanner.scan(&self.roots, &mut |_| false), false);
        };
        watch.begin();
        let mut is_written = |inode| watch.is_written(inode);
        let mut scan = self.scanner.scan(&self.roots, &mut is_written);
        // A new folder is watched before it is believed.
        let (is_new, result) = watch.watch(&scan.interests);
        self.unwatched = result.err().map(|error| error.to_string());
        let young = Duration::from_millis(YOUNG_MILLIS);
        if self.scanner.has_doubtful(young) {
            std::thread::sleep(Duration::from_millis(SECOND_THOUGHT_MILLIS));
        }
        let written = watch.end();
        let is_changed = self.scanner.reconsider(&written, &mut scan);
        (scan, is_new || is_changed || watch.is_pending())
    }

    /// Returns when there may be something new: at once after a change that is
    /// complete (within milliseconds, so that changes made together are one), or
    /// after a while.
    pub async fn changed(&mut self) {
        let limit = if self.root_missing || self.unwatched.is_some() {
            Duration::from_millis(UNWATCHED_MILLIS)
        } else {
            Duration::from_secs(UNTOLD_SECS)
        };
        match &mut self.watch {
            // Elapsing is one of the two reasons to return.
            Some(watch) => drop(tokio::time::timeout(limit, watch.changed()).await),
            None => tokio::time::sleep(limit).await,
        }
    }
}
