//! The run directory: the socket, and the lock that keeps a second agent away.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A locked run directory. Dropping it, or ending, frees the lock.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

/// Why the run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// Another agent holds it.
    #[error("another agent runs with {}: end it, or give this one a --run-dir of its own", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made or locked.
    #[error("{}: {source}; run as root, or choose another --run-dir", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl RunDir {
    /// Makes the directory and locks it.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn lock(path: &Path) -> Result<Self, RunDirError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| RunDirError::Io { path, source }
        };
        std::fs::create_dir_all(path).map_err(error(path))?;
        let file = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(error(&file))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RunDirError::Busy {
                path: path.to_owned(),
            }),
            Err(errno) => Err(error(&file)(errno.into())),
        }
    }

    /// Path of the socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.path)
    }
}

/// Path of the socket in a run directory.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("socket")
}

/// Locks a folder that is there already.
///
/// # Errors
/// The kernel's answer; [`io::ErrorKind::WouldBlock`]: somebody else holds it.
pub fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_agent_is_refused_until_the_first_ends() {
        let path = std::env::temp_dir().join(format!("policy-agent-lock-{}", std::process::id()));
        let first = RunDir::lock(&path).expect("free");
        assert!(matches!(RunDir::lock(&path), Err(RunDirError::Busy { .. })));
        drop(first);
        assert!(RunDir::lock(&path).is_ok());
        std::fs::remove_dir_all(&path).expect("removable");
    }
}
