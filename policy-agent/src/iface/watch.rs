//! Tells when the interfaces must be read again. Async; reads nothing but
//! events.
//!
//! Sources, in order of speed: the kernel's events of the agent's namespace;
//! its events of all others (`NETLINK_LISTEN_ALL_NSID`, needs
//! CAP_NET_BROADCAST); changes in the folder of namespaces (inotify); and polls
//! for safety, each 5 s, or each 1 s and quickly after a change where events of
//! other namespaces are not to be had. How they are merged is `pace`'s.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    error::IfaceError,
    events::{self, Hears},
    pace::{Change, Pace, Polls, Source},
};

/// Says when a scan is due, for the network namespace of the thread that
/// created it.
///
/// Create it before the first scan, so that nothing happens unseen between.
#[derive(Debug)]
pub struct Watcher {
    own: AsyncFd<OwnedFd>,
    others: Option<AsyncFd<OwnedFd>>,
    refused: Option<IfaceError>,
    folder: Option<FolderWatch>,
    pace: Pace,
}

impl Watcher {
    /// Subscribes. With `netns_dir`, changes in that folder are told too; it
    /// need not exist yet.
    ///
    /// # Errors
    /// [`IfaceError::Call`] when the sockets cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime with its I/O driver and timer.
    pub fn new(netns_dir: Option<&Path>) -> Result<Self, IfaceError> {
        let own = register(events::open(Hears::Own)?)?;
        let (others, refused) = match events::open(Hears::Others) {
            Ok(socket) => (Some(register(socket)?), None),
            Err(error @ IfaceError::Permission { .. }) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let polls = if others.is_some() && netns_dir.is_none() {
            Polls::WITH_EVENTS
        } else {
            Polls::WITHOUT_EVENTS
        };
        Ok(Self {
            own,
            others,
            refused,
            folder: netns_dir.map(FolderWatch::new).transpose()?,
            pace: Pace::new(polls, Instant::now()),
        })
    }

    /// Why events of other namespaces are not to be had, if so: addresses that
    /// appear after their link are then found by polling.
    pub fn degraded(&self) -> Option<&IfaceError> {
        self.refused.as_ref()
    }

    /// Waits until something changed, or may have changed unseen; the first
    /// call returns at once. Give the result to
    /// [`Scanner::scan`](super::Scanner::scan).
    ///
    /// Cancel safe: what was not returned is returned by the next call.
    ///
    /// # Errors
    /// [`IfaceError::Call`] when a socket fails for good; make a new watcher.
    pub async fn changed(&mut self) -> Result<Change, IfaceError> {
        loop {
            let heard_all = self.hear()?;
            let now = Instant::now();
            if let Some(change) = self.pace.take(now) {
                if change.everything
                    && let Some(folder) = &self.folder
                {
                    folder.watch()?;
                }
                return Ok(change);
            }
            if !heard_all {
                tokio::task::yield_now().await;
                continue;
            }
            let deadline = tokio::time::Instant::from_std(self.pace.deadline(now));
            // Only woken here; what is there to read is read above.
            tokio::select! {
                woken = woken(Some(&self.own)) => woken?,
                woken = woken(self.others.as_ref()) => woken?,
                woken = woken(self.folder.as_ref().map(|folder| &folder.events)) => woken?,
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Takes note of the events that are waiting; `false` if some are left.
    fn hear(&mut self) -> Result<bool, IfaceError> {
        let pace = &mut self.pace;
        let mut all = true;
        let own = (Hears::Own, &self.own);
        let others = self.others.as_ref().map(|socket| (Hears::Others, socket));
        for (hears, socket) in std::iter::once(own).chain(others) {
            all &= events::drain(socket.as_fd(), hears, |source| pace.event(source))
                .map_err(|source| IfaceError::call("read link and address changes", source))?;
        }
        if let Some(folder) = &self.folder
            && folder.drain()?
        {
            pace.event(Source::Folder);
        }
        Ok(all)
    }
}

/// Notices files that come and go in the folder of namespaces.
#[derive(Debug)]
struct FolderWatch {
    path: PathBuf,
    events: AsyncFd<OwnedFd>,
}

impl FolderWatch {
    fn new(path: &Path) -> Result<Self, IfaceError> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| IfaceError::call("watch the namespace folder", errno.into()))?;
        let folder = Self {
            path: path.to_path_buf(),
            events: register(events)?,
        };
        folder.watch()?;
        Ok(folder)
    }

    /// Watches the folder that is there now. Called again at each poll, because
    /// it may be created, or removed and created, at any time; for a folder
    /// that is watched already it changes nothing.
    fn watch(&self) -> Result<(), IfaceError> {
        let kinds = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.events.get_ref(), &self.path, kinds) {
            // Not there, or no folder: the scan says so.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(IfaceError::NetnsDir {
                path: self.path.clone(),
                source: errno.into(),
            }),
        }
    }

    /// Discards what is waiting; `true` if there was anything. What happened is
    /// found by reading the folder.
    fn drain(&self) -> Result<bool, IfaceError> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.events.get_ref(), &mut space);
        let mut any = false;
        loop {
            match events.next() {
                Ok(_) => any = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(any),
                Err(errno) => {
                    return Err(IfaceError::call("watch the namespace folder", errno.into()));
                }
            }
        }
    }
}

fn register(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, IfaceError> {
    // SAFETY: an `OwnedFd` is open and always says the same number until it is
    // dropped, and it is dropped by the `AsyncFd` alone.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| IfaceError::call("register with the event loop", error.into()))
}

/// Waits until there may be something to read; for ever without a source.
async fn woken(source: Option<&AsyncFd<OwnedFd>>) -> Result<(), IfaceError> {
    let Some(source) = source else {
        return std::future::pending().await;
    };
    // Cleared before reading, so that what arrives meanwhile wakes again.
    source
        .readable()
        .await
        .map(|mut guard| guard.clear_ready())
        .map_err(|source| IfaceError::call("wait for link and address changes", source))
}
