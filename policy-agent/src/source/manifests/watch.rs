//! When to look again: what the kernel tells of the folders (inotify).
//!
//! A look is called for when something is complete: a file closed after writing,
//! a rename, a link, a removal. A file that somebody is writing is known by its
//! inode until it is closed, so that no look takes half of it for the whole.
//! Events are hints: a queue that overflows only means "look".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::{Interest as Readiness, unix::AsyncFd};
use tokio::time::{Instant, timeout_at};

use super::inode::Inode;
use super::links::{Interest, Interests};

/// Quiet after which what changed is one change, in milliseconds: longer than a
/// program takes from one file to the next, shorter than anybody notices.
const DEBOUNCE_MILLIS: u64 = 5;
/// How long changes that follow each other are gathered, in milliseconds.
const DEBOUNCE_MAX_MILLIS: u64 = 50;
/// How long a file that is open for writing and not written to is waited for, in
/// milliseconds; then it counts as complete. Log writers never close.
pub(super) const WRITING_MAX_MILLIS: u64 = 1_000;
/// Room for events, in bytes: about a hundred of them.
const BUFFER_BYTES: usize = 8 << 10;

/// What calls for a look, and what tells of writing.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Events after which a file is being written, or is not any more.
const EVENTS_OF_FILES: ReadFlags = ReadFlags::MODIFY
    .union(ReadFlags::CLOSE_WRITE)
    .union(ReadFlags::MOVED_FROM)
    .union(ReadFlags::MOVED_TO)
    .union(ReadFlags::DELETE);

/// Folders that are watched.
#[derive(Debug)]
pub(super) struct Watch {
    queue: AsyncFd<OwnedFd>,
    folders: HashMap<i32, Folder>,
    /// Files that somebody is writing, by folder and name.
    writing: BTreeMap<(i32, OsString), Writing>,
    /// A look is called for.
    pending: bool,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    interest: Interest,
}

