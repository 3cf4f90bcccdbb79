//! Tells when something in a folder is complete: a file closed after writing, a
//! rename, a removal. The folder may come and go; while it is not there, it is
//! looked for now and then. Async; reads nothing.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};
use tokio::time::Instant;

/// How often a folder that is not there is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// Room for events, in bytes.
const BUFFER_BYTES: usize = 4 << 10;

const EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// A folder that is watched.
#[derive(Debug)]
pub struct FolderWatch {
    path: PathBuf,
    queue: AsyncFd<OwnedFd>,
    watched: bool,
    look_at: Instant,
}

impl FolderWatch {
    /// Watches a folder that need not exist.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance.
    ///
    /// # Panics
    /// Outside a tokio runtime with its I/O driver and timer.
    pub fn new(path: &Path) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is open and always says the same number until it
        // is dropped, and it is dropped by the `AsyncFd` alone.
        let queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
        let mut watch = Self {
            path: path.to_path_buf(),
            queue,
            watched: false,
            look_at: Instant::now(),
        };
        watch.begin();
        Ok(watch)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Watches the folder if it is there; true if it is now and was not before.
    fn begin(&mut self) -> bool {
        if self.watched {
            return false;
        }
        // Whatever else is wrong with it, its reader says so.
        self.watched = inotify::add_watch(self.queue.get_ref(), &self.path, EVENTS).is_ok();
        self.watched
    }

    /// Returns when something in the folder is complete, or it has come or gone.
    ///
    /// Cancel safe: what was not told is told by the next call.
    pub async fn changed(&mut self) {
        loop {
            if self.drain() {
                return;
            }
            if self.watched {
                // An error: the runtime ends, and with it whoever waits.
                if let Ok(mut guard) = self.queue.readable().await {
                    guard.clear_ready();
                }
            } else {
                // Not a pause from now on: callers that ask again and again must
                // not put it off for ever.
                tokio::time::sleep_until(self.look_at).await;
                self.look_at = Instant::now() + LOOK;
                if self.begin() {
                    return;
                }
            }
        }
    }

    /// Takes what is waiting; whether there was anything.
    fn drain(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = Reader::new(self.queue.get_ref(), &mut space);
        let mut any = false;
        loop {
            match events.next() {
                Ok(event) => {
                    any = true;
                    let kinds = event.events();
                    let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
                    if kinds.intersects(gone) {
                        self.watched = false;
                    }
                }
                Err(Errno::INTR) => {}
                // Empty; anything else cannot happen to a queue that was opened.
                Err(_) => break,
            }
        }
        if any && !self.watched {
            // Another one may be in its place already.
            self.begin();
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn told(watch: &mut FolderWatch) {
        let told = tokio::time::timeout(LIMIT, watch.changed()).await;
        told.expect("told in time");
    }

    #[tokio::test]
    async fn a_folder_is_watched_from_its_making_to_its_end_and_again() {
        let dir = std::env::temp_dir().join(format!("cni-watch-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut watch = FolderWatch::new(&dir).expect("inotify");
        fs::create_dir(&dir).expect("a folder");
        told(&mut watch).await;
        fs::write(dir.join("a"), "x").expect("a file");
        told(&mut watch).await;
        fs::rename(dir.join("a"), dir.join("b")).expect("a file");
        told(&mut watch).await;
        fs::remove_file(dir.join("b")).expect("a file");
        told(&mut watch).await;
        fs::remove_dir(&dir).expect("an empty folder");
        told(&mut watch).await;
        fs::create_dir(&dir).expect("a folder");
        told(&mut watch).await;
        fs::write(dir.join("a"), "x").expect("a file");
        told(&mut watch).await;
        fs::remove_dir_all(&dir).expect("removable");
    }
}
