//! Whether anybody has a file open for writing.
//!
//! The kernel grants a read lease on a file only while nobody has it open for
//! writing (fcntl(2), "Leases"); it is given back at once. That is exact where
//! events are not: a truncation shows before its event does, on ext4 by many
//! milliseconds.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Which signal a broken lease sends (asm-generic/fcntl.h; the same number on
/// x86-64 and arm64). The crate `libc` does not have it.
const F_SETSIG: libc::c_int = 10;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writers {
    /// Nobody at this moment.
    None,
    /// Somebody.
    Some,
    /// It cannot be told: another's file without CAP_LEASE, or a file system
    /// without leases.
    Unknown,
}

/// Asks about a file that was opened for reading.
pub(super) fn of(file: &File) -> Writers {
    let fd = file.as_raw_fd();
    // Whoever opens the file for writing while the lease is held makes the kernel
    // send a signal, which must be one that does nothing: SIGIO would end us.
    // SAFETY: the descriptor is open as long as `file` lives; the command takes an
    // integer and touches no memory of ours.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } < 0 {
        return Writers::Unknown;
    }
    // SAFETY: as above.
    let lease = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) };
    if lease < 0 {
        return match io::Error::last_os_error().kind() {
            io::ErrorKind::WouldBlock => Writers::Some,
            _ => Writers::Unknown,
        };
    }
    // A failure needs no care: closing the file, which is soon, gives it back.
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    Writers::None
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_writer_is_seen_as_long_as_the_file_is_open() {
        let name = format!("policy-writers-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(of(&reader), Writers::Some);
        drop(writer);
        assert_eq!(of(&reader), Writers::None);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(of(&reader), Writers::Some);
        drop(writer);
        assert_eq!(of(&reader), Writers::None);
        std::fs::remove_file(&path).unwrap();
    }
}