#[derive(Debug, Clone, Copy)]
struct Writing {
    inode: Inode,
    /// When the last write was seen.
    last: Instant,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    ///
    /// When the kernel gives no inotify instance (`fs.inotify.max_user_instances`).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O.
    pub(super) fn new() -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: the descriptor is open, and `OwnedFd` always answers with the same
        // one and keeps it open until it is dropped, which the `AsyncFd` does.
        let queue = unsafe { AsyncFd::register_with_interest(queue, Readiness::READABLE) }?;
        Ok(Self {
            queue,
            folders: HashMap::new(),
            writing: BTreeMap::new(),
            pending: false,
        })
    }

    /// Watches these folders and no others. Whether any of them is new, and what
    /// the kernel refused, if it did; the others are watched all the same.
    pub(super) fn watch(&mut self, interests: &Interests) -> (bool, io::Result<()>) {
        let mut wanted: HashMap<i32, Folder> = HashMap::new();
        let mut result = Ok(());
        for (path, interest) in &interests.0 {
            let watch = inotify::add_watch(
                self.queue.get_ref(),
                path.as_path(),
                EVENTS | WatchFlags::ONLYDIR,
            );
            let id = match watch {
                Ok(id) => id,
                // Gone again: its folder tells, which is watched as well.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => {
                    result = Err(error.into());
                    continue;
                }
            };
            let folder = Folder {
                path: path.clone(),
                interest: interest.clone(),
            };
            match wanted.remove(&id) {
                // Two paths to one folder.
                Some(other) => wanted.insert(id, merged(other, folder)),
                None => wanted.insert(id, folder),
            };
        }
        let is_new = wanted.keys().any(|id| !self.folders.contains_key(id));
        for id in self.folders.keys().filter(|id| !wanted.contains_key(id)) {
            // The kernel has dropped it itself if the folder is gone.
            let _gone = inotify::remove_watch(self.queue.get_ref(), *id);
        }
        self.writing.retain(|(id, _), _| wanted.contains_key(id));
        self.folders = wanted;
        (is_new, result)
    }

    /// Whether somebody is writing the file, as far as was told.
    pub(super) fn is_written(&mut self, inode: Inode) -> bool {
        self.forget_idle_writers();
        self.writing.values().any(|file| file.inode == inode)
    }

    fn forget_idle_writers(&mut self) {
        let limit = Duration::from_millis(WRITING_MAX_MILLIS);
        self.writing.retain(|_, file| file.last.elapsed() < limit);
    }

    /// A look begins: what called for one so far is answered by it.
    pub(super) fn begin(&mut self) {
        self.drain();
        self.pending = false;
    }

    /// A look ends. Files that were written to meanwhile, complete or not.
    pub(super) fn end(&mut self) -> HashSet<Inode> {
        self.drain()
    }

    /// Whether another look is called for already.
    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    /// Reads what the kernel has told so far; the files that were written to.
    fn drain(&mut self) -> HashSet<Inode> {
        let mut written = HashSet::new();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(self.queue.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()));
                    let event = (event.wd(), event.events(), name);
                    let meaning = meaning(&self.folders, event);
                    self.pending |= meaning.complete;
                    written.extend(meaning.written);
                    let Some(file) = meaning.file else {
                        continue;
                    };
                    match meaning.written.filter(|_| !meaning.complete) {
                        Some(inode) => {
                            let last = Instant::now();
                            self.writing.insert(file, Writing { inode, last });
                        }
                        None => {
                            self.writing.remove(&file);
                        }
                    }
                }
                Err(Errno::INTR) => {}
                // Empty; anything else cannot happen to a queue that was opened.
                Err(_) => return written,
            }
        }
    }

    /// Returns when a look is called for, a little after the first reason. May be
    /// dropped and called again at any time.
    pub(super) async fn changed(&mut self) {
        self.drain();
        while !self.pending {
            let idle = self.writing.values().map(|file| file.last).min();
            let idle = idle.map(|last| last + Duration::from_millis(WRITING_MAX_MILLIS));
            if self.told(idle).await {
                self.drain();
            } else {
                // A writer fell silent: what it wrote counts as complete.
                self.forget_idle_writers();
                self.pending = true;
            }
        }
        let end = Instant::now() + Duration::from_millis(DEBOUNCE_MAX_MILLIS);
        while Instant::now() < end {
            let quiet = Instant::now() + Duration::from_millis(DEBOUNCE_MILLIS);
            if self.told(Some(quiet.min(end))).await {
                self.drain();
            } else if self.writing.is_empty() {
                return;
            }
        }
    }

    /// Waits for events; false if there are none until then.
    async fn told(&self, until: Option<Instant>) -> bool {
        let ready = async {
            match self.queue.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                // The runtime is shutting down: nobody waits for the answer.
                Err(_) => std::future::pending().await,
            }
        };
        match until {
            Some(until) => timeout_at(until, ready).await.is_ok(),
            None => {
                ready.await;
                true
            }
        }
    }
}

/// What one event means.
#[derive(Debug, Default)]
struct Meaning {
    /// Something is complete: a look is called for.
    complete: bool,
    /// The file that was written to.
    written: Option<Inode>,
    /// Where that is, or was.
    file: Option<(i32, OsString)>,
}

fn meaning(
    folders: &HashMap<i32, Folder>,
    (id, events, name): (i32, ReadFlags, Option<&OsStr>),
) -> Meaning {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Meaning {
            complete: true,
            ..Meaning::default()
        };
    }
    let Some(folder) = folders.get(&id) else {
        return Meaning::default();
    };
    let Some(name) = name else {
        // The folder itself: removed, moved, or others may read it.
        return Meaning {
            complete: true,
            ..Meaning::default()
        };
    };
    let matters = match &folder.interest {
        Interest::All => true,
        Interest::Names(names) => names.contains(name),
    };
    if !matters {
        return Meaning::default();
    }
    let writes = ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE;
    let written = events.intersects(writes) && !events.contains(ReadFlags::ISDIR);
    let path = folder.path.join(name);
    let metadata = written.then(|| std::fs::metadata(path).ok()).flatten();
    Meaning {
        complete: !events.contains(ReadFlags::MODIFY),
        written: metadata.map(|metadata| Inode::of(&metadata)),
        // Rights that change tell nothing of the writing.
        file: events
            .intersects(EVENTS_OF_FILES)
            .then(|| (id, name.to_owned())),
    }
}

fn merged(one: Folder, other: Folder) -> Folder {
    let interest = match (one.interest, other.interest) {
        (Interest::Names(a), Interest::Names(b)) => {
            Interest::Names(a.into_iter().chain(b).collect::<BTreeSet<_>>())
        }
        (Interest::All, _) | (_, Interest::All) => Interest::All,
    };
    Folder {
        path: one.path,
        interest,
    }
}
