//! Which file it is, and which version of it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file or folder, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
}

/// A version of a file: writing to it makes another one, if the file system's
/// clock has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: Inode,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How far apart two changes must be to have two times for certain, in
/// milliseconds: the coarsest file systems count in steps of two seconds (FAT).
const COARSEST_MILLIS: u64 = 2_000;

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: Inode::of(metadata),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }

    /// Whether a change after `now` certainly makes another stamp.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        self.is_older(now, Duration::from_millis(COARSEST_MILLIS))
    }

    /// Whether the file last changed longer than `age` before `now`.
    pub(crate) fn is_older(&self, now: SystemTime, age: Duration) -> bool {
        let newest = self.changed.max(self.modified);
        let Ok(seconds) = u64::try_from(newest.0) else {
            return true;
        };
        let nanos = u32::try_from(newest.1).unwrap_or(0);
        let newest = UNIX_EPOCH + Duration::new(seconds, nanos);
        now.duration_since(newest).is_ok_and(|since| since > age)
    }
}
